"""Where packed visual tokens came from: tiles, rows, ends of rows."""

import math
from typing import Any
from typing import NamedTuple

from keras import ops

from keras_visor.layers.streams import Streams


class VisionSources(NamedTuple):
    """What a reducer can know of the visual tokens beside the tokens.

    Attributes:
        indices: int32 tensor (batch, vision_length, 4), the backbone's
            `vision_indices`: row 0 is the newline, row `1 + tile * patches +
            patch` a patch.
        weights: float32 tensor (batch, vision_length, 4).
        patches_per_tile: int. How many features the encoder gives for a tile.
        attention: float32 tensor (batch, vision_length). How much attention
            a token received in the encoder's last block, the mean over heads
            and queries; 0 for a newline. `None` where no reducer asked.
    """

    indices: Any
    weights: Any
    patches_per_tile: int | None = None
    attention: Any = None

    def is_newline(self):
        """Which tokens end a row, bool (batch, vision_length)."""
        first, weight = self.indices[..., 0], self.weights[..., 0]
        return ops.logical_and(first == 0, weight != 0)

    def tiles(self):
        """The tile that most of a token is from, int32; -1 for a newline."""
        heaviest = ops.argmax(self.weights, axis=-1)
        row = ops.take_along_axis(
            self.indices, ops.expand_dims(heaviest, -1), axis=-1
        )[..., 0]
        return (row - 1) // self.patches_per_tile


class Grid(NamedTuple):
    """Where each visual token stands in the rows of its base tile or grid.

    An image's first tokens are its base tile, row by row; then come the rows
    of its grid of tiles, each ended by a newline, or, of one image among
    several, a single newline. Each is an int32 tensor (batch, vision_length);
    what stands at padding and newlines has no meaning.

    Attributes:
        start: Index of the first token of the token's image.
        origin: Index of the first token of its base tile or grid.
        row: Its row there.
        column: Its column there.
        height: How many rows there are.
        width: How many columns, newlines left out.
        stride: How many tokens a row has, newline included.
    """

    start: Any
    origin: Any
    row: Any
    column: Any
    height: Any
    width: Any
    stride: Any


def grid_of(streams: Streams, sources: VisionSources) -> Grid:
    """Find rows and columns of packed visual tokens."""
    mask = ops.cast(streams.vision_mask, "bool")
    index = ops.cumsum(ops.ones_like(mask, dtype="int32"), axis=1) - 1
    last = ops.max(index)
    image_ids = image_ids_of(streams)
    before = ops.pad(image_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-2)
    starts = ops.logical_and(mask, image_ids != before)
    start = _nearest_before(starts, index)
    # Padding begins where the last image ends.
    ends = ops.logical_or(ops.not_equal(image_ids, before), ~mask)
    end = _nearest_after(ends, ops.minimum(index + 1, last), last + 1)
    end = ops.where(index == last, last + 1, end)

    side = math.isqrt(sources.patches_per_tile)
    base = sources.patches_per_tile
    in_base = index - start < base
    newline = _nearest_after(sources.is_newline(), index, last + 1)
    first_newline = _at(newline, ops.minimum(start + base, last))
    stride = ops.where(in_base, side, first_newline - start - base + 1)
    stride = ops.maximum(stride, 1)
    origin = ops.where(in_base, start, start + base)
    height = ops.where(in_base, side, (end - origin) // stride)
    return Grid(
        start=start,
        origin=origin,
        row=(index - origin) // stride,
        column=(index - origin) % stride,
        height=height,
        width=ops.where(in_base, side, stride - 1),
        stride=stride,
    )


def image_ids_of(streams: Streams):
    """The image of each token, int32 (batch, vision_length), -1 at padding."""
    ids = streams.vision_image_ids
    if ids is None:  # One image a sample.
        ids = ops.zeros_like(streams.vision_positions)
    return ops.where(ops.cast(streams.vision_mask, "bool"), ids, -1)


def _nearest_before(flags, index):
    """The last flagged index that is no later than each; 0 if none."""
    order = ops.argsort(ops.where(flags, index, ops.max(index) + 1), axis=1)
    ordinal = ops.cumsum(ops.cast(flags, "int32"), axis=1) - 1
    return ops.where(ordinal < 0, 0, _at(order, ops.maximum(ordinal, 0)))


def _nearest_after(flags, index, otherwise):
    """The first flagged index from `index` on, else `otherwise`."""
    places = ops.cumsum(ops.ones_like(flags, dtype="int32"), axis=1) - 1
    count = ops.cast(flags, "int32")
    order = ops.argsort(ops.where(flags, places, otherwise), axis=1)
    earlier = ops.cumsum(count, axis=1) - count
    ordinal = _at(earlier, index)
    found = ordinal < ops.sum(count, axis=1, keepdims=True)
    nearest = _at(order, ops.minimum(ordinal, ops.max(places)))
    return ops.where(found, nearest, otherwise)


def _at(values, index):
    return ops.take_along_axis(values, index, axis=1)
