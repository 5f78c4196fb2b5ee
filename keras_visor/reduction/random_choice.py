"""Visual tokens by lot: a sanity check."""

import operator

import keras
import numpy as np
from keras import ops

from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.selection import count_tokens
from keras_visor.reduction.selection import keep_best

# How many numbers are drawn. A prime, so that a step of any length goes
# through all of them.
NUM_DRAWN = 16_381


@keras.saving.register_keras_serializable("keras_visor")
class RandomChoice(EarlyReducer):
    """Keeps randomly chosen visual tokens.

    A control that any method should beat. Which tokens are chosen depends on
    the seed and on how many visual tokens the sample has, on nothing else: it
    is the same on every backend, in every batch and in every epoch.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1.
        seed: int. Defaults to `0`.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.RandomChoice(0.5, seed=1)
    ```
    """

    def __init__(self, rate: float, seed: int = 0):
        super().__init__(rate)
        try:
            self.seed = operator.index(seed)
        except TypeError as error:
            raise TypeError(
                f"`seed` must be an integer. Received: seed={seed!r}"
            ) from error
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or more. Received: seed={seed}")

    def reduce(self, streams, sources):
        mask = ops.cast(streams.vision_mask, "bool")
        drawn = np.random.default_rng(self.seed).permutation(NUM_DRAWN)
        index = ops.cumsum(ops.ones_like(mask, dtype="int32"), axis=1)
        # Samples of another length get other tokens.
        index = (index + 97 * count_tokens(mask)) % NUM_DRAWN
        scores = ops.take(drawn.astype("float32"), index, axis=0)
        return keep_best(streams, scores, self.rate)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
