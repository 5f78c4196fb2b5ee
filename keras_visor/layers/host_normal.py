"""Random numbers drawn on the host, a block at a time."""

from collections.abc import Sequence

import keras
import ml_dtypes  # noqa: F401  Gives NumPy its bfloat16.
import numpy as np

from keras_visor.layers.placeholders import placeholder

BLOCK_SIZE = 2**20


@keras.saving.register_keras_serializable("keras_visor")
class HostNormal(keras.initializers.RandomNormal):
    """Normally distributed values, drawn by NumPy on the host.

    For large tensors: to draw one, JAX holds four to nine copies of it and
    TensorFlow three, which for a token embedding is more memory than building
    the rest of the model takes. NumPy fills one, which is copied to the
    backend. PyTorch draws in place and is left to it. Inside of
    `placeholders` nothing is drawn.

    Args:
        mean: float. Defaults to `0.0`.
        stddev: float. Defaults to `0.05`.
        seed: int. Defaults to `None`: drawn from Keras' global seed.

    Example:
    ```python
    keras.layers.Embedding(
        152_000, 896, embeddings_initializer=HostNormal(stddev=0.02)
    )
    ```
    """

    def __call__(self, shape: Sequence[int], dtype: str | None = None):
        values = placeholder(shape, dtype)
        if values is not None:
            return values
        if keras.backend.backend() == "torch":
            return super().__call__(shape, dtype)
        values = np.empty(shape, keras.backend.standardize_dtype(dtype))
        flat = values.reshape(-1)
        rng = np.random.default_rng(self.seed)
        for start in range(0, flat.size, BLOCK_SIZE):
            block = flat[start : start + BLOCK_SIZE]
            normal = rng.standard_normal(block.size, "float32")
            block[...] = self.mean + self.stddev * normal
        return keras.ops.convert_to_tensor(values)
