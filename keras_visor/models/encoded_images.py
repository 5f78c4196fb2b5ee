"""Visual tokens that many questions can share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


# Not equal by value: it holds arrays.
@dataclass(frozen=True, eq=False)
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


def image_list(entry: Any) -> Sequence | EncodedImages:
    """The images of one prompt as a list, empty where there is none.

    What is encoded already stays as it is.
    """
    if entry is None:
        return []
    if isinstance(entry, EncodedImages):
        return entry
    if isinstance(entry, (list, tuple)):
        return list(entry)
    if isinstance(entry, bytes):  # A path that went through NumPy.
        return [os.fsdecode(entry)]
    if getattr(entry, "ndim", 0) == 4 or (
        isinstance(entry, np.ndarray)
        and entry.dtype.kind in "OSU"
        and entry.ndim == 1
    ):
        return [image for one in entry for image in image_list(one)]
    return [entry]


# The arrays that reducers go by: their name among the backbone's inputs, what
# a token has of each, and of which type.
SOURCES = {
    "indices": ("vision_indices", (4,), "int32"),
    "weights": ("vision_weights", (4,), "float32"),
    "attention": ("vision_attention", (), "float32"),
}


def stack_sources(entries: list[EncodedImages], length: int) -> dict:
    """What reducers go by, of a batch, as far as every entry knows it.

    Args:
        entries: list of `EncodedImages`.
        length: int. The batch's vision_length.

    Returns:
        A dict of those of `vision_indices`, `vision_weights` and
        `vision_attention` that are known, as NumPy arrays.
    """
    sources = {}
    for attribute, (name, shape, dtype) in SOURCES.items():
        known = [getattr(entry, attribute) for entry in entries]
        if any(values is None for values in known):
            continue
        sources[name] = np.zeros((len(entries), length, *shape), dtype)
        for row, values in enumerate(known):
            sources[name][row, : len(values)] = values[:length]
    return sources
