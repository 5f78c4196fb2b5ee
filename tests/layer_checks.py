"""What the tests of single layers share: weights, arrays, specs."""

import keras
import numpy as np
import torch
from keras import ops


def call(function, **arguments):
    """Call a layer or one of its methods, on JAX as one program.

    Eager JAX would compile every operation for itself, which takes longer
    than all the rest.
    """
    static = {
        name: value
        for name, value in arguments.items()
        if value is None or isinstance(value, bool)
    }
    arrays = keras.tree.map_structure(
        ops.convert_to_tensor,
        {k: v for k, v in arguments.items() if k not in static},
    )

    def program(arrays):
        return function(**arrays, **static)

    if keras.config.backend() == "jax":
        import jax

        program = jax.jit(program)
    return program(arrays)


def gradients(function, tensors):
    """Of a scalar function with respect to all its tensors.

    Compiled, where the backend compiles.
    """
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        every = tuple(range(len(tensors)))
        found = jax.jit(jax.grad(function, argnums=every))(*tensors)
    elif backend == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True, autograph=False)
        def program(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(*tensors)
            return tape.gradient(value, tensors)

        found = program(*tensors)
    else:
        tensors = [t.clone().requires_grad_() for t in tensors]
        function(*tensors).backward()
        found = [t.grad for t in tensors]
    return list(map(to_numpy, found))


def to_numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def check_spec(spec, output) -> None:
    assert tuple(spec.shape) == tuple(output.shape)
    assert spec.dtype == keras.backend.standardize_dtype(output.dtype)


def randomize(layer: keras.layers.Layer, seed: int = 0) -> None:
    """Draw all weights: a fresh cross-attention's are zero, a norm's one."""
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        value = rng.normal(0.0, 0.4, variable.shape)
        variable.assign(value + ("norm" in variable.path))


# === The same weights for the functions of `reference` ===
#
# Written out by hand, not taken from the package's own name maps.


def _tensor(variable):
    return torch.tensor(to_numpy(variable))


def _from_heads(dense):
    """(hidden, heads, width) -> PyTorch's (heads * width, hidden)."""
    return _tensor(dense.kernel).flatten(1).T


def _to_hidden(dense):
    """(heads, width, hidden) -> PyTorch's (hidden, heads * width)."""
    return _tensor(dense.kernel).flatten(0, 1).T


def cross_attention_weights(layer) -> dict:
    return {
        "query_norm.weight": _tensor(layer.query_norm.scale),
        "key_value_norm.weight": _tensor(layer.key_value_norm.scale),
        "q_proj.weight": _from_heads(layer.query_dense),
        "q_proj.bias": _tensor(layer.query_dense.bias).flatten(),
        "k_proj.weight": _from_heads(layer.key_dense),
        "k_proj.bias": _tensor(layer.key_dense.bias).flatten(),
        "v_proj.weight": _from_heads(layer.value_dense),
        "v_proj.bias": _tensor(layer.value_dense.bias).flatten(),
        "o_proj.weight": _to_hidden(layer.output_dense),
        "position.weight": _tensor(layer.position_kernel).T[:, None],
        "position.bias": _tensor(layer.position_bias),
    }


def decoder_layer_weights(layer) -> dict:
    return {
        "input_layernorm.weight": _tensor(layer.input_norm.scale),
        "self_attn.q_proj.weight": _from_heads(layer.query_dense),
        "self_attn.q_proj.bias": _tensor(layer.query_dense.bias).flatten(),
        "self_attn.k_proj.weight": _from_heads(layer.key_dense),
        "self_attn.k_proj.bias": _tensor(layer.key_dense.bias).flatten(),
        "self_attn.v_proj.weight": _from_heads(layer.value_dense),
        "self_attn.v_proj.bias": _tensor(layer.value_dense.bias).flatten(),
        "self_attn.o_proj.weight": _to_hidden(layer.output_dense),
        "post_attention_layernorm.weight": _tensor(
            layer.post_attention_norm.scale
        ),
        "mlp.gate_proj.weight": _tensor(layer.gate_dense.kernel).T,
        "mlp.up_proj.weight": _tensor(layer.up_dense.kernel).T,
        "mlp.down_proj.weight": _tensor(layer.down_dense.kernel).T,
    }
