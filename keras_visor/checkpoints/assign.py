"""Setting a variable from blocks, without a second copy of it beside them.

The one place of this package that knows how each backend takes a tensor
without holding two: `variable.assign` wants the whole value at once, and some
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
    write = {
        "jax": _write_jax,
        "tensorflow": _write_tensorflow,
        "torch": _write_torch,
    }[keras.backend.backend()]
    for begin, block in blocks:
        block = keras.ops.convert_to_tensor(block.astype(variable.dtype))
        write(variable, begin, block)


def _write_jax(variable, begin, block):
    import jax

    # Arrays are immutable, but one that is given up is written in place.
    write = jax.jit(jax.lax.dynamic_update_slice, donate_argnums=0)
    variable.assign(write(variable.value, block, begin).block_until_ready())


def _write_tensorflow(variable, begin, block):
    import tensorflow as tf

    # `variable.value[...].assign(block)` would read the whole variable first,
    # and both copies would stay in memory.
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.value.handle,
        begin=begin,
        end=np.add(begin, block.shape),
        strides=[1] * len(begin),
        value=block,
    )


def _write_torch(variable, begin, block):
    region = tuple(map(slice, begin, np.add(begin, block.shape)))
    variable.value.detach()[region].copy_(block)
