"""Visual tokens that many questions can share."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class EncodedImages:
    """The packed visual tokens of one prompt's images.

    `VisorCausalLM.encode` makes it; `generate` takes it instead of images.

    Attributes:
        tokens: Tensor (bucketed vision_length, hidden_dim), whose first
            `sum(image_lengths)` rows are visual tokens.
        image_lengths: tuple of int. Visual tokens of each image.
        indices: int32 array (bucketed vision_length, 4), where each token
            came from, for a reducer. Defaults to `None`: not known.
        weights: float32 array (bucketed vision_length, 4). As `indices`.
        attention: float32 array (bucketed vision_length,), how much
            attention each token received in the encoder. Defaults to `None`:
            not known.
    """

    tokens: Any
    image_lengths: tuple[int, ...]
    indices: Any = None
    weights: Any = None
    attention: Any = None


def is_empty(entry) -> bool:
    """Whether a sample's entry of `images` holds none."""
    return entry is None or isinstance(entry, (list, tuple)) and not entry


# The arrays that reducers go by: their name among the backbone's inputs, what
# a token has of each, and of which type.
SOURCES = {
    "indices": ("vision_indices", (4,), "int32"),
    "weights": ("vision_weights", (4,), "float32"),
    "attention": ("vision_attention", (), "float32"),
}


def stack_sources(entries: list, length: int) -> dict:
    """What reducers go by, of a batch, as far as every entry knows it.

    Args:
        entries: list of `EncodedImages`, with something else where a sample
            has no image.
        length: int. The batch's vision_length.

    Returns:
        A dict of those of `vision_indices`, `vision_weights` and
        `vision_attention` that are known, as NumPy arrays.
    """
    encoded = {
        row: entry
        for row, entry in enumerate(entries)
        if isinstance(entry, EncodedImages)
    }
    sources = {}
    for attribute, (name, shape, dtype) in SOURCES.items():
        known = {row: getattr(e, attribute) for row, e in encoded.items()}
        if any(values is None for values in known.values()):
            continue
        sources[name] = np.zeros((len(entries), length, *shape), dtype)
        for row, values in known.items():
            sources[name][row, : len(values)] = values[:length]
    return sources
