import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from model_checks import batch
from model_checks import check_rows
from model_checks import outputs
from model_checks import preprocess
from samples import SAMPLES

from keras_visor import VisorBackbone
from keras_visor import uniform_layout


def make_backbone(num_layers=3, **arguments):
    encoder = keras_hub.models.SigLIPVisionEncoder(
        patch_size=7,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=32,
        image_shape=(28, 28, 3),
    )
    return VisorBackbone(
        vision_encoder=encoder,
        vocabulary_size=60,
        num_layers=num_layers,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=16,
        intermediate_dim=24,
        **arguments,
    )


# === Layout and configuration ===


def test_the_default_is_the_dense_self():
    backbone = make_backbone()
    assert backbone.cross_attention_layers == []
    assert backbone.self_attention_layers == [0, 1, 2]
    assert backbone.budgets == [[0, 1, 2]]


@pytest.mark.parametrize(
    "layout, budgets, first_optional_layer",
    [
        ({}, [[0, 1, 2]], 3),
        (uniform_layout(3), [[], [1]], 1),
        ({"self_attention_layers": [0, 2]}, [[], [2], [0, 2]], 0),
        (
            {"self_attention_layers": [0, 2], "budgets": [[0], [0, 2]]},
            [[0], [0, 2]],
            2,
        ),
        # Always off is not optional.
        (
            {"self_attention_layers": [0, 1, 2], "budgets": [[1], [1, 2]]},
            [[1], [1, 2]],
            2,
        ),
        ({"cross_attention_layers": [1]}, [[]], 3),
    ],
)
def test_budgets_and_the_first_optional_layer(
    layout, budgets, first_optional_layer
):
    backbone = make_backbone(**layout)
    assert backbone.budgets == budgets
    assert backbone.first_optional_layer == first_optional_layer


def test_config_round_trip():
    backbone = make_backbone(
        **uniform_layout(3),
        cross_attention_num_heads=2,
        cross_attention_num_key_value_heads=1,
        position_kernel_size=5,
        policy_hidden_dim=6,
        policy_rule="tolerance",
        policy_tolerance=0.2,
        rope_max_wavelength=500.0,
        layer_norm_epsilon=1e-4,
        tie_word_embeddings=False,
    )
    config = backbone.get_config()
    copy = VisorBackbone.from_config(config)
    assert copy.get_config() == config
    shapes = [weight.shape for weight in backbone.weights]
    assert [weight.shape for weight in copy.weights] == shapes
    assert copy.cross_attentions[0].position_kernel_size == 5
    assert copy.cross_attentions[0].num_key_value_heads == 1
    assert copy.policy.rule == "tolerance"
    assert copy.policy.tolerance == 0.2
    assert copy.decoder_layers[0].rope_max_wavelength == 500.0
    assert not copy.token_embedding.tie_weights
    assert {layer.layer_norm_epsilon for layer in copy.decoder_layers} == {1e-4}


def test_output_spec_without_running(visor):
    backbone = visor.backbone
    inputs = preprocess(visor, batch())
    specs = {
        name: keras.KerasTensor(np.shape(value), str(value.dtype))
        for name, value in inputs.items()
    }
    spec = backbone.compute_output_spec(specs)
    assert tuple(spec.shape) == outputs(backbone, inputs).shape == (5, 40, 32)


# === What it computes ===


@pytest.mark.parametrize("budget", [0, 1, 2])
def test_intermediates(visor, visor_reference, budget):
    backbone = visor.backbone
    inputs = preprocess(visor, batch(budget=[budget] * 5))
    inside = keras.tree.map_structure(
        ops.convert_to_numpy, backbone.intermediates(inputs)
    )
    np.testing.assert_allclose(
        inside["hidden_states"], outputs(backbone, inputs), atol=2e-5
    )
    assert inside["text"].keys() == inside["vision"].keys() == set(range(6))
    tokens = [
        visor_reference.visual_tokens(*sample, budget)
        for sample in SAMPLES.values()
    ]
    for layer in range(6):
        check_rows(inside["vision"][layer], [t[layer] for t in tokens])
    # Cross-attention at 0 and 3, and self-attention where it is on.
    attention = inside["vision_attention"]
    assert attention.keys() == {0, 3, *backbone.budgets[budget]}
    seen = (
        inputs["vision_mask"][:, None]
        & inputs["padding_mask"][:, :, None]
        & (
            inputs["vision_positions"][:, None]
            < inputs["text_positions"][:, :, None]
        )
    )
    for layer, weights in attention.items():
        weights = weights * inputs["padding_mask"][:, :, None]
        np.testing.assert_array_equal(weights > 0, seen)
        share = weights.sum(axis=2)[seen.any(axis=2)]
        if layer in (0, 3):
            np.testing.assert_allclose(share, 1.0, atol=1e-5)
        else:
            assert share.max() < 1.0


def test_intermediates_want_one_budget(visor):
    inputs = preprocess(visor, batch(budget=[0, 1, 2, 0, 1]))
    with pytest.raises(ValueError, match=r"inputs\['budget'\].*\[0, 1, 2\]"):
        visor.backbone.intermediates(inputs)


def test_mixed_budgets_are_each_their_own(visor):
    """Padding tiles and tokens of a batch of different samples included."""
    mixed = outputs(
        visor.backbone, preprocess(visor, batch(budget=[2, 0, 1, 0, 2]))
    )
    for row, (name, budget) in enumerate(
        zip(SAMPLES, [2, 0, 1, 0, 2], strict=True)
    ):
        inputs = preprocess(visor, batch([name], budget=[budget]))
        alone = outputs(visor.backbone, inputs)[0, inputs["padding_mask"][0]]
        check_rows(mixed[row : row + 1], [alone], atol=2e-5)


# === Presets ===


def test_preset_round_trip(visor, tmp_path):
    visor.backbone.save_to_preset(tmp_path)
    loaded = VisorBackbone.from_preset(tmp_path)
    assert loaded.get_config() == visor.backbone.get_config()
    for ours, theirs in zip(
        visor.backbone.weights, loaded.weights, strict=True
    ):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)
        )
    assert VisorBackbone.from_preset(tmp_path, load_weights=False).budgets == (
        visor.backbone.budgets
    )


def test_a_layout_of_the_constructor_is_checked():
    with pytest.raises(ValueError, match=r"disjoint.*\[1\]"):
        make_backbone(cross_attention_layers=[1], self_attention_layers=[1])
