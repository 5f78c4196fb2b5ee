"""Grouped-query attention that is causal by explicit position."""

from typing import Any
from typing import NamedTuple

from keras import ops

# Queries are taken in blocks of this many, so that the score matrix of a
# long joint sequence never stands in memory whole.
QUERY_BLOCK = 512

# Finite, so that a row that sees nothing gives garbage instead of NaN.
MASKED_SCORE = -1e30


class Segment(NamedTuple):
    """Keys and values that stand together, with where they stand.

    Attention over several segments is attention over their concatenation;
    keeping them apart saves copying a long cache at every decoding step.

    Attributes:
        keys: Tensor (batch, key_length, num_key_value_heads, head_dim).
        values: Tensor, of the same shape as `keys`.
        positions: int32 tensor (batch, key_length).
        mask: bool tensor (batch, key_length), False where there is no token.
    """

    keys: Any
    values: Any
    positions: Any
    mask: Any


def visible(query_positions, segment: Segment):
    """Which keys each query sees: those that exist and stand no later.

    For three tokens at positions 0, 1, 2:

        query 0: 1 0 0
        query 1: 1 1 0
        query 2: 1 1 1

    Returns:
        A bool tensor (batch, query_length, key_length).
    """
    return ops.logical_and(
        ops.expand_dims(segment.mask, 1),
        ops.expand_dims(segment.positions, 1)
        <= ops.expand_dims(query_positions, 2),
    )


def attention_weights(query, query_positions, segments: list[Segment]):
    """Softmax weights, in float32, over the keys of all segments together.

    Args:
        query: Tensor (batch, query_length, num_heads, head_dim). Consecutive
            heads share a key/value head.
        query_positions: int32 tensor (batch, query_length).
        segments: list of `Segment`.

    Returns:
        A list with one tensor a segment, (batch, num_key_value_heads,
        queries a key/value head, query_length, key_length).
    """
    num_key_value_heads = segments[0].keys.shape[2]
    num_heads, head_dim = query.shape[2:]
    batch, query_length = ops.shape(query)[:2]
    query = ops.reshape(
        query * head_dim**-0.5,
        (
            batch,
            query_length,
            num_key_value_heads,
            num_heads // num_key_value_heads,
            head_dim,
        ),
    )
    scores = []
    for segment in segments:
        score = ops.cast(
            ops.einsum("bqhgd,bkhd->bhgqk", query, segment.keys), "float32"
        )
        seen = visible(query_positions, segment)[:, None, None]
        scores.append(ops.where(seen, score, MASKED_SCORE))
    if len(scores) == 1:
        return [ops.softmax(scores[0], axis=-1)]
    weights = ops.softmax(ops.concatenate(scores, axis=-1), axis=-1)
    lengths = [ops.shape(segment.keys)[1] for segment in segments]
    parts, start = [], 0
    for length in lengths:
        parts.append(weights[..., start : start + length])
        start = start + length
    return parts


def attend(query, query_positions, segments: list[Segment]):
    """What each query reads from the segments.

    Args:
        query: Tensor (batch, query_length, num_heads, head_dim).
        query_positions: int32 tensor (batch, query_length).
        segments: list of `Segment`.

    Returns:
        A tensor of the same shape and dtype as `query`. A query that sees no
        key gets a finite value without meaning.
    """
    length = query.shape[1]
    if length is None or length <= QUERY_BLOCK:
        return _attend_block(query, query_positions, segments)
    return ops.concatenate(
        [
            _attend_block(
                query[:, start : start + QUERY_BLOCK],
                query_positions[:, start : start + QUERY_BLOCK],
                segments,
            )
            for start in range(0, length, QUERY_BLOCK)
        ],
        axis=1,
    )


def _attend_block(query, query_positions, segments):
    weights = attention_weights(query, query_positions, segments)
    attended = sum(
        ops.einsum(
            "bhgqk,bkhd->bqhgd",
            ops.cast(weight, segment.values.dtype),
            segment.values,
        )
        for weight, segment in zip(weights, segments, strict=True)
    )
    return ops.reshape(attended, ops.shape(query))


def as_mask(positions, mask=None):
    """The mask as bool; all True, in the shape of `positions`, if `None`."""
    if mask is None:
        return ops.ones_like(positions, dtype="bool")
    return ops.cast(mask, "bool")
