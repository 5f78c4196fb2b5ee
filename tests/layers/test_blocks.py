import re

import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import call
from layer_checks import gradients
from layer_checks import to_numpy

from keras_visor.layers import blocks
from keras_visor.layers.blocks import map_blocks


@pytest.mark.parametrize("length", [3, 4, 8, 11])
def test_is_the_function_of_the_whole(length):
    rng = np.random.default_rng(length)
    first = rng.normal(size=(2, length, 3)).astype("float32")
    second = rng.normal(size=(2, length)).astype("float32")
    widest = []

    def function(first, second):
        widest.append(first.shape[1])
        return first * second[:, :, None], ops.sum(first, axis=-1)

    product, total = call(
        lambda first, second: map_blocks(function, 4, first, second),
        first=first,
        second=second,
    )
    np.testing.assert_allclose(
        to_numpy(product), first * second[:, :, None], rtol=1e-6
    )
    np.testing.assert_allclose(to_numpy(total), first.sum(-1), rtol=1e-5)
    assert max(widest) <= 4


@pytest.mark.parametrize("margin", [0, 1])
def test_has_the_gradient_of_the_whole(margin):
    rng = np.random.default_rng(0)
    tensors = [
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32"))
        for shape in ((2, 11, 3), (3, 3), (2, 11))
    ]
    ids = ops.convert_to_tensor(rng.integers(1, 4, (2, 11)).astype("int32"))

    def loss(block_size):
        def of_tensors(tokens, kernel, scale):
            def function(tokens, scale, ids):
                if margin:
                    padded = ops.pad(tokens, ((0, 0), (1, 1), (0, 0)))
                    tokens = padded[:, :-2] - 2.0 * padded[:, 2:] + tokens
                tokens = ops.tanh(tokens @ kernel)
                factor = scale * ops.cast(ids, "float32")
                return tokens * factor[:, :, None], ops.sum(tokens, axis=-1)

            product, total = map_blocks(
                function, block_size, tokens, scale, ids, margin=margin
            )
            return ops.sum(product**2) + ops.sum(ops.sin(total))

        return of_tensors

    found, expected = gradients(loss(4), tensors), gradients(loss(11), tensors)
    for ours, whole in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="TensorFlow traces batches"
)
@pytest.mark.parametrize("jit_compile", [True, False])
def test_of_any_batch(jit_compile):
    import tensorflow as tf

    @tf.function(
        jit_compile=jit_compile,
        autograph=False,
        input_signature=[tf.TensorSpec((None, 11, 3))],
    )
    def program(tokens):
        with tf.GradientTape() as tape:
            tape.watch(tokens)
            squares = map_blocks(lambda block: block**2, 4, tokens, margin=1)
        return squares, tape.gradient(squares, tokens)

    for batch in (1, 3):
        tokens = np.random.default_rng(batch).normal(size=(batch, 11, 3))
        squares, gradient = program(tokens.astype("float32"))
        np.testing.assert_allclose(squares, tokens**2, rtol=1e-5)
        np.testing.assert_allclose(gradient, 2 * tokens, rtol=1e-5)


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="a program of TensorFlow's"
)
def test_no_result_begins_as_a_constant(monkeypatch):
    """Which XLA would make at the start of a program, one for each layer."""
    import tensorflow as tf

    def layers(tokens, kernel):
        for _ in range(3):
            tokens += map_blocks(lambda block: block @ kernel, 32, tokens)
        return tokens

    def constants():
        program = tf.function(layers, jit_compile=True, autograph=False)
        text = program.experimental_get_compiler_ir(
            tf.ones((1, 256, 64)), tf.eye(64)
        )(stage="optimized_hlo")
        repeated = r"= f32\[8,1,32,64\]\S* broadcast\(%\S+\), dimensions={}"
        return len(re.findall(repeated, text))

    assert constants() == 0
    # What is looked for is there with `ops.map`.
    monkeypatch.setattr(blocks, "reserves_early", lambda: False)
    assert constants() > 0


@pytest.mark.parametrize("length", [3, 4, 8, 11])
def test_blocks_see_their_neighbours(length):
    rng = np.random.default_rng(length)
    tokens = rng.normal(size=(2, length, 3)).astype("float32")
    widest = []

    def function(tokens):
        widest.append(tokens.shape[1])
        padded = ops.pad(tokens, ((0, 0), (1, 1), (0, 0)))
        return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:], -tokens

    around, negative = call(
        lambda tokens: map_blocks(function, 4, tokens, margin=1),
        tokens=tokens,
    )
    padded = np.pad(tokens, ((0, 0), (1, 1), (0, 0)))
    expected = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    np.testing.assert_allclose(to_numpy(around), expected, atol=1e-6)
    np.testing.assert_allclose(to_numpy(negative), -tokens)
    # A block and what its ends see.
    assert max(widest) <= 4 + 2
