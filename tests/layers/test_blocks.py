import numpy as np
import pytest
from keras import ops
from layer_checks import call
from layer_checks import to_numpy

from keras_visor.layers.blocks import map_blocks


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
