"""Random numbers drawn on the host, a block of rows at a time."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

# JAX joins up to sixteen arrays without an array in between.
NUM_BLOCKS = 16


@keras.saving.register_keras_serializable("keras_visor")
class HostNormal(keras.initializers.RandomNormal):
    """Normally distributed values, drawn by NumPy on the host.

    For large tensors: to draw one, JAX holds four to nine copies of it, which
    for a token embedding is more memory than building the rest of the model
    takes. This holds two. The values are not those of
    `keras.initializers.RandomNormal`, but the same on every backend.

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
        dtype = keras.backend.standardize_dtype(dtype)
        rng = np.random.default_rng(self.seed)
        rows, *rest = shape
        step = math.ceil(rows / NUM_BLOCKS)
        blocks = []
        for start in range(0, rows, step):
            size = (min(step, rows - start), *rest)
            block = rng.standard_normal(size, "float32")
            blocks.append(ops.cast(self.mean + self.stddev * block, dtype))
        return ops.concatenate(blocks)
