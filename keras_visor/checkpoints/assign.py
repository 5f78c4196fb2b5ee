"""Setting a variable from blocks, without a second copy of it beside them.

The one place of this package that knows how each backend takes a tensor
without holding two: `variable.assign` wants the whole value first, and some
backends copy it again.
"""

from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np


def assign(
    variable: keras.Variable,
    blocks: Iterable[tuple[Sequence[int], np.ndarray]],
) -> None:
    """Set a variable to a value that comes in blocks.

    Args:
        variable: `keras.Variable`.
        blocks: An iterable of pairs, the index of a block's first element and
            the block. Together they cover the variable.
    """
    if keras.backend.backend() == "jax":
        # Arrays are immutable: the old one goes before the new one comes.
        variable.value.delete()
        value = np.empty(variable.shape, variable.dtype)
        for begin, block in blocks:
            value[_region(begin, block)] = block
        variable.assign(value)
        return
    for begin, block in blocks:
        rows = keras.ops.convert_to_tensor(block.astype(variable.dtype))
        if keras.backend.backend() == "torch":
            variable.value.detach()[_region(begin, block)].copy_(rows)
        else:
            _assign_in_place_tensorflow(variable, begin, rows)


def _region(begin, block):
    return tuple(map(slice, begin, np.add(begin, block.shape)))


def _assign_in_place_tensorflow(variable, begin, rows):
    import tensorflow as tf

    # `variable[...].assign(rows)` would read the whole variable first, and
    # both copies would stay in memory.
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.value.handle,
        begin=begin,
        end=np.add(begin, rows.shape),
        strides=[1] * len(begin),
        value=rows,
    )
