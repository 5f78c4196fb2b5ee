import threading

import keras
import numpy as np
import pytest

from keras_visor.layers.host_normal import HostNormal
from keras_visor.layers.placeholders import placeholders


@pytest.fixture
def drawn(monkeypatch):
    """The shapes that `GlorotUniform` draws, in order."""
    shapes = []
    draw = keras.initializers.GlorotUniform.__call__

    def count(initializer, shape, dtype=None):
        shapes.append(tuple(shape))
        return draw(initializer, shape, dtype)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", count)
    return shapes


def layer(**kwargs):
    layer = keras.layers.Dense(4, **kwargs)
    layer.build((None, 3))
    return layer


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_nothing_is_drawn_inside(drawn):
    with placeholders():
        inside = layer()
        assert tuple(HostNormal()((2, 3)).shape) == (2, 3)
    assert not drawn
    assert tuple(inside.kernel.shape) == (3, 4)
    assert not array(inside.bias).any()
    kernel = np.arange(12, dtype="float32").reshape(3, 4)
    inside.set_weights([kernel, np.ones(4, "float32")])
    np.testing.assert_array_equal(
        array(inside(np.ones((1, 3), "float32")))[0], kernel.sum(axis=0) + 1
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_stay_apart(dtype):
    with placeholders():
        layers = [layer(dtype=dtype) for _ in range(2)]
    for number, one in enumerate(layers):
        one.kernel.assign(np.full((3, 4), number))
    for number, one in enumerate(layers):
        assert keras.backend.standardize_dtype(one.kernel.dtype) == dtype
        assert (array(one.kernel).astype("float32") == number).all()


def test_everything_is_drawn_outside(drawn):
    with pytest.raises(RuntimeError), placeholders():
        inside = layer()
        raise RuntimeError
    assert array(layer().kernel).std() > 0
    assert array(HostNormal()((2, 3))).std() > 0
    # A layer made anew from its config isn't set by anyone.
    again = keras.layers.Dense.from_config(inside.get_config())
    again.build((None, 3))
    assert array(again.kernel).std() > 0
    assert drawn == [(3, 4), (3, 4)]


def test_another_thread_draws(drawn):
    with placeholders():
        thread = threading.Thread(target=layer)
        thread.start()
        thread.join()
    assert drawn == [(3, 4)]
