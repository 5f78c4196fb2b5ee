import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import call
from layer_checks import to_numpy

from keras_visor.layers.blocks import map_blocks
from keras_visor.layers.blocks import map_windows


@pytest.mark.parametrize("length", [3, 4, 8, 11])
def test_is_the_function_of_the_whole(length):
    rng = np.random.default_rng(length)
    first = rng.normal(size=(2, length, 3)).astype("float32")
    second = rng.normal(size=(2, length)).astype("float32")
    widest = []

    def function(first, second):
        widest.append(first.shape[1])
        return first * second[:, :, None], ops.sum(first, axis=-1)

    product, total = call(
        lambda first, second: map_blocks(function, 4, first, second),
        first=first,
        second=second,
    )
    np.testing.assert_allclose(
        to_numpy(product), first * second[:, :, None], rtol=1e-6
    )
    np.testing.assert_allclose(to_numpy(total), first.sum(-1), rtol=1e-5)
    assert max(widest) <= 4


@pytest.mark.parametrize("length", [3, 4, 8, 11])
def test_windows_see_their_neighbours(length):
    rng = np.random.default_rng(length)
    tokens = rng.normal(size=(2, length, 3)).astype("float32")
    widest = []

    def function(tokens):
        widest.append(tokens.shape[1])
        padded = ops.pad(tokens, ((0, 0), (1, 1), (0, 0)))
        return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:], -tokens

    around, negative = call(
        lambda tokens: map_windows(function, 4, 1, tokens), tokens=tokens
    )
    padded = np.pad(tokens, ((0, 0), (1, 1), (0, 0)))
    expected = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    np.testing.assert_allclose(to_numpy(around), expected, atol=1e-6)
    np.testing.assert_allclose(to_numpy(negative), -tokens)
    if keras.config.backend() == "torch":
        # A block and what its ends see.
        assert max(widest) <= 4 + 2
