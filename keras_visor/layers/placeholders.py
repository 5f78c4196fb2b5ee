"""Initial values that cost next to nothing, for weights set right after."""

import contextlib
import contextvars
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import ml_dtypes  # noqa: F401  Gives NumPy its bfloat16.
import numpy as np

# The placeholders handed out so far, by shape and type; None outside of
# `placeholders`.
_shared = contextvars.ContextVar("placeholders", default=None)


@contextlib.contextmanager
def placeholders() -> Iterator[None]:
    """Inside, layers are built without drawing their large weights.

    For a model whose weights a checkpoint sets right after. Keras' default
    initializer and `HostNormal` give placeholders, whose values mean nothing:
    all these weights must be set. Others, such as those of norms and biases,
    start as always. Holds for the current thread only.

    Example:
    ```python
    with placeholders():
        layer = keras.layers.Dense(4)
        layer.build((None, 3))
    layer.set_weights([kernel, bias])
    ```
    """
    token = _shared.set({})
    try:
        # Layers ask for their default by this name.
        with keras.saving.custom_object_scope(
            {"glorot_uniform": DefaultInitializer}
        ):
            yield
    finally:
        _shared.reset(token)


def placeholder(shape: Sequence[int], dtype: str | None = None):
    """A tensor of any values inside of `placeholders`, `None` outside."""
    shared = _shared.get()
    if shared is None:
        return None
    if keras.backend.backend() == "torch" or keras.distribution.distribution():
        # On torch, no page of it exists before something is written there. A
        # distribution splits it up while it is made.
        return keras.ops.empty(shape, dtype)
    # Tensors never change here, so that one serves all weights of its shape.
    key = (tuple(shape), keras.backend.standardize_dtype(dtype))
    if key not in shared:
        # From NumPy, because JAX would compile a program for each shape.
        shared[key] = keras.ops.convert_to_tensor(np.zeros(*key))
    return shared[key]


@keras.saving.register_keras_serializable("keras_visor")
class DefaultInitializer(keras.initializers.GlorotUniform):
    """Keras' default initializer; draws nothing inside of `placeholders`."""

    def __call__(self, shape: Sequence[int], dtype: str | None = None):
        values = placeholder(shape, dtype)
        return super().__call__(shape, dtype) if values is None else values
