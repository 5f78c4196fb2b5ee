"""Rematerialisation of layers that are told by Python bools what to do."""

from collections.abc import Callable


class RematerializesWithFlags:
    """Keeps Python bools out of what is recomputed.

    Stands before `keras.layers.Layer` among the bases. Within a
    `keras.RematScope`, JAX would trace the bools among a call's arguments,
    and a layer could not branch on them any more.
    """

    def rematerialized_call(self, layer_call: Callable, *args, **kwargs):
        """See `keras.layers.Layer.rematerialized_call`."""
        flags = {k: v for k, v in kwargs.items() if isinstance(v, bool)}

        def call_with_flags(*args, **kwargs):
            return layer_call(*args, **kwargs, **flags)

        recomputed = super().rematerialized_call(
            call_with_flags, *args, **kwargs
        )

        def call(*args, **kwargs):
            tensors = {k: v for k, v in kwargs.items() if k not in flags}
            return recomputed(*args, **tensors)

        return call
