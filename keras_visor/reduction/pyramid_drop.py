"""Leaving visual tokens out in stages."""

import operator
from collections.abc import Sequence

import keras

from keras_visor.reduction.reducer import Reducer

NUM_STAGES = 4


@keras.saving.register_keras_serializable("keras_visor")
class PyramidDrop(Reducer):
    """Leaves the least attended visual tokens out, stage by stage.

    Follows PyramidDrop (arXiv 2410.17247), section "PyramidDrop": the decoder
    is cut into stages, at the end of each of which but the last a share of
    the visual tokens is kept: those to which the last token of the
    instruction attends most in the stage's last layer, the mean over its
    heads (the paper's code takes the projections of the layer after it). The
    paper has four stages and keeps half of the tokens at each.

    The stages' last layers have to look at the image whatever the budget, see
    `FastV`: of a VISOR, name some in `layers`.

    Args:
        rate: float. The share that is kept at the end of each stage, above 0
            and at most 1.
        layers: list of int. The decoder layers after which tokens are left
            out, ascending. Defaults to `None`: the last layers of all but the
            last of four stages of equal length.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.PyramidDrop(
        0.5, layers=lm.backbone.cross_attention_layers
    )
    ```
    """

    def __init__(self, rate: float, layers: Sequence[int] | None = None):
        super().__init__(rate)
        if layers is not None:
            try:
                layers = tuple(operator.index(layer) for layer in layers)
            except TypeError as error:
                raise TypeError(
                    "`layers` must be a list of decoder layers' indices. "
                    f"Received: layers={layers!r}"
                ) from error
            if not layers or list(layers) != sorted(set(layers)):
                raise ValueError(
                    "`layers` must hold decoder layers, ascending, each once. "
                    f"Received: layers={list(layers)}"
                )
        self.layers = layers

    def rates_after(self, num_layers):
        layers = self.layers
        if layers is None:
            ends = (
                num_layers * stage // NUM_STAGES - 1
                for stage in range(1, NUM_STAGES)
            )
            layers = sorted({end for end in ends if end >= 0})
        return dict.fromkeys(layers, self.rate)

    def get_config(self):
        layers = None if self.layers is None else list(self.layers)
        return {**super().get_config(), "layers": layers}
