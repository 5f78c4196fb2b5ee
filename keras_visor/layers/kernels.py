"""The one place that knows what a backend does better than `keras.ops`.

Where these functions are used, a twin in plain `keras.ops` stands beside
them, which every other backend runs.
"""

import functools
from pathlib import Path

import keras

# As many tokens as a short prompt has: on a processor of AMD, a product with
# the large matrix on the left takes down to 0.7 of the time, and never more;
# on one of Intel up to twice the time.
FEW_ROWS = range(16, 513)


def runs_step_by_step() -> bool:
    """Whether what a Python loop does is done before its next turn.

    A compiler may take the turns of an unrolled loop side by side, each with
    its own memory.
    """
    return keras.config.backend() == "torch"


def reserves_early() -> bool:
    """Whether the results of `ops.map` stand in memory before it runs.

    They begin as zeros, which depend on nothing. On TensorFlow, XLA makes
    those of all layers at the start of a program: the dense prefill of 3,699
    visual tokens took 949 MB, and took 271 MB with `map_in_place`.
    """
    return keras.config.backend() == "tensorflow"


def map_in_place(function, blocks):
    """TensorFlow's `ops.map`, its results begun as those of the first block.

    Args:
        function: Maps one tensor of each of `blocks` to a tensor or a tuple
            of such.
        blocks: tuple of tensors (num_blocks, ...).

    Returns:
        What `function` gives for each block, (num_blocks, ...).
    """
    import tensorflow as tf

    num_blocks = blocks[0].shape[0]
    inputs = [
        tf.TensorArray(b.dtype, num_blocks, element_shape=b.shape[1:])
        for b in blocks
    ]
    inputs = [i.unstack(b) for i, b in zip(inputs, blocks, strict=True)]
    first = function(*(block[0] for block in blocks))
    outputs = [
        tf.TensorArray(f.dtype, num_blocks, element_shape=f.shape).unstack(
            tf.broadcast_to(f, tf.concat([[num_blocks], tf.shape(f)], axis=0))
        )
        for f in tf.nest.flatten(first)
    ]

    def compute(index, outputs):
        block = tf.nest.flatten(function(*(i.read(index) for i in inputs)))
        outputs = [
            o.write(index, b) for o, b in zip(outputs, block, strict=True)
        ]
        return index + 1, outputs

    _, outputs = tf.while_loop(
        lambda index, _: index < num_blocks,
        compute,
        (1, outputs),
        # One block's intermediate results in memory at a time.
        parallel_iterations=1,
        maximum_iterations=num_blocks - 1,
    )
    return tf.nest.pack_sequence_as(first, [o.stack() for o in outputs])


def has_direct_products() -> bool:
    """Whether a layer is better replaced by what it computes.

    Keras wraps much around the call of a layer. A compiler sees none of it;
    PyTorch pays for it again in every step of decoding, more than for the
    product of a token. And it is faster at plain matrices than at `einsum`.
    """
    return keras.config.backend() == "torch"


def dense_product(tokens, kernel, bias, dtype):
    """What an `EinsumDense` computes, as one product of two matrices.

    Args:
        tokens: Tensor (batch, length, *inputs).
        kernel: Tensor or `keras.Variable` (*inputs, *outputs).
        bias: Tensor or `keras.Variable` (*outputs), or `None`.
        dtype: string. The dtype to compute in.

    Returns:
        A tensor (batch, length, *outputs).
    """
    import torch

    dtype = getattr(torch, dtype)
    tokens, kernel = tokens.to(dtype), _value(kernel).to(dtype)
    outputs = kernel.shape[tokens.ndim - 2 :]
    rows = tokens.flatten(0, 1).flatten(1)
    kernel = kernel.reshape(rows.shape[1], -1)
    if bias is not None:
        bias = _value(bias).to(dtype).flatten()
    if rows.device.type == "cpu" and len(rows) in FEW_ROWS and _is_amd():
        if bias is None:
            # Left as it lies: a feed-forward network goes on from there.
            product = torch.mm(kernel.T, rows.T).T
        else:
            product = torch.addmm(bias[:, None], kernel.T, rows.T)
            product = product.T.contiguous()
    elif bias is None:
        product = torch.mm(rows, kernel)
    else:
        product = torch.addmm(bias, rows, kernel)
    return product.view(*tokens.shape[:2], *outputs)


@functools.cache
def _is_amd():
    path = Path("/proc/cpuinfo")
    return path.exists() and "AuthenticAMD" in path.read_text("utf-8")


def fused_rms_norm(tokens, scale, epsilon, dtype):
    """What an `RMSNormalization` computes, in float32 at least."""
    import torch

    dtype = getattr(torch, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    tokens, scale = tokens.to(dtype).to(wide), _value(scale).to(wide)
    return torch.rms_norm(tokens, scale.shape, scale, epsilon).to(dtype)


def _value(variable):
    """A LoRA's kernel is a tensor already."""
    return getattr(variable, "value", variable)


def has_fused_attention() -> bool:
    """Whether attention runs without its scores standing in memory.

    PyTorch has such kernels. XLA has none on the CPU.
    """
    return keras.config.backend() == "torch"


def prefers_fused_attention() -> bool:
    """Whether the fused attention is faster for few scores too.

    PyTorch's is, but its gradient is slower.
    """
    if not has_fused_attention():
        return False
    import torch

    return not torch.is_grad_enabled()


def fused_attention(query, keys, values, mask=None, causal: bool = False):
    """PyTorch's scaled dot-product attention.

    Args:
        query: Tensor (batch, query_length, num_heads, head_dim).
        keys: Tensor (batch, key_length, num_key_value_heads, head_dim).
        values: Tensor, of the same shape as `keys`.
        mask: float tensor (batch, query_length, key_length), added to the
            scores. Defaults to `None`.
        causal: bool. Whether query i sees the keys up to i. Defaults to
            `False`.

    Returns:
        A tensor of the shape of `query`.
    """
    import torch

    shape = query.shape
    if shape[1] == 1 and not causal:
        # The heads that share a key/value head are as good as its queries.
        query = query.reshape(shape[0], keys.shape[2], -1, shape[3])
        query = query.transpose(1, 2)
    elif query.device.type != "cpu":
        # On a GPU most of the kernels know no shared heads.
        group = query.shape[2] // keys.shape[2]
        keys = keys.repeat_interleave(group, dim=2)
        values = values.repeat_interleave(group, dim=2)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=None if mask is None else mask[:, None],
        is_causal=causal,
        enable_gqa=True,
    )
    if shape[1] == 1:
        return attended.reshape(shape)
    return attended.transpose(1, 2)


def fused_token_attention(query, views):
    """Attention of one token over several views, in few calls.

    Args:
        query: Tensor (batch, 1, num_heads, head_dim).
        views: list of `keras_visor.layers.attention.View`.

    Returns:
        A tensor of the shape of `query`.
    """
    import torch

    batch, _, _, head_dim = query.shape
    # A key/value head serves the query heads that share it as its rows.
    rows = query.reshape(batch, views[0].keys.shape[2], -1, head_dim)
    rows = rows * head_dim**-0.5
    scores = [
        rows @ view.keys.permute(0, 2, 3, 1) + view.addend[:, None]
        for view in views
    ]
    lengths = [score.shape[-1] for score in scores]
    weights = torch.cat(scores, dim=-1).softmax(-1, dtype=torch.float32)
    attended = sum(
        weight @ view.values.transpose(1, 2)
        for weight, view in zip(
            weights.to(query.dtype).split(lengths, dim=-1), views, strict=True
        )
    )
    return attended.reshape(query.shape)


def has_depthwise_convolution() -> bool:
    """Whether a depthwise convolution is faster than a sum over its taps.

    XLA fuses the sum into one loop, and its convolution with a group a
    channel is many times slower on the CPU.
    """
    return keras.config.backend() == "torch"


def depthwise_convolution(tokens, kernel, bias):
    """PyTorch's depthwise 1-D convolution over axis 1, padded with zeros.

    Args:
        tokens: Tensor (batch, length, width).
        kernel: Tensor (kernel_size, width), of odd `kernel_size`.
        bias: Tensor (width,).

    Returns:
        A tensor of the shape of `tokens`.
    """
    import torch

    # In two dimensions: PyTorch has a channels-last kernel only there.
    images = tokens.transpose(1, 2)[:, :, None]
    kernel = kernel.T[:, None, None]
    convolved = torch.nn.functional.conv2d(
        images,
        kernel,
        bias,
        padding=(0, kernel.shape[-1] // 2),
        groups=kernel.shape[0],
    )
    return convolved[:, :, 0].transpose(1, 2)
