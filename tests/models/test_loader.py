import json
import shutil

import keras
import numpy as np
import pytest
import transformers
from made_checkpoints import make_checkpoint
from made_checkpoints import tokenizer_of

from keras_visor import VisorBackbone
from keras_visor import VisorCausalLM
from keras_visor import VisorCausalLMPreprocessor
from keras_visor import VisorImageConverter
from keras_visor import VisorTokenizer
from keras_visor import uniform_layout
from keras_visor._compat import BUILTIN_PRESETS
from keras_visor.models import loader as loader_module
from keras_visor.models.loader import get_loader


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    "cls",
    [
        VisorBackbone,
        VisorCausalLM,
        VisorCausalLMPreprocessor,
        VisorImageConverter,
        VisorTokenizer,
    ],
)
def test_every_class_loads_a_checkpoint(base, cls):
    assert type(cls.from_preset(base)) is cls
    assert type(cls.from_preset(str(base))) is cls


def test_without_weights(tmp_path, base):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    assert VisorBackbone.from_preset(tmp_path, False).num_layers == 6
    with pytest.raises(ValueError, match="neither `model.safetensors`"):
        VisorBackbone.from_preset(tmp_path)


def drawn_shapes(monkeypatch):
    """A set that gets the shapes of what Keras' initializers draw."""
    shapes = set()

    def record(draw):
        def record_and_draw(initializer, shape, dtype=None):
            shapes.add(tuple(shape))
            return draw(initializer, shape, dtype)

        return record_and_draw

    # All others that the model uses derive from these two.
    for cls in (
        keras.initializers.RandomNormal,
        keras.initializers.VarianceScaling,
    ):
        monkeypatch.setattr(cls, "__call__", record(cls.__call__))
    return shapes


@pytest.mark.parametrize("kind", ["checkpoint", "preset"])
def test_weights_that_are_read_are_not_drawn(
    tmp_path, base, visor, monkeypatch, kind
):
    source, layout = base, uniform_layout(6)
    if kind == "preset":
        visor.save_to_preset(tmp_path)
        source, layout = str(tmp_path), {}
    drawn = drawn_shapes(monkeypatch)
    # `HostNormal` draws from it; called, it would raise.
    monkeypatch.setattr(np.random, "default_rng", None)
    backbone = VisorBackbone.from_preset(source, **layout)
    layer = backbone.decoder_layers[0]
    block = backbone.vision_tower.encoder.layers[-1]
    matrices = {
        tuple(variable.shape)
        for variable in (
            backbone.token_embedding.embeddings,
            layer.query_dense.kernel,
            layer.key_dense.kernel,
            layer.output_dense.kernel,
            layer.gate_dense.kernel,
            layer.down_dense.kernel,
            backbone.vision_tower.projector_in.kernel,
            block.mlp.fc1.kernel,
            block.mlp.fc2.kernel,
            block.self_attn.query_dense.kernel,
            block.self_attn.output_dense.kernel,
        )
    }
    assert drawn and not matrices & drawn
    monkeypatch.undo()

    drawn = drawn_shapes(monkeypatch)
    VisorBackbone.from_preset(source, load_weights=False, **layout)
    matrices.remove(tuple(backbone.token_embedding.embeddings.shape))
    assert matrices <= drawn


class WithHead(VisorCausalLM):
    """A task with weights that no preset of ours has."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.head = keras.layers.Dense(4)
        self.head.build((None, 3))


def test_a_head_of_ones_own_is_drawn(tmp_path, visor):
    visor.save_to_preset(tmp_path)
    head = WithHead.from_preset(str(tmp_path)).head
    assert keras.ops.convert_to_numpy(head.kernel).std() > 0.1


def test_a_new_policy_is_drawn(base):
    def policy(seed, **kwargs):
        keras.utils.set_random_seed(seed)
        backbone = VisorBackbone.from_preset(
            base, **uniform_layout(6), policy_hidden_dim=8, **kwargs
        )
        return {
            weight.path: keras.ops.convert_to_numpy(weight)
            for weight in backbone.policy.weights
        }

    first, again, other = policy(0), policy(0), policy(1)
    for path, value in first.items():
        np.testing.assert_array_equal(value, again[path])
        if path.endswith(("routing_token", "kernel")):
            assert 0.01 < value.std() < 1
            assert not np.array_equal(value, other[path])
    # Beside it, everything is as without weights.
    unset = policy(0, load_weights=False)
    assert unset.keys() == first.keys()
    for path, value in unset.items():
        assert (value.std() > 0) == (first[path].std() > 0)


def test_unknown_names(monkeypatch):
    monkeypatch.setitem(BUILTIN_PRESETS, "visor_tiny_en", {})
    with pytest.raises(ValueError, match=r"Did you mean \['visor_tiny_en'\]"):
        get_loader("visor_tiny")
    with pytest.raises(ValueError, match="directory that exists.*no/where"):
        get_loader("./no/where")


def test_a_handle_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(loader_module, "read_json", lambda *args: None)
    with pytest.raises(ValueError, match="hf://a/b.*could not be fetched"):
        get_loader("hf://a/b")


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "has no `config.json`"),
        ("{", "config.json` is not JSON"),
        ("[]", "config.json` must hold a JSON object"),
        ("{}", "model_type=None"),
        ('{"model_type": "qwen2"}', "model_type='qwen2'"),
    ],
)
def test_damaged_config(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        VisorCausalLM.from_preset(tmp_path)


def test_image_token_must_agree(tmp_path, base):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["image_token_index"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="<image>.*same id"):
        VisorTokenizer.from_preset(tmp_path)


@pytest.mark.parametrize("source", ["tokenizer_config", "added_tokens"])
def test_tokenizer_from_vocabulary_and_merges(tmp_path, base, source):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    if source == "added_tokens":
        (tmp_path / "tokenizer_config.json").unlink()
    tokenizer = VisorTokenizer.from_preset(tmp_path)
    for text in (
        "<|im_start|>user <image>\nHow many (a) isn't it?  12345\n\n  x",
        "图片里有什么?e\u0301 <|im_end|><|endoftext|>",
    ):
        assert tokenizer(text) == tokenizer_of(base)(text).input_ids
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ValueError, match="neither `tokenizer.json` nor"):
        VisorTokenizer.from_preset(tmp_path)


def test_damaged_tokenizer(tmp_path, base):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json` does not define"):
        VisorTokenizer.from_preset(tmp_path)


@pytest.mark.parametrize(
    "name, content",
    [
        ("tokenizer_config.json", {"added_tokens_decoder": ["<image>"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"413": {}}}),
        ("added_tokens.json", {"<image>": [413]}),
    ],
)
def test_damaged_added_tokens(tmp_path, base, name, content):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="The added tokens of .*tokenizer_con"):
        VisorTokenizer.from_preset(tmp_path)


def test_without_an_image_processor(tmp_path, base):
    """Another model's mean and deviation would make it answer wrongly."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*processor_config.json"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json, or"):
        VisorCausalLM.from_preset(tmp_path)


@pytest.mark.parametrize("spelling", ["hub", "new", "mixed"])
def test_image_converter_settings(tmp_path, spelling):
    made = make_checkpoint(tmp_path, spelling=spelling)
    converter = VisorImageConverter.from_preset(made)
    config = transformers.LlavaOnevisionConfig.from_pretrained(made)
    assert converter.tile_size == config.vision_config.image_size
    assert converter.image_mean == (0.5, 0.5, 0.5)
    assert [list(p) for p in converter.grid_pinpoints] == (
        config.image_grid_pinpoints
    )
    assert VisorImageConverter.from_preset(made, max_tiles=2).max_tiles == 2
