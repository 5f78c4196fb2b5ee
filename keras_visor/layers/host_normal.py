"""Random numbers drawn on the host, a block at a time."""

from collections.abc import Sequence

import keras
import ml_dtypes  # noqa: F401  Gives NumPy its bfloat16.
import numpy as np

BLOCK_SIZE = 2**20


@keras.saving.register_keras_serializable("keras_visor")
class HostNormal(keras.initializers.RandomNormal):
    """Normally distributed values, drawn by NumPy on the host.

    For large tensors: to draw one, JAX holds four to nine copies of it, which
    for a token embedding is more memory than building the rest of the model
    takes. The values differ from those of `keras.initializers.RandomNormal`,
    but are the same on every backend.

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
        rng = np.random.default_rng(self.seed)
        values = np.empty(shape, keras.backend.standardize_dtype(dtype))
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK_SIZE):
            block = flat[start : start + BLOCK_SIZE]
            block[...] = rng.normal(self.mean, self.stddev, block.size)
        return keras.ops.convert_to_tensor(values)
