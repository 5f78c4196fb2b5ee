"""Every so many visual tokens: a sanity check."""

import keras
from keras import ops

from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.reducer import kept_count
from keras_visor.reduction.selection import count_tokens
from keras_visor.reduction.selection import evenly
from keras_visor.reduction.selection import keep
from keras_visor.reduction.selection import ordinals


@keras.saving.register_keras_serializable("keras_visor")
class UniformChoice(EarlyReducer):
    """Keeps evenly spaced visual tokens, the first of them included.

    Looks at nothing: a control that any method should beat.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.UniformChoice(0.5)
    ```
    """

    def reduce(self, streams, sources):
        mask = ops.cast(streams.vision_mask, "bool")
        total = count_tokens(mask)
        count = kept_count(total, self.rate)
        kept = ops.logical_and(mask, evenly(ordinals(mask), count, total))
        return keep(streams, kept, kept_count(ops.shape(mask)[1], self.rate))
