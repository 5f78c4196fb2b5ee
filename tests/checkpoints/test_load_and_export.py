import json
import shutil

import keras
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from made_checkpoints import default_visor_config
from made_checkpoints import make_checkpoint
from made_checkpoints import tokenizer_of

from keras_visor import VisorCausalLM
from keras_visor import uniform_layout
from keras_visor.checkpoints import export
from keras_visor.checkpoints.name_map import canonical_name
from keras_visor.checkpoints.name_map import weight_map

QUESTION = "<|im_start|>user How many?<|im_end|><|im_start|>assistant\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def visor(tmp_path_factory):
    return make_checkpoint(
        tmp_path_factory.mktemp("visor"), visor_config=default_visor_config()
    )


def arrays(lm):
    """The weights of a model, by canonical name."""
    return {
        weight.name: keras.ops.convert_to_numpy(weight.variable).astype("f4")
        for weight in weight_map(lm.backbone)
    }


def check_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def file_tensors(directory):
    return {
        canonical_name(name): tensor
        for path in sorted(directory.glob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(path).items()
    }


def text_logits(lm):
    inputs = lm.preprocessor.generate_preprocess(
        {"prompts": [QUESTION]}, sequence_length=16
    )
    length = int(np.sum(np.asarray(inputs["padding_mask"])))
    return keras.ops.convert_to_numpy(lm(inputs))[0, :length]


def transformers_logits(directory):
    model, info = (
        transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(
            directory, output_loading_info=True
        )
    )
    ids = tokenizer_of(directory)(QUESTION, return_tensors="pt").input_ids
    with torch.no_grad():
        return model.float()(input_ids=ids).logits[0].numpy(), info


# === Loading ===


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spelling", ["hub", "new", "mixed"])
def test_spellings_and_ties(tmp_path, spelling, tied):
    made = make_checkpoint(
        tmp_path,
        spelling=spelling,
        tie_word_embeddings=tied,
        visor_config=default_visor_config(),
    )
    lm = VisorCausalLM.from_preset(made)
    assert lm.backbone.tie_word_embeddings is tied
    tensors = file_tensors(made)
    loaded = weight_map(lm.backbone)
    spare = lm.backbone.spare_tensors
    assert {weight.name for weight in loaded} | spare.keys() == tensors.keys()
    for weight in loaded:
        value = keras.ops.convert_to_numpy(weight.variable)
        np.testing.assert_array_equal(
            weight.to_torch(value), tensors[weight.name].numpy()
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_and_shards(tmp_path, base, dtype):
    made = make_checkpoint(tmp_path, dtype=dtype, num_shards=3)
    half = getattr(torch, dtype)
    loaded = arrays(VisorCausalLM.from_preset(made))
    for name, array in arrays(VisorCausalLM.from_preset(base)).items():
        rounded = torch.from_numpy(array).to(half).float().numpy()
        np.testing.assert_array_equal(loaded[name], rounded, err_msg=name)


def test_dtype_reaches_the_vision_encoder(base):
    lm = VisorCausalLM.from_preset(base, dtype="bfloat16")
    types = {
        keras.backend.standardize_dtype(weight.variable.dtype)
        for weight in weight_map(lm.backbone)
    }
    assert types == {"bfloat16"}


def test_base_becomes_a_visor(base):
    layout = uniform_layout(6)
    lm = VisorCausalLM.from_preset(base, **layout, policy_hidden_dim=8)
    assert lm.backbone.budgets == layout["budgets"]
    assert lm.preprocessor.num_budgets == len(layout["budgets"])
    assert lm.backbone.policy is not None
    loaded = arrays(lm)
    for layer in (0, 3):
        cross = f"visor.cross_attention.{layer}."
        decoder = f"language_model.model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj"):
            for part in (f"{name}.weight", f"{name}.bias"):
                np.testing.assert_array_equal(
                    loaded[cross + part], loaded[f"{decoder}self_attn.{part}"]
                )
        for name in ("query_norm", "key_value_norm"):
            np.testing.assert_array_equal(
                loaded[f"{cross}{name}.weight"],
                loaded[f"{decoder}input_layernorm.weight"],
            )
        for name in ("o_proj.weight", "position.weight", "position.bias"):
            assert not loaded[cross + name].any()


def test_policy_of_a_visor_can_be_replaced(visor):
    budgets = [[], [1, 4]]
    lm = VisorCausalLM.from_preset(
        visor, budgets=budgets, policy_hidden_dim=None
    )
    assert lm.backbone.policy is None and lm.backbone.budgets == budgets
    lm = VisorCausalLM.from_preset(visor, budgets=budgets, policy_hidden_dim=5)
    assert lm.backbone.policy.output_dense.kernel.shape == (5, 2)
    with pytest.raises(ValueError, match="policy_hidden_dim"):
        VisorCausalLM.from_preset(visor, budgets=budgets)


# === Damage ===


@pytest.fixture
def damaged(tmp_path, visor):
    """A copy of a checkpoint, and a function that rewrites its tensors."""
    directory = tmp_path / "damaged"
    shutil.copytree(visor, directory)
    path = directory / "model.safetensors"

    def rewrite(change):
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path)
        return directory

    return rewrite


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.5.mlp.up_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.bias",
        "visor.cross_attention.3.position.bias",
        "visor.policy.routing_token",
    ],
)
def test_missing_and_mis_shaped_tensors_are_named(damaged, name):
    directory = damaged(lambda t: t.update({name: t[name][..., :-1].clone()}))
    with pytest.raises(ValueError, match=rf"`{name}` has shape"):
        VisorCausalLM.from_preset(directory)
    directory = damaged(lambda t: t.pop(name))
    with pytest.raises(ValueError, match=rf"missing tensors: \['{name}'\]"):
        VisorCausalLM.from_preset(directory)


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.6.mlp.up_proj.weight",
        "visor.cross_attention.1.q_proj.bias",
        "model.visor.policy.norm.weight",
        "adapter.weight",
    ],
)
def test_extra_tensors_are_named(damaged, name):
    directory = damaged(lambda t: t.update({name: torch.ones(32)}))
    with pytest.raises(ValueError, match=rf"no place for: \['{name}'\]"):
        VisorCausalLM.from_preset(directory)


def test_truncated(damaged):
    directory = damaged(lambda t: None)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors.*truncated"):
        VisorCausalLM.from_preset(directory)


def test_visor_tensors_without_a_visor_config(damaged):
    directory = damaged(lambda t: None)
    config = json.loads((directory / "config.json").read_text())
    del config["visor_config"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no place for.*visor.policy"):
        VisorCausalLM.from_preset(directory)


def test_untied_without_a_head(damaged):
    directory = damaged(lambda t: None)
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = False
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="missing.*lm_head.weight"):
        VisorCausalLM.from_preset(directory)


def test_a_head_overrules_a_config_that_ties(damaged):
    name = "language_model.model.embed_tokens.weight"
    directory = damaged(lambda t: t.update({"lm_head.weight": t[name] + 1}))
    lm = VisorCausalLM.from_preset(directory)
    assert lm.backbone.tie_word_embeddings is False
    directory = damaged(lambda t: t.update({"lm_head.weight": t[name].clone()}))
    assert VisorCausalLM.from_preset(directory).backbone.tie_word_embeddings


# === Export ===


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spelling", ["hub", "new"])
def test_transformers_loads_an_export(tmp_path, spelling, tied):
    made = make_checkpoint(
        tmp_path / "made",
        spelling=spelling,
        tie_word_embeddings=tied,
        visor_config=default_visor_config(),
    )
    export(VisorCausalLM.from_preset(made), tmp_path / "out")
    logits, info = transformers_logits(tmp_path / "out")
    assert not info["missing_keys"]
    assert all(name.startswith("visor.") for name in info["unexpected_keys"])
    np.testing.assert_array_equal(logits, transformers_logits(made)[0])


def test_a_dense_export_has_nothing_of_visor(tmp_path, base):
    lm = VisorCausalLM.from_preset(base)
    export(lm, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "visor_config" not in config
    logits, info = transformers_logits(tmp_path)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    np.testing.assert_allclose(text_logits(lm), logits, rtol=1e-4, atol=1e-4)


def test_a_dense_model_with_a_policy(tmp_path, base):
    lm = VisorCausalLM.from_preset(base, policy_hidden_dim=8)
    export(lm, tmp_path)
    again = VisorCausalLM.from_preset(tmp_path)
    check_equal(arrays(again), arrays(lm))


def test_the_hub_spelling_is_written(tmp_path, visor):
    export(VisorCausalLM.from_preset(visor), tmp_path)
    written, made = file_tensors(tmp_path), file_tensors(visor)
    names = safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    assert sorted(names) == sorted(written) == sorted(made)
    for name in made:
        assert torch.equal(written[name], made[name]), name


def test_round_trip(tmp_path, visor):
    lm = VisorCausalLM.from_preset(visor)
    export(lm, tmp_path / "a" / "b")
    again = VisorCausalLM.from_preset(tmp_path / "a" / "b")
    check_equal(arrays(again), arrays(lm))
    first, second = lm.backbone.get_config(), again.backbone.get_config()
    for config in (first, second):
        del config["name"], config["vision_encoder"]["config"]["name"]
    assert first == second
    assert lm.preprocessor.tokenizer.definition == (
        again.preprocessor.tokenizer.definition
    )
    converters = [
        {**model.preprocessor.image_converter.get_config(), "name": None}
        for model in (lm, again)
    ]
    assert converters[0] == converters[1]


def test_the_same_tokens_in_transformers(tmp_path, visor):
    export(VisorCausalLM.from_preset(visor), tmp_path)
    text = "It's 12 <image>\n图片?  (a)<|im_end|>"
    assert (
        tokenizer_of(tmp_path)(text).input_ids
        == tokenizer_of(visor)(text).input_ids
    )
    assert tokenizer_of(tmp_path).eos_token == "<|im_end|>"


def test_shards_and_a_second_export(tmp_path, visor):
    lm = VisorCausalLM.from_preset(visor, dtype="bfloat16")
    (tmp_path / "notes.txt").write_text("mine")
    export(lm, tmp_path, max_shard_size=5e-5)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert (
        shards[-1] == f"model-{len(shards):05}-of-{len(shards):05}.safetensors"
    )
    check_equal(arrays(VisorCausalLM.from_preset(tmp_path)), arrays(lm))
    assert not transformers_logits(tmp_path)[1]["missing_keys"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "bfloat16"

    export(lm, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == [
        "model.safetensors"
    ]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_that_breaks_off_leaves_what_was_there(
    tmp_path, visor, monkeypatch
):
    lm = VisorCausalLM.from_preset(visor)
    directory = tmp_path / "out"
    export(lm, directory)
    before = {p.name: p.read_bytes() for p in directory.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("keras_visor.checkpoints.writer.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        export(lm, directory)
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_export_refuses(tmp_path, visor):
    lm = VisorCausalLM.from_preset(visor)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="directory.*qwen2"):
        export(lm, tmp_path)
    for layer in lm.backbone.vision_tower.encoder.layers:
        layer.intermediate_activation = "relu"
    with pytest.raises(ValueError, match="intermediate_activation=.*'relu'"):
        export(lm, tmp_path / "out")
    lm.preprocessor = None
    with pytest.raises(ValueError, match="preprocessor"):
        export(lm, tmp_path / "out")
