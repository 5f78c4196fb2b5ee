"""Whole tokens by their indices."""

from keras import ops


def take_tokens(tokens, indices):
    """Take tokens of each sample.

    As `ops.take_along_axis`, which on PyTorch is given an index for each
    number of a token, and takes several times as long.

    Args:
        tokens: Tensor (batch, length, width).
        indices: int32 tensor (batch, taken), from 0 to `length - 1`.

    Returns:
        A tensor (batch, taken, width).
    """
    batch, length, width = ops.shape(tokens)
    rows = indices + ops.arange(batch, dtype="int32")[:, None] * length
    return ops.take(ops.reshape(tokens, (-1, width)), rows, axis=0)
