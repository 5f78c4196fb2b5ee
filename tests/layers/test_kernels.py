"""What PyTorch is given instead of a layer, whatever the processor."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_visor.layers import kernels


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="PyTorch's products"
)
@pytest.mark.parametrize("is_amd", [False, True])
@pytest.mark.parametrize("rows", [15, 16, 512, 513])
@pytest.mark.parametrize("has_bias", [False, True])
def test_products(monkeypatch, is_amd, rows, has_bias):
    monkeypatch.setattr(kernels, "_is_amd", lambda: is_amd)
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(1, rows, 6)).astype("float32")
    kernel = generator.normal(size=(6, 2, 4)).astype("float32")
    bias = generator.normal(size=(2, 4)).astype("float32")
    product = kernels.dense_product(
        ops.convert_to_tensor(tokens),
        ops.convert_to_tensor(kernel),
        ops.convert_to_tensor(bias) if has_bias else None,
        "float32",
    )
    expected = np.einsum("bqm,mhd->bqhd", tokens, kernel) + bias * has_bias
    np.testing.assert_allclose(
        ops.convert_to_numpy(product), expected, rtol=1e-5, atol=1e-5
    )
