"""Dense layers and norms of the decoder: how they are made and called."""

import keras

from keras_visor.layers.kernels import dense_product
from keras_visor.layers.kernels import fused_rms_norm
from keras_visor.layers.kernels import has_direct_products


def head_width(hidden_dim: int, num_heads: int) -> int:
    """Width of a head; an error where the heads do not divide the width."""
    if hidden_dim % num_heads:
        raise ValueError(
            "The number of heads must divide the hidden width. Received: "
            f"{num_heads} heads, hidden width {hidden_dim}"
        )
    return hidden_dim // num_heads


def check_heads(num_heads: int, num_key_value_heads: int) -> None:
    """An error where query heads cannot share the key/value heads evenly."""
    if num_heads < 1 or num_key_value_heads < 1:
        raise ValueError(
            "There must be 1 head or more. Received: "
            f"{num_heads} query heads, "
            f"num_key_value_heads={num_key_value_heads}"
        )
    if num_heads % num_key_value_heads:
        raise ValueError(
            "The number of query heads must be a multiple of the number of "
            f"key/value heads. Received: {num_heads} query heads, "
            f"num_key_value_heads={num_key_value_heads}"
        )


def to_heads(hidden_dim, num_heads, head_dim, dtype, name):
    """(batch, length, hidden_dim) -> (batch, length, num_heads, head_dim)."""
    layer = keras.layers.EinsumDense(
        "bqm,mhd->bqhd",
        output_shape=(None, num_heads, head_dim),
        bias_axes="hd",
        dtype=dtype,
        name=name,
    )
    layer.build((None, None, hidden_dim))
    return layer


def from_heads(hidden_dim, num_heads, head_dim, dtype, name, **kwargs):
    """(batch, length, num_heads, head_dim) -> (batch, length, hidden_dim)."""
    layer = keras.layers.EinsumDense(
        "bqhd,hdm->bqm",
        output_shape=(None, hidden_dim),
        dtype=dtype,
        name=name,
        **kwargs,
    )
    layer.build((None, None, num_heads, head_dim))
    return layer


def dense(input_dim, units, dtype, name):
    """A Dense without bias.

    An EinsumDense, because the gradient of a Dense in the branch of
    `ops.cond` that is not taken fails under TensorFlow's XLA.
    """
    layer = keras.layers.EinsumDense(
        "bqm,mn->bqn", output_shape=(None, units), dtype=dtype, name=name
    )
    layer.build((None, None, input_dim))
    return layer


def rms_norm(hidden_dim, epsilon, dtype, name):
    """An RMSNorm with a scale of its own, computed in float32."""
    layer = keras.layers.RMSNormalization(
        epsilon=epsilon, dtype=dtype, name=name
    )
    layer.build((None, None, hidden_dim))
    return layer


def project(layer, tokens):
    """`layer(tokens)`, of one of the dense layers above."""
    if has_direct_products() and layer.quantization_mode is None:
        return dense_product(
            tokens, layer.kernel, layer.bias, layer.compute_dtype
        )
    return layer(tokens)


def normalize(layer, tokens):
    """`layer(tokens)`, of an `RMSNormalization`."""
    if has_direct_products():
        return fused_rms_norm(
            tokens, layer.scale, layer.epsilon, layer.compute_dtype
        )
    return layer(tokens)
