"""A budget for each tile, spent on its most attended tokens."""

import math

import keras
from keras import ops

from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.selection import keep_best
from keras_visor.reduction.selection import ranks
from keras_visor.reduction.vision_sources import grid_of

# The base tile's share of the tokens that are kept.
BASE_TILE_SHARE = 1 / 2


@keras.saving.register_keras_serializable("keras_visor")
class HiRED(EarlyReducer):
    """Gives each tile a budget, and keeps its most attended tokens.

    Follows High-Resolution Early Dropping (HiRED, arXiv 2408.10945), the
    section on its two phases, budget allocation and token dropping. Half of
    the kept tokens are the base tile's. The other half is shared out among
    the tiles of the grid by their visual content: the attention that their
    part of the picture receives in the base tile. Within a tile the most
    attended tokens are kept. Attention is that of the encoder's last block,
    the mean over queries and heads (SigLIP has no class token); the paper
    reads the visual content from an early block.

    Budgets are whole numbers, add up to `ceil(rate * n)`, and what a small
    tile cannot spend goes to the others: tokens are shared out one by one, by
    the highest averages method of Sainte-Lague. Images that share a prompt
    have a base tile each, and the same budget. Newlines go first.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.HiRED(0.5)
    ```
    """

    needs_attention = True

    def reduce(self, streams, sources):
        mask = ops.cast(streams.vision_mask, "bool")
        patches = ops.logical_and(mask, ~sources.is_newline())
        groups = _numbered(ops.where(mask, sources.tiles(), -2))
        attention = ops.cast(sources.attention, "float32")
        grid = grid_of(streams, sources)
        side = math.isqrt(sources.patches_per_tile)
        shares = _shares(grid, side, groups, attention, patches)
        place = _ranks_in_group(groups, attention)
        averages = shares / (2.0 * ops.cast(place, "float32") + 1.0)
        # Newlines stand behind every patch, however little it is looked at.
        scores = ops.where(patches, averages, -1.0)
        return keep_best(streams, scores, self.rate)


def _shares(grid, side, groups, attention, patches):
    """The share that each token's tile has, float32."""
    # The patch of the base tile that shows the same part of the picture.
    row = grid.row * side // ops.maximum(grid.height, 1)
    column = grid.column * side // ops.maximum(grid.width, 1)
    seen = ops.clip(
        grid.start + row * side + column, 0, ops.shape(groups)[1] - 1
    )
    in_grid = ops.logical_and(patches, grid.origin != grid.start)
    content = ops.where(
        in_grid, ops.take_along_axis(attention, seen, axis=1), 0.0
    )
    of_tile = ops.take_along_axis(_sums(groups, content), groups, axis=1)
    whole = ops.sum(content, axis=1, keepdims=True)
    return ops.where(
        in_grid,
        (1 - BASE_TILE_SHARE) * of_tile / ops.maximum(whole, 1e-12),
        BASE_TILE_SHARE,
    )


def _ranks_in_group(groups, scores):
    """Each token's place in its group, from the best score on, int32."""
    length = ops.shape(groups)[1]
    places = ranks(scores, ops.ones_like(groups, dtype="bool"))
    places = ops.argsort(ops.argsort(groups * length + places, axis=1), axis=1)
    sizes = _sums(groups, ops.ones_like(scores))
    first = ops.cast(ops.cumsum(sizes, axis=1) - sizes, "int32")
    return places - ops.take_along_axis(first, groups, axis=1)


def _numbered(labels):
    """The labels of each sample, numbered from 0 in ascending order."""
    order = ops.argsort(labels, axis=1)
    ordered = ops.take_along_axis(labels, order, axis=1)
    steps = ops.cast(ordered[:, 1:] != ordered[:, :-1], "int32")
    numbers = ops.pad(ops.cumsum(steps, axis=1), ((0, 0), (1, 0)))
    return ops.take_along_axis(numbers, ops.argsort(order, axis=1), axis=1)


def _sums(groups, values):
    """The sum of each group's values, float32 (batch, vision_length)."""
    batch, length = ops.shape(groups)
    rows = ops.arange(batch, dtype="int32")[:, None] * length
    sums = ops.segment_sum(
        ops.reshape(values, (-1,)),
        ops.reshape(groups + rows, (-1,)),
        batch * length,
    )
    return ops.reshape(sums, (batch, length))
