"""What the machine can do: bare matmuls and a copy, in this process."""

import time

import keras
import numpy as np
import torch
from device import DEVICE

COPIED_BYTES = 2**28
REPEATS = 7


def roofline(sizes) -> dict[str, float]:
    """FLOP/s of float32 matmuls, the backend's and torch's, and bytes/s of a
    copy (read and written), each the best of some.

    A thin matmul is that of a prompt's text with a feed-forward kernel of each
    layer in turn: each is read for few rows.
    """
    width = sizes.roofline
    generator = np.random.default_rng(0)
    left = generator.standard_normal((width, width), "float32")
    ours = keras.ops.convert_to_tensor(left)
    theirs = torch.as_tensor(left, device=DEVICE)
    source = torch.zeros(COPIED_BYTES // 4, device=DEVICE)
    target = torch.empty_like(source)
    flops = 2 * width**3
    shape = sizes.text["hidden_size"], sizes.text["intermediate_size"]
    layers = sizes.text["num_hidden_layers"]
    thin = keras.ops.ones((sizes.text_tokens, shape[0]))
    kernels = [keras.ops.ones(shape) for _ in range(layers)]
    thin_flops = 2 * sizes.text_tokens * shape[0] * shape[1] * layers

    def matmul():
        keras.ops.convert_to_numpy(keras.ops.matmul(ours, ours)[:1])

    def thin_matmul():
        products = [keras.ops.matmul(thin, kernel) for kernel in kernels]
        for product in products:
            keras.ops.convert_to_numpy(product[:1])

    # A GPU is waited for by reading from it.
    def torch_matmul():
        (theirs @ theirs)[:1].cpu()

    def copy():
        target.copy_(source)[:1].cpu()

    return {
        "matmul_flops": flops / _best(matmul),
        "thin_matmul_flops": thin_flops / _best(thin_matmul),
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
