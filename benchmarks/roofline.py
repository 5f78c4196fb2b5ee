"""What the machine can do: a bare matmul and a copy, in this process."""

import time

import keras
import numpy as np
import torch

COPIED_BYTES = 2**28
REPEATS = 7


def roofline(width: int) -> dict[str, float]:
    """FLOP/s of float32 matmuls, the backend's and torch's, and bytes/s of a
    copy (read and written), each the best of some."""
    left = np.random.default_rng(0).standard_normal((width, width), "float32")
    ours, theirs = keras.ops.convert_to_tensor(left), torch.as_tensor(left)
    source = torch.zeros(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    flops = 2 * width**3

    def matmul():
        keras.ops.convert_to_numpy(keras.ops.matmul(ours, ours)[:1])

    return {
        "matmul_flops": flops / _best(matmul),
        "torch_matmul_flops": flops / _best(lambda: theirs @ theirs),
        "copy_bytes": 2 * COPIED_BYTES / _best(lambda: target.copy_(source)),
    }


def _best(function):
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
