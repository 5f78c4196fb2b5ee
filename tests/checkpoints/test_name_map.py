from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch

from keras_visor.checkpoints.name_map import _convolution
from keras_visor.checkpoints.name_map import _cross_attention
from keras_visor.checkpoints.name_map import _from_heads
from keras_visor.checkpoints.name_map import _kernel
from keras_visor.checkpoints.name_map import _to_heads
from keras_visor.checkpoints.name_map import base_name
from keras_visor.checkpoints.name_map import canonical_name
from keras_visor.checkpoints.name_map import siglip_layers
from keras_visor.checkpoints.name_map import spare_reason


@pytest.mark.parametrize(
    "canonical, spellings",
    {
        "language_model.model.layers.0.mlp.up_proj.weight": [
            "model.language_model.layers.0.mlp.up_proj.weight",
            "language_model.layers.0.mlp.up_proj.weight",
            "model.language_model.model.layers.0.mlp.up_proj.weight",
        ],
        "language_model.model.norm.weight": [
            "model.language_model.norm.weight",
            "language_model.norm.weight",
        ],
        "language_model.lm_head.weight": [
            "lm_head.weight",
            "model.lm_head.weight",
            "model.language_model.lm_head.weight",
        ],
        "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias": [
            "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
            "model.vision_tower.encoder.layers.1.mlp.fc1.bias",
            "vision_tower.encoder.layers.1.mlp.fc1.bias",
        ],
        "multi_modal_projector.linear_1.weight": [
            "model.multi_modal_projector.linear_1.weight",
        ],
        "image_newline": ["model.image_newline"],
        "visor.cross_attention.0.q_proj.bias": [],
    }.items(),
)
def test_every_spelling_has_one_canonical_name(canonical, spellings):
    for name in [canonical, *spellings]:
        assert canonical_name(name) == canonical


def test_visor_names_and_unknown_names_stay():
    for name in ("model.visor.policy.routing_token", "model.layers.0.x", "x"):
        assert canonical_name(name) == name


@pytest.mark.parametrize(
    "name, is_spare",
    [
        ("vision_tower.vision_model.post_layernorm.weight", True),
        ("vision_tower.vision_model.head.attention.in_proj_weight", True),
        ("vision_tower.vision_model.embeddings.position_ids", True),
        ("language_model.model.rotary_emb.inv_freq", True),
        (
            "language_model.model.layers.3.self_attn.rotary_emb.inv_freq",
            True,
        ),
        ("vision_tower.vision_model.post_layernorm.weights", False),
        ("vision_tower.vision_model.embeddings.patch_embedding.bias", False),
        ("language_model.model.norm.weight", False),
    ],
)
def test_spare(name, is_spare):
    assert bool(spare_reason(name)) is is_spare


def test_base_names():
    prefix = "visor.cross_attention.3."
    layer = "language_model.model.layers.3."
    assert {
        part: base_name(prefix + part)
        for part in (
            "query_norm.weight",
            "key_value_norm.weight",
            "q_proj.weight",
            "v_proj.bias",
            "o_proj.weight",
            "position.weight",
            "position.bias",
        )
    } == {
        "query_norm.weight": layer + "input_layernorm.weight",
        "key_value_norm.weight": layer + "input_layernorm.weight",
        "q_proj.weight": layer + "self_attn.q_proj.weight",
        "v_proj.bias": layer + "self_attn.v_proj.bias",
        "o_proj.weight": None,
        "position.weight": None,
        "position.bias": None,
    }


# === Layouts, against PyTorch ===

WIDTH, HEADS, HEAD_WIDTH = 12, 3, 5


def layer(kernel_shape, bias_shape=None):
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        kernel=rng.standard_normal(kernel_shape, dtype="float32"),
        bias=None
        if bias_shape is None
        else rng.standard_normal(bias_shape, dtype="float32"),
    )


def random(shape):
    return np.random.default_rng(1).standard_normal(shape, dtype="float32")


def check_inverse(weight):
    tensor = random(weight.shape)
    value = weight.to_keras(tensor)
    assert value.shape == tuple(weight.variable.shape)
    assert np.shares_memory(value, tensor)
    np.testing.assert_array_equal(weight.to_torch(value), tensor)
    return torch.from_numpy(tensor), value


def test_projection_to_heads():
    weight, bias = _to_heads(
        "q", layer((WIDTH, HEADS, HEAD_WIDTH), (HEADS, HEAD_WIDTH))
    )
    kernel, keras_kernel = check_inverse(weight)
    offset, keras_bias = check_inverse(bias)
    x = random((2, WIDTH))
    expected = torch.nn.functional.linear(torch.from_numpy(x), kernel, offset)
    np.testing.assert_allclose(
        np.einsum("bm,mhd->bhd", x, keras_kernel) + keras_bias,
        expected.reshape(2, HEADS, HEAD_WIDTH),
        rtol=1e-5,
        atol=1e-5,
    )


def test_projection_from_heads():
    weight = _from_heads("o", layer((HEADS, HEAD_WIDTH, WIDTH)))
    kernel, keras_kernel = check_inverse(weight)
    x = random((2, HEADS, HEAD_WIDTH))
    expected = torch.nn.functional.linear(
        torch.from_numpy(x).reshape(2, -1), kernel
    )
    np.testing.assert_allclose(
        np.einsum("bhd,hdm->bm", x, keras_kernel),
        expected,
        rtol=1e-5,
        atol=1e-5,
    )


def test_dense():
    kernel, keras_kernel = check_inverse(_kernel("w", np.zeros((WIDTH, 7))))
    x = random((2, WIDTH))
    expected = torch.nn.functional.linear(torch.from_numpy(x), kernel)
    np.testing.assert_allclose(x @ keras_kernel, expected, rtol=1e-5, atol=1e-5)


def test_patch_convolution():
    weight = _convolution("w", layer((2, 3, 4, 5)))
    kernel, keras_kernel = check_inverse(weight)
    image = random((1, 2, 3, 4))  # one patch, channels last
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(image).permute(0, 3, 1, 2), kernel
    )
    np.testing.assert_allclose(
        np.einsum("bhwi,hwio->bo", image, keras_kernel),
        expected[:, :, 0, 0],
        rtol=1e-5,
        atol=1e-5,
    )


def test_depthwise_convolution():
    projection = layer((4, 2, 2), (2, 2))
    norm = SimpleNamespace(scale=np.ones(4))
    weights = _cross_attention(
        "visor.cross_attention.0",
        SimpleNamespace(
            query_norm=norm,
            key_value_norm=norm,
            query_dense=projection,
            key_dense=projection,
            value_dense=projection,
            output_dense=layer((2, 2, 4)),
            position_kernel=np.zeros((7, 4)),
            position_bias=np.zeros(4),
        ),
    )
    (weight,) = [w for w in weights if w.name.endswith("position.weight")]
    assert weight.shape == (4, 1, 7)
    kernel, keras_kernel = check_inverse(weight)
    tokens = random((7, 4))
    expected = torch.nn.functional.conv1d(
        torch.from_numpy(tokens).T[None], kernel, groups=4
    )
    np.testing.assert_allclose(
        np.sum(tokens * keras_kernel, axis=0),
        expected[0, :, 0],
        rtol=1e-5,
        atol=1e-5,
    )


def test_only_siglip_has_a_place_in_the_format():
    encoder = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 2)]
    )
    with pytest.raises(ValueError, match="SigLIP.*Conv2D"):
        siglip_layers(encoder)
