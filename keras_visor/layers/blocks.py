"""Running a function over blocks of a sequence, to bound its memory."""

from collections.abc import Callable

from keras import ops
from keras import tree

from keras_visor.layers.kernels import map_in_place
from keras_visor.layers.kernels import reserves_early
from keras_visor.layers.kernels import runs_step_by_step

# For what is computed token by token: a feed-forward network's inner states
# are several times as wide as the tokens, and would take most of the memory.
TOKEN_BLOCK = 1024


def map_blocks(function: Callable, block_size: int, *arrays):
    """Apply a function to one block of tokens after the other.

    What `function` computes in between stands in memory for one block only.
    It must treat tokens alike, wherever they stand in the block.

    Args:
        function: Maps tensors (batch, block_size, ...) to a tensor (batch,
            block_size, ...) or a tuple of such.
        block_size: int. Tokens in a block. A sequence that is no longer, or
            of unknown length, is one block as it is.
        *arrays: Tensors (batch, length, ...), cut along axis 1.

    Returns:
        What `function` would give for the whole, (batch, length, ...).
    """
    length = arrays[0].shape[1]
    if length is None or length <= block_size:
        return function(*arrays)
    if runs_step_by_step():
        return _in_turns(function, block_size, 0, arrays)
    num_blocks = -(-length // block_size)
    block_size = -(-length // num_blocks)  # Even ones need little padding.
    blocks = tuple(_cut(array, num_blocks, block_size) for array in arrays)
    if reserves_early():
        outputs = map_in_place(function, blocks)
    else:
        outputs = ops.map(lambda block: function(*block), blocks)
    return tree.map_structure(lambda o: _join(o)[:, :length], outputs)


def map_windows(function: Callable, block_size: int, margin: int, tokens):
    """`map_blocks` of a function that sees its neighbours, such as a filter.

    Only where a Python loop runs step by step: a compiler does better with
    the whole.

    Args:
        function: Maps a tensor (batch, length, ...) to a tensor (batch,
            length, ...) or a tuple of such. A token's result depends on
            `margin` tokens to either side at most, and beyond the ends are
            none.
        block_size: int. Tokens in a block.
        margin: int. Tokens to either side.
        tokens: Tensor (batch, length, ...).

    Returns:
        What `function` would give for the whole.
    """
    length = tokens.shape[1]
    if not runs_step_by_step() or length <= block_size:
        return function(tokens)
    return _in_turns(function, block_size, margin, (tokens,))


def _in_turns(function, block_size, margin, arrays):
    """A plain loop over blocks, each computed with what stands around it."""

    def compute(start):
        first = max(start - margin, 0)
        seen = (a[:, first : start + block_size + margin] for a in arrays)
        block = slice(start - first, start - first + block_size)
        return tree.map_structure(lambda t: t[:, block], function(*seen))

    starts = range(0, arrays[0].shape[1], block_size)
    return tree.map_structure(
        lambda *blocks: ops.concatenate(blocks, axis=1), *map(compute, starts)
    )


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


def _join(blocks):
    """(num_blocks, batch, block_size, ...) -> (batch, length, ...)."""
    blocks = ops.moveaxis(blocks, 0, 1)
    shape = ops.shape(blocks)
    return ops.reshape(blocks, (shape[0], shape[1] * shape[2], *shape[3:]))
