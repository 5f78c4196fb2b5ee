"""What the machine can do: a bare matmul and a copy, in this process."""

import time

import keras
import numpy as np
import torch
from device import DEVICE

COPIED_BYTES = 2**28
REPEATS = 7


def roofline(width: int) -> dict[str, float]:
    """FLOP/s of float32 matmuls, the backend's and torch's, and bytes/s of a
    copy (read and written), each the best of some."""
    left = np.random.default_rng(0).standard_normal((width, width), "float32")
    ours = keras.ops.convert_to_tensor(left)
    theirs = torch.as_tensor(left, device=DEVICE)
    source = torch.zeros(COPIED_BYTES // 4, device=DEVICE)
    target = torch.empty_like(source)
    flops = 2 * width**3

    def matmul():
        keras.ops.convert_to_numpy(keras.ops.matmul(ours, ours)[:1])

    # A GPU is waited for by reading from it.
    def torch_matmul():
        (theirs @ theirs)[:1].cpu()

    def copy():
        target.copy_(source)[:1].cpu()

    return {
        "matmul_flops": flops / _best(matmul),
        "torch_matmul_flops": flops / _best(torch_matmul),
        "copy_bytes": 2 * COPIED_BYTES / _best(copy),
        "repeats": REPEATS,
    }


def _best(function):
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
