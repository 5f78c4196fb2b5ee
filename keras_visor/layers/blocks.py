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


def map_blocks(function: Callable, block_size: int, *arrays, margin: int = 0):
    """Apply a function to one block of tokens after the other.

    What `function` computes in between stands in memory for one block only.
    It must treat tokens alike, wherever they stand in the block.

    Args:
        function: Maps tensors (batch, length, ...) to a tensor (batch,
            length, ...) or a tuple of such. With a margin, it must give the
            same for tokens of zeros beyond the ends as for none, as a
            convolution does.
        block_size: int. Tokens in a block. A sequence that is no longer, or
            of unknown length, is one block as it is.
        *arrays: Tensors (batch, length, ...), cut along axis 1.
        margin: int. What a token gets may depend on as many tokens to either
            side. Defaults to 0.

    Returns:
        What `function` would give for the whole, (batch, length, ...).
    """
    length = arrays[0].shape[1]
    if length is None or length <= block_size:
        return function(*arrays)
    if runs_step_by_step():
        return _in_turns(function, block_size, margin, arrays)
    num_blocks = -(-length // block_size)
    block_size = -(-length // num_blocks)  # Even ones need little padding.

    def within_margins(*block):
        inner = slice(margin, margin + block_size)
        return tree.map_structure(lambda t: t[:, inner], function(*block))

    missing = num_blocks * block_size - length
    blocks = tuple(
        _cut(a, num_blocks, block_size, missing, margin) for a in arrays
    )
    if reserves_early():
        outputs = map_in_place(within_margins, blocks)
    else:
        outputs = ops.map(lambda block: within_margins(*block), blocks)
    return tree.map_structure(lambda o: _join(o)[:, :length], outputs)


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


def _cut(array, num_blocks, block_size, missing, margin):
    """(batch, length, ...) -> (num_blocks, batch, block_size + margins, ...).

    Margins are of the tokens beside, and of zeros beyond the ends.
    """
    if missing or margin:
        padding = [(0, 0)] * len(array.shape)
        padding[1] = (margin, missing + margin)
        array = ops.pad(array, padding)
    if margin:
        starts = range(0, num_blocks * block_size, block_size)
        size = block_size + 2 * margin
        return ops.stack([array[:, start : start + size] for start in starts])
    shape = ops.shape(array)
    shape = (shape[0], num_blocks, block_size, *shape[2:])
    return ops.moveaxis(ops.reshape(array, shape), 1, 0)


def _join(blocks):
    """(num_blocks, batch, block_size, ...) -> (batch, length, ...)."""
    blocks = ops.moveaxis(blocks, 0, 1)
    shape = ops.shape(blocks)
    return ops.reshape(blocks, (shape[0], shape[1] * shape[2], *shape[3:]))
