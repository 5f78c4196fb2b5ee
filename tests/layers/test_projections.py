import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import call
from layer_checks import randomize
from layer_checks import to_numpy

from keras_visor.layers import projections

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(2, 5, 16)).astype("float32")
HEADS = TOKENS.reshape(2, 5, 4, 4)


def add_lora(layer):
    layer.enable_lora(2)
    randomize(layer)


def quantize(layer):
    layer.quantize("int8")


def quantize_with_lora(layer):
    quantize(layer)
    layer.enable_lora(2)
    for weight in (layer.lora_kernel_a, layer.lora_kernel_b):
        weight.assign(RNG.normal(size=weight.shape))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "change", [None, add_lora, quantize, quantize_with_lora]
)
def test_projections_are_what_the_layers_compute(dtype, change):
    if change is quantize_with_lora and dtype == "bfloat16":
        pytest.skip("Keras's own call of such a layer fails on PyTorch")
    layers = (
        (projections.to_heads(16, 4, 4, dtype, "query"), TOKENS),
        (projections.from_heads(16, 4, 4, dtype, "output"), HEADS),
        (projections.dense(16, 24, dtype, "gate"), TOKENS),
    )
    for layer, inputs in layers:
        randomize(layer)
        if change is not None:
            change(layer)
        check(layer, projections.project, inputs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
def test_norms_are_what_the_layers_compute(dtype):
    layer = projections.rms_norm(16, 1e-6, dtype, "input_norm")
    randomize(layer)
    check(layer, projections.normalize, TOKENS)


def check(layer, function, inputs):
    output = call(lambda x: function(layer, x), x=inputs)
    expected = layer(ops.convert_to_tensor(inputs))
    assert output.dtype == expected.dtype
    # bfloat16 keeps eight bits of every product's factors.
    tolerance = 1e-5 if layer.compute_dtype == "float32" else 0.03
    assert keras.backend.standardize_dtype(output.dtype) == layer.compute_dtype
    expected = to_numpy(expected)
    np.testing.assert_allclose(
        to_numpy(output), expected, atol=tolerance * np.abs(expected).max()
    )
