"""Grouped-query attention that is causal by explicit position."""

import math
from typing import Any
from typing import NamedTuple

import keras
import ml_dtypes
from keras import ops

from keras_visor.layers.blocks import map_blocks
from keras_visor.layers.kernels import fused_attention
from keras_visor.layers.kernels import fused_token_attention
from keras_visor.layers.kernels import has_fused_attention
from keras_visor.layers.kernels import prefers_fused_attention

# Up to this many scores a head, they are computed at once: as fast as a fused
# kernel, with a faster gradient.
FEW_SCORES = 2**17

# More scores than that never stand in memory whole when answering: a fused
# kernel sees to it, or queries are taken in blocks of this many. On CPUs, JAX
# is slower with more of them and long sequences, and TensorFlow with fewer.
QUERY_BLOCK = 64

# Into how many spans an ordered sequence is cut, each of which computes the
# scores up to its own end and no further.
CAUSAL_SPANS = 4

# Finite, so that a row that sees nothing gives garbage instead of NaN.
MASKED_SCORE = -1e30

# Where a token that does not exist stands: after all others.
NOWHERE = 2**31 - 1


class Segment(NamedTuple):
    """Keys and values, with where they stand.

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


class View(NamedTuple):
    """Keys and values, and which of them each query sees.

    Attributes:
        keys: Tensor (batch, key_length, num_key_value_heads, head_dim).
        values: Tensor, of the same shape as `keys`.
        addend: Tensor (batch, query_length, key_length), what is added to
            the scores: 0, or so little that nothing of a key is left.
    """

    keys: Any
    values: Any
    addend: Any


def visible(query_positions, positions, mask):
    """Which keys each query sees: those that exist and stand no later.

    For three tokens at positions 0, 1, 2:

        query 0: 1 0 0
        query 1: 1 1 0
        query 2: 1 1 1

    Args:
        query_positions: int32 tensor (batch, query_length).
        positions: int32 tensor (batch, key_length).
        mask: bool tensor (batch, key_length).

    Returns:
        A bool tensor (batch, query_length, key_length).
    """
    return ops.logical_and(
        mask[:, None], positions[:, None] <= query_positions[:, :, None]
    )


def as_addend(seen, dtype):
    """The addend of a `View`: as finite as `dtype` allows where not `seen`."""
    dtype = keras.backend.standardize_dtype(dtype)
    masked = max(MASKED_SCORE, float(ml_dtypes.finfo(dtype).min))
    return ops.cast(ops.where(seen, 0.0, masked), dtype)


def make_view(query_positions, segment: Segment) -> View:
    """A segment as queries at these positions see it."""
    seen = visible(query_positions, segment.positions, segment.mask)
    return View(
        segment.keys, segment.values, as_addend(seen, segment.keys.dtype)
    )


def attention_weights(query, views: list[View]):
    """Softmax weights, in float32, over the keys of all views together.

    Args:
        query: Tensor (batch, query_length, num_heads, head_dim). Consecutive
            heads share a key/value head.
        views: list of `View`.

    Returns:
        A list with one tensor a view, (batch, num_key_value_heads, queries a
        key/value head, query_length, key_length).
    """
    num_key_value_heads = views[0].keys.shape[2]
    batch, query_length, num_heads, head_dim = ops.shape(query)
    group = num_heads // num_key_value_heads
    # The queries of a key/value head stand below each other, so that a plain
    # matrix product serves them all.
    query = ops.reshape(
        query * head_dim**-0.5,
        (batch, query_length, num_key_value_heads, group, head_dim),
    )
    query = ops.reshape(
        ops.transpose(query, (0, 2, 3, 1, 4)),
        (batch, num_key_value_heads, group * query_length, head_dim),
    )
    scores = []
    for keys, _, addend in views:
        score = ops.matmul(query, ops.transpose(keys, (0, 2, 3, 1)))
        score = ops.reshape(
            ops.cast(score, "float32"),
            (batch, num_key_value_heads, group, query_length, -1),
        )
        scores.append(score + ops.cast(addend, "float32")[:, None, None])
    if len(scores) == 1:
        return [ops.softmax(scores[0], axis=-1)]
    weights = ops.softmax(ops.concatenate(scores, axis=-1), axis=-1)
    parts, start = [], 0
    for score in scores:
        end = start + ops.shape(score)[-1]
        parts.append(weights[..., start:end])
        start = end
    return parts


def attend(query, query_positions, segment: Segment):
    """What each query reads from a segment.

    Args:
        query: Tensor (batch, query_length, num_heads, head_dim).
        query_positions: int32 tensor (batch, query_length).
        segment: `Segment`.

    Returns:
        A tensor of the same shape and dtype as `query`. A query that sees no
        key gets a finite value without meaning.
    """
    are_few = _are_few_scores(query.shape[1], segment.keys.shape[1])
    if are_few or has_fused_attention():
        return attend_views(query, [make_view(query_positions, segment)])
    return map_blocks(
        lambda query, positions: attend_views(
            query, [make_view(positions, segment)]
        ),
        QUERY_BLOCK,
        query,
        query_positions,
    )


def attend_views(query, views: list[View]):
    """`attend` where it is known already what the queries see.

    The scores stand in memory, unless there is one view and a fused kernel.
    """
    if len(views) == 1 and has_fused_attention():
        are_few = _are_few_scores(query.shape[1], views[0].keys.shape[1])
        if prefers_fused_attention() or not are_few:
            return fused_attention(query, *views[0])
    if query.shape[1] == 1 and prefers_fused_attention():
        return fused_token_attention(query, views)
    weights = attention_weights(query, views)
    batch, heads, group, length = ops.shape(weights[0])[:4]
    attended = sum(
        ops.matmul(
            ops.reshape(
                ops.cast(weight, view.values.dtype),
                (batch, heads, group * length, ops.shape(weight)[-1]),
            ),
            ops.transpose(view.values, (0, 2, 1, 3)),
        )
        for weight, view in zip(weights, views, strict=True)
    )
    attended = ops.reshape(attended, (batch, heads, group, length, -1))
    return ops.reshape(
        ops.transpose(attended, (0, 3, 1, 2, 4)), ops.shape(query)
    )


def attend_within(query, sequence: Segment):
    """What each token of a sequence reads from it, in whichever order it is.

    A long sequence is put in order of its positions first: it is plainly
    causal then, and needs neither a mask nor scores that stand in memory.

    Args:
        query: Tensor (batch, length, num_heads, head_dim).
        sequence: `Segment`. Keys and values of the same tokens.

    Returns:
        A tensor of the shape of `query`. What a token that does not exist
        reads has no meaning.
    """
    if _are_few_scores(query.shape[1], query.shape[1]):
        return attend(query, sequence.positions, sequence)
    order = ops.argsort(
        ops.where(sequence.mask, sequence.positions, NOWHERE), axis=1
    )
    ordered = [
        _reorder(tensor, order)
        for tensor in (query, sequence.keys, sequence.values)
    ]
    return _reorder(_attend_causal(*ordered), ops.argsort(order, axis=1))


def _attend_causal(query, keys, values):
    """Token i of a sequence sees the tokens up to i."""
    if has_fused_attention():
        return fused_attention(query, keys, values, causal=True)
    batch, length = ops.shape(query)[:2]
    positions = ops.broadcast_to(
        ops.arange(length, dtype="int32"), (batch, length)
    )
    num_blocks = -(-length // QUERY_BLOCK)
    span = -(-num_blocks // CAUSAL_SPANS) * QUERY_BLOCK
    attended = []
    for start in range(0, length, span):
        end = min(start + span, length)
        seen = Segment(
            keys[:, :end],
            values[:, :end],
            positions[:, :end],
            ops.ones((batch, end), dtype="bool"),
        )
        attended.append(
            attend(query[:, start:end], positions[:, start:end], seen)
        )
    return ops.concatenate(attended, axis=1)


def _are_few_scores(query_length, key_length):
    """Unknown lengths, as TensorFlow has them while tracing, count as few."""
    if query_length is None or key_length is None:
        return True
    return query_length * key_length <= FEW_SCORES


def _reorder(tokens, order):
    """Tokens (batch, length, ...) in the order given, int32 (batch, length)."""
    batch, length = ops.shape(tokens)[:2]
    rows = ops.reshape(tokens, (batch * length, math.prod(tokens.shape[2:])))
    index = order + ops.arange(batch, dtype=order.dtype)[:, None] * length
    taken = ops.take(rows, ops.reshape(index, (-1,)), axis=0)
    return ops.reshape(taken, ops.shape(tokens))


def as_mask(positions, mask=None):
    """The mask as bool; all True, in the shape of `positions`, if `None`."""
    if mask is None:
        return ops.ones_like(positions, dtype="bool")
    return ops.cast(mask, "bool")
