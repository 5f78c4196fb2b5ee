"""Averages of neighbouring visual tokens."""

import keras
from keras import ops

from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.reducer import kept_count
from keras_visor.reduction.selection import keep
from keras_visor.reduction.selection import ordinals
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
        first = _first_of_block(grid_of(streams, sources), *BLOCKS[self.rate])
        index = ops.cumsum(ops.ones_like(mask, dtype="int32"), axis=1) - 1
        firsts = ops.logical_and(patches, index == first)

        batch, length, width = ops.shape(streams.vision)
        num_slots = kept_count(length, self.rate)
        slot = ops.take_along_axis(
            ordinals(firsts), ops.clip(first, 0, length - 1), axis=1
        )
        slot = ops.minimum(slot, num_slots - 1)
        slot = slot + ops.arange(batch, dtype="int32")[:, None] * num_slots
        # Whatever is no patch goes to a slot of its own, which is cut off.
        slot = ops.where(patches, slot, batch * num_slots)
        slot = ops.reshape(slot, (-1,))

        def sums(values):
            values = ops.reshape(values, (batch * length, -1))
            return ops.segment_sum(values, slot, batch * num_slots + 1)[:-1]

        total = sums(ops.cast(streams.vision, "float32"))
        count = sums(ops.ones_like(streams.vision[..., :1], dtype="float32"))
        mean = ops.reshape(
            total / ops.maximum(count, 1.0), (batch, num_slots, width)
        )
        return keep(streams, firsts, num_slots)._replace(
            vision=ops.cast(mean, streams.vision.dtype)
        )


def _first_of_block(grid, rows, columns):
    """Index of the first token of each token's block."""
    size = rows * columns
    rows = ops.where(
        grid.width == 1, size, ops.where(grid.height == 1, 1, rows)
    )
    columns = size // rows
    row = ops.minimum(grid.row // rows, ops.maximum(grid.height // rows, 1) - 1)
    column = ops.minimum(
        grid.column // columns, ops.maximum(grid.width // columns, 1) - 1
    )
    return grid.origin + row * rows * grid.stride + column * columns
