"""Visual tokens that many questions can share."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncodedImages:
    """The packed visual tokens of one prompt's images.

    `VisorCausalLM.encode` makes it; `generate` takes it instead of images.

    Attributes:
        tokens: Tensor (bucketed vision_length, hidden_dim), whose first
            `sum(image_lengths)` rows are visual tokens.
        image_lengths: tuple of int. Visual tokens of each image.
    """

    tokens: Any
    image_lengths: tuple[int, ...]
