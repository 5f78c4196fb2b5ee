import copy

import pytest
import transformers

from keras_visor.checkpoints.llava_onevision import DEFAULT_GRID_PINPOINTS
from keras_visor.checkpoints.llava_onevision import backbone_kwargs
from keras_visor.checkpoints.llava_onevision import image_converter_kwargs
from keras_visor.checkpoints.llava_onevision import image_token_id
from keras_visor.checkpoints.llava_onevision import starts_new_policy
from keras_visor.checkpoints.llava_onevision import vision_encoder_kwargs
from keras_visor.layers.layout import uniform_layout

# The parts of llava-hf/llava-onevision-qwen2-0.5b-ov-hf that matter here.
HUB = {
    "image_token_index": 151646,
    "model_type": "llava_onevision",
    "projector_hidden_act": "gelu",
    "text_config": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "vocab_size": 152000,
        "use_sliding_window": False,
    },
    "tie_word_embeddings": False,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
VISOR = {
    "cross_attention_layers": [0, 3],
    "self_attention_layers": [1, 4],
    "budgets": [[], [4], [1, 4]],
    "cross_attention_num_heads": 14,
    "cross_attention_num_key_value_heads": 2,
    "position_kernel_size": 7,
    "policy_hidden_dim": 32,
}


def changed(path, value, config=HUB):
    """A copy of `config` with the value at the dotted `path` replaced."""
    config = copy.deepcopy(config)
    section = config
    *sections, key = path.split(".")
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    return config


def visor(**changes):
    return {**copy.deepcopy(HUB), "visor_config": {**VISOR, **changes}}


def test_real_shape():
    kwargs = backbone_kwargs(HUB)
    layers = list(range(24))
    assert kwargs == {
        "vocabulary_size": 152000,
        "num_layers": 24,
        "num_query_heads": 14,
        "num_key_value_heads": 2,
        "hidden_dim": 896,
        "intermediate_dim": 4864,
        "rope_max_wavelength": 1e6,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": True,
        "cross_attention_layers": [],
        "self_attention_layers": layers,
        "budgets": [layers],
        "cross_attention_num_heads": 14,
        "cross_attention_num_key_value_heads": 2,
        "position_kernel_size": 7,
        "policy_hidden_dim": None,
        "policy_rule": "argmax",
        "policy_tolerance": 0.0,
    }
    assert vision_encoder_kwargs(HUB) == {
        "patch_size": 14,
        "hidden_dim": 1152,
        "num_layers": 26,
        "num_heads": 16,
        "intermediate_dim": 4304,
        "layer_norm_epsilon": 1e-6,
        "image_shape": (384, 384, 3),
    }


def test_absent_keys_have_the_defaults_of_transformers():
    kwargs = backbone_kwargs({"model_type": "llava_onevision"})
    expected = transformers.LlavaOnevisionConfig()
    text = expected.text_config
    assert kwargs["vocabulary_size"] == text.vocab_size
    assert kwargs["num_layers"] == text.num_hidden_layers
    assert kwargs["num_query_heads"] == text.num_attention_heads
    assert kwargs["num_key_value_heads"] == text.num_key_value_heads
    assert kwargs["hidden_dim"] == text.hidden_size
    assert kwargs["intermediate_dim"] == text.intermediate_size
    assert kwargs["layer_norm_epsilon"] == text.rms_norm_eps
    theta = text.rope_parameters["rope_theta"]
    assert kwargs["rope_max_wavelength"] == theta
    assert kwargs["tie_word_embeddings"] is expected.tie_word_embeddings
    assert DEFAULT_GRID_PINPOINTS == expected.image_grid_pinpoints
    assert image_token_id({}) == expected.image_token_id


@pytest.mark.parametrize("vision_config", [None, {}, {"hidden_size": 96}])
def test_absent_vision_keys_have_the_defaults_of_transformers(vision_config):
    config = {"model_type": "llava_onevision", "vision_config": vision_config}
    kwargs = vision_encoder_kwargs(config)
    vision = transformers.LlavaOnevisionConfig(
        **copy.deepcopy(config)
    ).vision_config
    assert kwargs == {
        "patch_size": vision.patch_size,
        "hidden_dim": vision.hidden_size,
        "num_layers": vision.num_hidden_layers,
        "num_heads": vision.num_attention_heads,
        "intermediate_dim": vision.intermediate_size,
        "layer_norm_epsilon": vision.layer_norm_eps,
        "image_shape": (vision.image_size, vision.image_size, 3),
    }


@pytest.mark.parametrize(
    "text",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 7.0},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ],
)
def test_both_spellings_of_rope(text):
    config = {"model_type": "llava_onevision", "text_config": text}
    assert backbone_kwargs(config)["rope_max_wavelength"] == 5e5
    expected = transformers.Qwen2Config(**copy.deepcopy(text))
    assert expected.rope_parameters["rope_theta"] == 5e5


def test_both_spellings_of_the_image_token():
    assert image_token_id({"image_token_index": 7}) == 7
    assert image_token_id({"image_token_id": 7}) == 7
    with pytest.raises(ValueError, match="image_token_id.*agree"):
        image_token_id({"image_token_index": 7, "image_token_id": 8})
    with pytest.raises(ValueError, match="image_token_index.*'7'"):
        image_token_id({"image_token_index": "7"})


@pytest.mark.parametrize(
    "top, text, tied",
    [
        (True, False, True),
        (False, True, True),
        (False, False, False),
    ],
)
def test_tied_where_either_config_says_so(top, text, tied):
    config = changed("tie_word_embeddings", top)
    config["text_config"]["tie_word_embeddings"] = text
    assert backbone_kwargs(config)["tie_word_embeddings"] is tied


def test_null_key_value_heads_are_the_query_heads():
    config = changed("text_config.num_key_value_heads", None)
    assert backbone_kwargs(config)["num_key_value_heads"] == 14


@pytest.mark.parametrize(
    "path, value",
    [
        ("model_type", "llava_next"),
        ("text_config.model_type", "llama"),
        ("text_config.hidden_act", "gelu"),
        ("text_config.head_dim", 128),
        ("text_config.num_attention_heads", 15),
        ("text_config.num_key_value_heads", 3),
        ("text_config.hidden_size", "896"),
        ("text_config", []),
        ("text_config.rms_norm_eps", "1e-6"),
        ("text_config.rms_norm_eps", None),
        ("text_config.rope_theta", "1e6"),
        ("text_config.rope_scaling", "linear"),
        ("text_config.rope_theta", float("nan")),
        ("text_config.layer_types", "full_attention"),
        ("vision_config", "siglip"),
        ("vision_config.layer_norm_eps", 0),
        ("text_config.use_sliding_window", True),
        ("text_config.layer_types", ["full_attention", "sliding_attention"]),
        ("text_config.rope_scaling", {"type": "linear", "factor": 2.0}),
        ("text_config.rope_parameters", {"rope_type": "yarn", "factor": 4.0}),
        ("text_config.rope_parameters", {"full_attention": {}}),
        ("vision_config.model_type", "clip_vision_model"),
        ("vision_config.hidden_act", "gelu"),
        ("vision_config.num_channels", 4),
        ("vision_config.image_size", [384, 336]),
        ("vision_config.patch_size", [14, 16]),
        ("vision_feature_layer", -2),
        ("vision_feature_layer", [-1, -2]),
        ("vision_feature_select_strategy", "default"),
        ("projector_hidden_act", "gelu_pytorch_tanh"),
        ("multimodal_projector_bias", False),
        ("vision_aspect_ratio", "pad"),
        ("vision_aspect_ratio", "anyres_max_0"),
    ],
)
def test_refuses_by_name(path, value):
    config = changed(path, value)
    with pytest.raises(ValueError) as error:
        backbone_kwargs(config)
        vision_encoder_kwargs(config)
    assert path.rpartition(".")[2] in str(error.value)
    assert "Received" in str(error.value)


def test_accepts_a_list_of_the_last_layer():
    assert backbone_kwargs(changed("vision_feature_layer", [-1]))
    assert backbone_kwargs(changed("text_config.head_dim", 64))


# === VISOR layouts ===


def test_visor_config():
    kwargs = backbone_kwargs(visor())
    assert kwargs["budgets"] == [[], [4], [1, 4]]
    assert kwargs["policy_hidden_dim"] == 32
    assert kwargs["policy_rule"] == "argmax"
    assert kwargs["policy_tolerance"] == 0.0
    assert not starts_new_policy(visor())


@pytest.mark.parametrize(
    "key, value",
    [
        ("unknown", 1),
        ("cross_attention_layers", [0, 4]),  # overlaps
        ("cross_attention_layers", [0, 24]),
        ("cross_attention_layers", [3, 0]),
        ("cross_attention_layers", [0, 0]),
        ("cross_attention_layers", 3),
        ("self_attention_layers", [-1, 4]),
        ("budgets", []),
        ("budgets", [[], [7]]),
        ("budgets", [1, 4]),
        ("cross_attention_num_heads", 15),
        ("cross_attention_num_heads", 0),
        ("cross_attention_num_key_value_heads", 4),
        ("position_kernel_size", 6),
        ("policy_hidden_dim", 0),
        ("policy_hidden_dim", 1.5),
        ("policy_rule", "majority"),
        ("policy_tolerance", -0.1),
        ("policy_tolerance", "0.1"),
    ],
)
def test_refuses_a_damaged_visor_config(key, value):
    with pytest.raises(ValueError, match=key):
        backbone_kwargs(visor(**{key: value}))


@pytest.mark.parametrize("key", VISOR)
def test_refuses_a_visor_config_without(key):
    config = visor()
    del config["visor_config"][key]
    with pytest.raises(ValueError, match=rf"missing: \['{key}'\]"):
        backbone_kwargs(config)


def test_base_becomes_visor():
    kwargs = backbone_kwargs(HUB, **uniform_layout(24), policy_hidden_dim=16)
    assert kwargs["cross_attention_layers"] == list(range(0, 24, 3))
    assert kwargs["budgets"][1] == [22]
    assert kwargs["policy_hidden_dim"] == 16
    assert starts_new_policy(HUB, policy_hidden_dim=16)


def test_base_without_budgets_gets_nested_ones():
    kwargs = backbone_kwargs(
        HUB, cross_attention_layers=(0,), self_attention_layers=(1, 4)
    )
    assert kwargs["budgets"] == [[], [4], [1, 4]]


def test_base_with_budgets_alone_stays_dense():
    kwargs = backbone_kwargs(HUB, budgets=[[5], list(range(24))])
    assert kwargs["cross_attention_layers"] == []
    assert kwargs["budgets"] == [[5], list(range(24))]


def test_base_refuses_other_cross_attention_heads():
    with pytest.raises(ValueError, match="num_heads.*14.*Received: 7"):
        backbone_kwargs(HUB, **uniform_layout(24), cross_attention_num_heads=7)


def test_budgets_of_a_visor_may_be_replaced():
    config = visor(policy_hidden_dim=None)
    kwargs = backbone_kwargs(config, budgets=[[1], [1, 4]])
    assert kwargs["budgets"] == [[1], [1, 4]]


def test_other_budgets_need_another_policy():
    with pytest.raises(ValueError, match="policy_hidden_dim"):
        backbone_kwargs(visor(), budgets=[[1, 4]])
    for width in (None, 16, 32):
        layout = {"budgets": [[1, 4]], "policy_hidden_dim": width}
        assert backbone_kwargs(visor(), **layout)["policy_hidden_dim"] == width
        assert starts_new_policy(visor(), **layout)
    # Tuples are the same budgets.
    assert not starts_new_policy(
        visor(), budgets=((), (4,), (1, 4)), policy_hidden_dim=32
    )


def test_layers_of_a_visor_may_not_be_replaced():
    assert backbone_kwargs(visor(), cross_attention_layers=(0, 3))
    for key, value in {
        "cross_attention_layers": [0],
        "self_attention_layers": [1],
        "position_kernel_size": 5,
        "cross_attention_num_heads": 7,
    }.items():
        with pytest.raises(ValueError, match=f"`{key}`.*weights"):
            backbone_kwargs(visor(), **{key: value})


# === The image converter ===

PROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "resample": 2,
    "rescale_factor": 0.5,
    "size": {"height": 384, "width": 384},
}


def test_image_converter():
    assert image_converter_kwargs(HUB, PROCESSOR) == {
        "tile_size": 384,
        "patches_per_side": 27,
        "grid_pinpoints": DEFAULT_GRID_PINPOINTS,
        "max_tiles": 9,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "rescale_factor": 0.5,
        "resample": 2,
    }


def test_image_converter_defaults_are_those_of_transformers():
    processor = transformers.LlavaOnevisionImageProcessor
    kwargs = image_converter_kwargs(HUB)
    assert kwargs["image_mean"] == processor.image_mean
    assert kwargs["image_std"] == processor.image_std
    assert kwargs["resample"] == processor.resample
    assert kwargs["grid_pinpoints"] == processor.image_grid_pinpoints
    assert kwargs["rescale_factor"] == 1 / 255


@pytest.mark.parametrize(
    "key, value",
    [
        ("do_resize", False),
        ("do_rescale", False),
        ("do_normalize", False),
        ("do_center_crop", True),
        ("size", {"height": 384, "width": 336}),
        ("size", {"height": 336, "width": 336}),
        ("image_grid_pinpoints", [[384, 384]]),
    ],
)
def test_image_converter_refuses(key, value):
    with pytest.raises(ValueError, match=key):
        image_converter_kwargs(HUB, {**PROCESSOR, key: value})


def test_max_tiles_from_the_aspect_ratio():
    config = changed("vision_aspect_ratio", "anyres_max_4")
    assert image_converter_kwargs(config)["max_tiles"] == 4
