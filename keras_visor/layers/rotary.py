"""Rotary embedding, whose tables all layers of a decoder share."""

from typing import Any
from typing import NamedTuple

import numpy as np
from keras import ops


class Rotation(NamedTuple):
    """By how much the tokens of a sequence are turned.

    Attributes:
        cos: Tensor (batch, length, 1, head_dim / 2).
        sin: Tensor, of the same shape.
    """

    cos: Any
    sin: Any


def make_rotation(positions, head_dim, max_wavelength, dtype) -> Rotation:
    """The rotation of tokens at `positions`, int32 (batch, length)."""
    frequencies = max_wavelength ** -(np.arange(0, head_dim, 2) / head_dim)
    frequencies = ops.convert_to_tensor(frequencies, "float32")
    angles = ops.cast(positions, "float32")[:, :, None, None] * frequencies
    return Rotation(
        ops.cast(ops.cos(angles), dtype), ops.cast(ops.sin(angles), dtype)
    )


def rotate(tokens, rotation: Rotation):
    """Turn each feature of the first half against its fellow of the second.

    Args:
        tokens: Tensor (batch, length, num_heads, head_dim).
        rotation: `Rotation`.
    """
    half = tokens.shape[-1] // 2
    first, second = tokens[..., :half], tokens[..., half:]
    cos, sin = rotation
    return ops.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
