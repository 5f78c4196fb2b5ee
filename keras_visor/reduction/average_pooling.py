"""Averages of neighbouring visual tokens."""

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_visor.layers.take_tokens import take_tokens
from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.reducer import kept_count
from keras_visor.reduction.selection import first_marked
from keras_visor.reduction.selection import keep
from keras_visor.reduction.vision_sources import grid_of

# Rows and columns of a block, by rate.
BLOCKS = {1.0: (1, 1), 0.5: (1, 2), 0.25: (2, 2)}


@keras.saving.register_keras_serializable("keras_visor")
class AveragePooling(EarlyReducer):
    """Averages the visual tokens of each block of neighbours.

    At a rate of 0.5 ("2x") a block is two neighbours in a row, at 0.25 ("4x")
    two by two. These are the nested scales of Matryoshka Multimodal Models
    (M3, arXiv 2405.17430, section 3, which pools 24 x 24 tokens by two per
    side), with a scale in between; VISOR-TR (arXiv 2603.23495, the table of
    token reduction) counts a halving of the tokens as 2x. The base tile and
    the grid of tiles of an image are pooled apart, and only in themselves.

    An odd row or column joins the last block, so that at most `rate` of the
    tokens stay. A grid of a single row or column has blocks along it. The
    newlines, which only end rows, are left out. A block stands where its
    first token stood.

    Args:
        rate: float. 0.5, 0.25, or 1 to keep everything.

    Raises:
        ValueError: The rate is another one.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.AveragePooling(0.5)
    ```
    """

    def __init__(self, rate: float):
        super().__init__(rate)
        if self.rate not in BLOCKS:
            raise ValueError(
                "`rate` of average pooling must be one of "
                f"{sorted(BLOCKS)}. Received: rate={rate}"
            )

    def reduce(self, streams, sources):
        if self.rate == 1:
            return streams
        mask = ops.cast(streams.vision_mask, "bool")
        patches = ops.logical_and(mask, ~sources.is_newline())
        rows, columns = BLOCKS[self.rate]
        blocks = _blocks_of(grid_of(streams, sources), rows, columns)
        length = ops.shape(mask)[1]
        index = ops.cumsum(ops.ones_like(mask, dtype="int32"), axis=1) - 1
        firsts = ops.logical_and(patches, index == blocks.first)
        num_slots = kept_count(length, self.rate)
        first = first_marked(firsts, num_slots)
        height, width, stride = (
            ops.maximum(ops.take_along_axis(values, first, axis=1), 1)
            for values in (blocks.height, blocks.width, blocks.stride)
        )
        count = height * width
        total = 0.0
        for member in range(_most_members(rows, columns)):
            place = first + member // width * stride + member % width
            tokens = take_tokens(streams.vision, ops.clip(place, 0, length - 1))
            total = total + ops.where(
                (member < count)[:, :, None], ops.cast(tokens, "float32"), 0.0
            )
        mean = total / ops.cast(count, "float32")[:, :, None]
        return keep(streams, firsts, num_slots)._replace(
            vision=ops.cast(mean, streams.vision.dtype)
        )


class Blocks(NamedTuple):
    """The block of each visual token, int32 tensors (batch, vision_length).

    Attributes:
        first: Index of the block's first token.
        height: How many rows it has.
        width: How many columns.
        stride: How far the tokens of a column stand apart.
    """

    first: Any
    height: Any
    width: Any
    stride: Any


def _blocks_of(grid, rows, columns):
    size = rows * columns
    rows = ops.where(
        grid.width == 1, size, ops.where(grid.height == 1, 1, rows)
    )
    columns = size // rows
    row, height = _part(grid.row, grid.height, rows)
    column, width = _part(grid.column, grid.width, columns)
    first = grid.origin + row * grid.stride + column
    return Blocks(first, height, width, grid.stride)


def _part(place, total, size):
    """First place and length of the part that a place falls in.

    Of `total` places in parts of `size`; what is left over is the last one's.
    """
    last = ops.maximum(total // size, 1) - 1
    part = ops.minimum(place // size, last)
    return part * size, ops.where(part == last, total - part * size, size)


def _most_members(rows, columns):
    """How many tokens a block can have, also in a single row or column."""
    size = rows * columns
    return max((2 * rows - 1) * (2 * columns - 1), 2 * size - 1)
