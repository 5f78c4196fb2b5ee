"""Attention over sequences long enough for the backends' faster ways."""

import numpy as np
import pytest
from keras import ops
from layer_checks import call
from layer_checks import gradients
from layer_checks import to_numpy

from keras_visor.layers.attention import FEW_SCORES
from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import attend
from keras_visor.layers.attention import attend_within

BATCH, HEADS, KEY_VALUE_HEADS, WIDTH = 2, 4, 2, 8


def draw(length, seed=0):
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(BATCH, length, HEADS, WIDTH))
    keys, values = rng.normal(size=(2, BATCH, length, KEY_VALUE_HEADS, WIDTH))
    positions = np.stack([rng.permutation(length) for _ in range(BATCH)])
    mask = rng.random((BATCH, length)) < 0.9
    return (
        query.astype("float32"),
        keys.astype("float32"),
        values.astype("float32"),
        positions.astype("int32"),
        mask,
    )


def plain_attention(query, query_positions, keys, values, positions, mask):
    """One query and one head after the other."""
    outputs = np.zeros_like(query)
    for row in range(len(query)):
        for at, position in enumerate(query_positions[row]):
            seen = mask[row] & (positions[row] <= position)
            for head in range(HEADS if seen.any() else 0):
                shared = head // (HEADS // KEY_VALUE_HEADS)
                scores = keys[row, seen, shared] @ query[row, at, head]
                weights = np.exp((scores - scores.max()) / WIDTH**0.5)
                outputs[row, at, head] = (
                    weights @ values[row, seen, shared] / weights.sum()
                )
    return outputs


# Below the threshold, over it with blocks that fit, and with a last one that
# is shorter.
@pytest.mark.parametrize("length", [300, 512, 650])
def test_a_sequence_in_any_order(length):
    query, keys, values, positions, mask = draw(length)
    attended = call(
        lambda query, **sequence: attend_within(query, Segment(**sequence)),
        query=query,
        keys=keys,
        values=values,
        positions=positions,
        mask=mask,
    )
    expected = plain_attention(query, positions, keys, values, positions, mask)
    np.testing.assert_allclose(
        to_numpy(attended)[mask], expected[mask], atol=2e-5
    )


@pytest.mark.parametrize("num_queries", [1, 130, 300])
def test_many_keys(num_queries):
    """What text reads from an image, with a query that sees nothing."""
    query, keys, values, positions, mask = draw(1100)
    assert 130 * 1100 > FEW_SCORES
    query = query[:, :num_queries]
    query_positions = np.full((BATCH, num_queries), 2000, "int32")
    query_positions[:, : num_queries // 2] = 600
    if num_queries > 1:
        query_positions[:, 0] = -1  # Sees nothing.
    attended = to_numpy(
        call(
            lambda query, query_positions, **keys: attend(
                query, query_positions, Segment(**keys)
            ),
            query=query,
            query_positions=query_positions,
            keys=keys,
            values=values,
            positions=positions,
            mask=mask,
        )
    )
    assert np.all(np.isfinite(attended))
    expected = plain_attention(
        query, query_positions, keys, values, positions, mask
    )
    sees = query_positions >= 0
    np.testing.assert_allclose(attended[sees], expected[sees], atol=2e-5)


def test_float16_stays_finite():
    query, keys, values, positions, mask = draw(600)
    mask[0] = False
    query, keys, values = (
        ops.cast(ops.convert_to_tensor(t), "float16")
        for t in (query, keys, values)
    )
    positions, mask = map(ops.convert_to_tensor, (positions, mask))
    segment = Segment(keys, values, positions, mask)
    attended = attend(query, positions, segment)
    assert np.all(np.isfinite(to_numpy(attended)))


def test_gradient_of_a_long_sequence():
    """The same as of the plain computation, which stands for itself above."""
    arrays = draw(400)
    weights = np.random.default_rng(1).normal(size=arrays[0].shape)
    *streams, positions, mask = map(ops.convert_to_tensor, arrays)
    weights = ops.cast(ops.convert_to_tensor(weights), "float32")
    weights = ops.where(mask[:, :, None, None], weights, 0.0)

    def loss(function):
        def of_streams(query, keys, values):
            segment = Segment(keys, values, positions, mask)
            return ops.sum(function(query, segment) * weights)

        return of_streams

    assert 400**2 > FEW_SCORES
    fast = gradients(loss(attend_within), streams)
    halves = gradients(
        loss(
            lambda query, segment: ops.concatenate(
                [
                    attend(query[:, part], positions[:, part], segment)
                    for part in (slice(0, 200), slice(200, 400))
                ],
                axis=1,
            )
        ),
        streams,
    )
    for gradient, expected in zip(fast, halves, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=2e-5)
