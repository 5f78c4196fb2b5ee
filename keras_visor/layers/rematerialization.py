"""Rematerialisation of layers that take more than the streams."""

import functools
from collections.abc import Callable


class RematerializesStreams:
    """Lets the streams alone be arguments of what is recomputed.

    Stands before `keras.layers.Layer` among the bases of a layer whose
    positional arguments are the streams and whose keywords are positions,
    masks and Python bools. Within a `keras.RematScope`, JAX would trace the
    bools, on which the layer then could not branch, and TensorFlow would ask
    for gradients of the masks.
    """

    def rematerialized_call(self, layer_call: Callable, *args, **kwargs):
        """See `keras.layers.Layer.rematerialized_call`."""
        if kwargs.get("return_cache"):
            return layer_call  # Generation, where nothing is differentiated.
        recomputed = super().rematerialized_call(
            functools.partial(layer_call, **kwargs), *args
        )
        return lambda *args, **kwargs: recomputed(*args)
