"""Running a function over blocks of a sequence, to bound its memory."""

from collections.abc import Callable

from keras import ops


def map_blocks(function: Callable, block_size: int, *arrays):
    """Apply a function to one block of tokens after the other.

    What `function` computes in between stands in memory for one block only.
    It must treat tokens alike, wherever they stand in the block.

    Args:
        function: Maps tensors (batch, block_size, ...) to a tensor (batch,
            block_size, ...).
        block_size: int. Tokens in a block. A sequence that is no longer, or
            of unknown length, is one block as it is.
        *arrays: Tensors (batch, length, ...), cut along axis 1.

    Returns:
        What `function` would give for the whole, (batch, length, ...).
    """
    length = arrays[0].shape[1]
    if length is None or length <= block_size:
        return function(*arrays)
    num_blocks = -(-length // block_size)
    blocks = [_cut(array, num_blocks, block_size) for array in arrays]
    outputs = ops.map(lambda block: function(*block), tuple(blocks))
    outputs = ops.moveaxis(outputs, 0, 1)
    shape = ops.shape(outputs)
    shape = (shape[0], num_blocks * block_size, *shape[3:])
    return ops.reshape(outputs, shape)[:, :length]


def _cut(array, num_blocks, block_size):
    """(batch, length, ...) -> (num_blocks, batch, block_size, ...)."""
    missing = num_blocks * block_size - array.shape[1]
    if missing:
        padding = [(0, 0)] * len(array.shape)
        padding[1] = (0, missing)
        array = ops.pad(array, padding)
    shape = ops.shape(array)
    shape = (shape[0], num_blocks, block_size, *shape[2:])
    return ops.moveaxis(ops.reshape(array, shape), 1, 0)
