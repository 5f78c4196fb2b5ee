"""Leaving visual tokens out after one decoder layer."""

import operator

import keras

from keras_visor.reduction.reducer import Reducer


@keras.saving.register_keras_serializable("keras_visor")
class FastV(Reducer):
    """Leaves the least attended visual tokens out after a decoder layer.

    Follows FastV (arXiv 2403.06764), section "Dynamically prune vision
    tokens": all tokens run through the first layers; of the visual ones those
    go on to which the prompt's last token attends most in the last of these
    layers, the mean over its heads (as the paper's code does; its text speaks
    of the attention from all tokens). The paper's K = 2 is `layer=1` here,
    where layers are counted from 0, and its R is `1 - rate`. An answer's
    tokens read, in each layer, what is there.

    The layer has to look at the image whatever the budget: any layer of a
    dense model, and of a VISOR a cross-attention layer (whose attention it is
    then) or a self-attention layer that is part of every budget.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1.
        layer: int. The decoder layer after which tokens are left out.
            Defaults to `1`.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.FastV(
        0.5, layer=lm.backbone.cross_attention_layers[0]
    )
    ```
    """

    def __init__(self, rate: float, layer: int = 1):
        super().__init__(rate)
        try:
            self.layer = operator.index(layer)
        except TypeError as error:
            raise TypeError(
                "`layer` must be a decoder layer's index. Received: "
                f"layer={layer!r}"
            ) from error

    def rates_after(self, num_layers):
        return {self.layer: self.rate}

    def get_config(self):
        return {**super().get_config(), "layer": self.layer}
