"""The two streams that run through the decoder."""

from typing import Any
from typing import NamedTuple

from keras import ops


class Streams(NamedTuple):
    """Text and visual tokens, each with where it stands in the prompt.

    Attributes:
        text: Tensor (batch, text_length, hidden_dim).
        text_positions: int32 tensor (batch, text_length).
        text_mask: bool tensor (batch, text_length), False at padding.
        vision: Tensor (batch, vision_length, hidden_dim). `None`, as are the
            following, where no sample of the batch has an image.
        vision_positions: int32 tensor (batch, vision_length).
        vision_mask: bool tensor (batch, vision_length). `None`: no padding.
        vision_image_ids: int32 tensor (batch, vision_length), -1 at padding.
            `None`: one image a sample.
        reader: int32 tensor (batch,), the index of the text token by whose
            attention visual tokens are chosen, where that happens within the
            decoder. `None`: the last one that is no padding.
    """

    text: Any
    text_positions: Any
    text_mask: Any
    vision: Any = None
    vision_positions: Any = None
    vision_mask: Any = None
    vision_image_ids: Any = None
    reader: Any = None


def last_token(mask):
    """Index of the last token that is no padding; 0 if there is none.

    Args:
        mask: bool tensor (batch, length).

    Returns:
        An int32 tensor (batch,).
    """
    mask = ops.cast(mask, "int32")
    index = ops.cumsum(ops.ones_like(mask), axis=1) - 1
    return ops.max(mask * index, axis=1)
