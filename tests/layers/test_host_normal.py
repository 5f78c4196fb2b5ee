import keras
import numpy as np
import pytest

from keras_visor.layers import host_normal
from keras_visor.layers.host_normal import HostNormal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_and_type(monkeypatch, dtype):
    # Several blocks, the last one shorter.
    monkeypatch.setattr(host_normal, "BLOCK_SIZE", 7000)
    values = HostNormal(mean=0.3, stddev=0.2, seed=1)((300, 200), dtype)
    assert keras.backend.standardize_dtype(values.dtype) == dtype
    assert tuple(values.shape) == (300, 200)
    values = keras.ops.convert_to_numpy(values).astype("float64")
    # Six standard errors of 60,000 draws.
    assert abs(values.mean() - 0.3) < 6 * 0.2 / 60_000**0.5
    assert abs(values.std() / 0.2 - 1) < 6 / 120_000**0.5
    # No block repeats another.
    assert len(np.unique(values[:, 0])) > 100


def test_keras_seed_reproduces_it():
    def draw():
        keras.utils.set_random_seed(3)
        return [
            keras.ops.convert_to_numpy(HostNormal()((4, 5))) for _ in range(2)
        ]

    first, second = draw(), draw()
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_saved_and_made_again():
    initializer = HostNormal(stddev=0.1, seed=2)
    again = keras.initializers.deserialize(
        keras.initializers.serialize(initializer)
    )
    assert isinstance(again, HostNormal)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(again((3, 2))),
        keras.ops.convert_to_numpy(initializer((3, 2))),
    )
