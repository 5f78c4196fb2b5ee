"""Reducers by name, as the command line takes them."""

from keras_visor.reduction.average_pooling import AveragePooling
from keras_visor.reduction.fast_v import FastV
from keras_visor.reduction.hired import HiRED
from keras_visor.reduction.pyramid_drop import PyramidDrop
from keras_visor.reduction.random_choice import RandomChoice
from keras_visor.reduction.reducer import Reducer
from keras_visor.reduction.reducer import check_rate
from keras_visor.reduction.uniform_choice import UniformChoice
from keras_visor.reduction.vis_pruner import VisPruner
from keras_visor.reduction.vision_zip import VisionZip

REDUCERS = {
    "average_pooling": AveragePooling,
    "random_choice": RandomChoice,
    "uniform_choice": UniformChoice,
    "vision_zip": VisionZip,
    "vis_pruner": VisPruner,
    "hired": HiRED,
    "fast_v": FastV,
    "pyramid_drop": PyramidDrop,
}


def reducer_from_text(text: str) -> Reducer:
    """A reducer from its name, its rate and, within the decoder, its layers.

    Args:
        text: string. "NAME:RATE", such as "vision_zip:0.25"; of FastV and
            PyramidDrop also "NAME:RATE:LAYERS", such as "fast_v:0.5:3" and
            "pyramid_drop:0.5:0,3".

    Returns:
        The `Reducer`, its other arguments at their defaults.

    Raises:
        ValueError: There is no such reducer, or no such rate.

    Example:
    ```python
    keras_visor.reduction.reducer_from_text("average_pooling:0.5")
    ```
    """
    name, _, rate = text.partition(":")
    rate, colon, layers = rate.partition(":")
    if name not in REDUCERS:
        raise ValueError(
            "A reducer must be NAME:RATE, with a name of "
            f"{sorted(REDUCERS)}. Received: {text!r}"
        )
    try:
        rate = float(rate)
    except ValueError:
        raise ValueError(
            "A reducer must be NAME:RATE, with a rate above 0 and at most 1. "
            f"Received: {text!r}"
        ) from None
    if not colon:
        return REDUCERS[name](rate)
    check_rate(rate)  # Else it would be reported as wrong layers.
    try:
        layers = [int(layer) for layer in layers.split(",")]
        if name == "fast_v":
            (layer,) = layers
            return FastV(rate, layer)
        if name == "pyramid_drop":
            return PyramidDrop(rate, layers)
    except ValueError as error:
        raise ValueError(
            "A reducer's layers must be one index (fast_v) or ascending ones "
            f"with commas between (pyramid_drop). Received: {text!r}"
        ) from error
    raise ValueError(
        "Only fast_v and pyramid_drop take NAME:RATE:LAYERS, the others "
        f"NAME:RATE. Received: {text!r}"
    )
