"""Keeping some of the visual tokens, in order, in fewer slots."""

from keras import ops

from keras_visor.layers.streams import Streams
from keras_visor.layers.take_tokens import take_tokens
from keras_visor.reduction.reducer import kept_count
from keras_visor.reduction.vision_sources import VisionSources


def keep_best(streams: Streams, scores, rate: float) -> Streams:
    """Keep, of each sample, the share of its visual tokens that scores best.

    Of n tokens `ceil(rate * n)` are kept; of equal ones the earlier.

    Args:
        streams: `Streams` with visual tokens.
        scores: float32 tensor (batch, vision_length).
        rate: float. The share that is kept.

    Returns:
        `Streams`, whose vision_length is `ceil(rate * vision_length)`.
    """
    mask = ops.cast(streams.vision_mask, "bool")
    count = kept_count(count_tokens(mask), rate)
    kept = ranks(scores, mask) < count
    return keep(streams, kept, kept_count(ops.shape(mask)[1], rate))


def keep(streams: Streams, kept, length) -> Streams:
    """Keep the visual tokens that are marked, in the first of fewer slots.

    Args:
        streams: `Streams` with visual tokens.
        kept: bool tensor (batch, vision_length), of at most `length` tokens a
            sample, none of them padding.
        length: int. How many slots there are.

    Returns:
        `Streams` with vision_length `length`.
    """
    order = first_marked(kept, length)
    mask = ops.arange(length, dtype="int32") < count_tokens(kept)
    image_ids = streams.vision_image_ids
    if image_ids is not None:
        taken = ops.take_along_axis(image_ids, order, axis=1)
        image_ids = ops.where(mask, taken, -1)
    return streams._replace(
        vision=take_tokens(streams.vision, order),
        vision_positions=ops.take_along_axis(
            streams.vision_positions, order, axis=1
        ),
        vision_mask=mask,
        vision_image_ids=image_ids,
    )


def first_marked(marked, length):
    """Indices of the marked tokens, in order, then of others.

    Args:
        marked: bool tensor (batch, vision_length).
        length: int. How many indices.

    Returns:
        An int32 tensor (batch, length).
    """
    unmarked = ops.cast(ops.logical_not(marked), "int32")
    return ops.argsort(unmarked, axis=1)[:, :length]


def ranks(scores, mask):
    """Each token's place among those of `mask`, from the best score on.

    Args:
        scores: float32 tensor (batch, vision_length).
        mask: bool tensor (batch, vision_length).

    Returns:
        An int32 tensor (batch, vision_length): 0 for the best; those that are
        not in the mask come last.
    """
    scores = ops.stop_gradient(ops.cast(scores, "float32"))
    worst_first = ops.where(mask, -scores, float("inf"))
    return ops.argsort(ops.argsort(worst_first, axis=1), axis=1)


def ordinals(mask):
    """How many tokens of the mask stand before each, int32."""
    ones = ops.cast(mask, "int32")
    return ops.cumsum(ones, axis=1) - ones


def patches_first(mask, sources: VisionSources, rate: float):
    """What there is to choose from where newlines go first.

    Args:
        mask: bool tensor (batch, vision_length).
        sources: `VisionSources`.
        rate: float. The share of all tokens that is kept.

    Returns:
        `(patches, count, newlines)`: bool tensor (batch, vision_length), the
        tokens that are no newlines; int32 tensor (batch, 1), how many of them
        are kept; and bool tensor (batch, vision_length), the newlines that
        are kept because there are too few patches.
    """
    newlines = ops.logical_and(mask, sources.is_newline())
    patches = ops.logical_and(mask, ~newlines)
    wanted = kept_count(count_tokens(mask), rate)
    count = ops.minimum(wanted, count_tokens(patches))
    kept = ops.logical_and(newlines, ordinals(newlines) < wanted - count)
    return patches, count, kept


def count_tokens(mask):
    """How many tokens each sample has, int32 (batch, 1)."""
    return ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)


def evenly(ordinal, count, total):
    """Which of `total` tokens are `count` evenly spaced ones.

    The first is one of them, if there is any.

    Args:
        ordinal: int32 tensor (batch, vision_length), from 0 to `total - 1`.
        count: int32 tensor (batch, 1).
        total: int32 tensor (batch, 1).

    Returns:
        A bool tensor (batch, vision_length).
    """
    total = ops.maximum(total, 1)
    # `ordinal * count % total`, in parts that stay within 32 bits.
    high, low = count // 256, count % 256
    place = (ordinal * high % total * 256 + ordinal * low) % total
    return place < count


def unit_vectors(tokens):
    """Tokens of length one, float32, of which no gradient is wanted."""
    tokens = ops.stop_gradient(ops.cast(tokens, "float32"))
    norm = ops.sqrt(ops.sum(ops.square(tokens), axis=-1, keepdims=True))
    return tokens / ops.maximum(norm, 1e-6)
