"""What `save_to_preset` writes, read here, elsewhere and in other types."""

import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from model_checks import batch
from model_checks import outputs
from model_checks import own_preprocessor
from model_checks import preprocess

from keras_visor import VisorBackbone
from keras_visor import VisorCausalLM
from keras_visor import VisorCausalLMPreprocessor
from keras_visor import VisorImageConverter
from keras_visor import VisorTokenizer
from keras_visor import uniform_layout

BACKEND = keras.config.backend()

SAVE = """
import sys
import keras_visor
lm = keras_visor.VisorCausalLM.from_preset(sys.argv[1])
lm.save_to_preset(sys.argv[2])
"""


def check_equal(first, second):
    assert len(first.weights) == len(second.weights)
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)
        )


@pytest.fixture(scope="module")
def preset(visor, tmp_path_factory):
    directory = tmp_path_factory.mktemp("preset")
    visor.save_to_preset(directory)
    return str(directory)


@pytest.fixture(scope="module")
def loaded(preset):
    return VisorCausalLM.from_preset(preset)


def test_round_trip(visor, loaded):
    check_equal(loaded, visor)
    inputs = preprocess(visor, batch(budget=[0, 1, 2, 0, 1]))
    keras.tree.map_structure(
        np.testing.assert_array_equal,
        preprocess(loaded, batch(budget=[0, 1, 2, 0, 1])),
        inputs,
    )
    np.testing.assert_array_equal(
        outputs(loaded, inputs), outputs(visor, inputs)
    )
    assert loaded.backbone.get_config() == visor.backbone.get_config()
    assert loaded.backbone.policy is not None


def test_keras_hub_finds_it(preset, visor):
    lm = keras_hub.models.CausalLM.from_preset(preset)
    assert type(lm) is VisorCausalLM
    check_equal(lm, visor)
    assert type(keras_hub.models.Backbone.from_preset(preset)) is VisorBackbone


@pytest.mark.parametrize(
    "cls", [VisorCausalLMPreprocessor, VisorImageConverter, VisorTokenizer]
)
def test_parts(preset, visor, cls):
    part = cls.from_preset(preset)
    assert type(part) is cls
    ours = {
        VisorCausalLMPreprocessor: visor.preprocessor,
        VisorImageConverter: visor.preprocessor.image_converter,
        VisorTokenizer: visor.preprocessor.tokenizer,
    }[cls]
    config, same = part.get_config(), ours.get_config()
    for name in config.keys() - {"tokenizer", "image_converter", "name"}:
        assert config[name] == same[name], name


@pytest.mark.parametrize("source", ["preset", "visor_directory"])
def test_bfloat16_reaches_every_weight(request, visor, source):
    directory = request.getfixturevalue(source)
    lm = VisorCausalLM.from_preset(directory, dtype="bfloat16")
    dtypes = {
        keras.backend.standardize_dtype(weight.dtype) for weight in lm.weights
    }
    # Only the encoder's position ids are no numbers to compute with.
    assert {dtype for dtype in dtypes if "int" not in dtype} == {"bfloat16"}
    for half, full in zip(lm.weights, visor.weights, strict=True):
        full = ops.cast(full, half.dtype)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ops.cast(half, "float32")),
            ops.convert_to_numpy(ops.cast(full, "float32")),
        )


def test_a_preset_that_another_backend_wrote(tmp_path, visor, visor_directory):
    other = "jax" if BACKEND == "torch" else "torch"
    subprocess.run(
        [sys.executable, "-c", SAVE, visor_directory, tmp_path],
        env={
            **os.environ,
            "KERAS_BACKEND": other,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        check=True,
    )
    lm = VisorCausalLM.from_preset(tmp_path)
    check_equal(lm, visor)
    assert any("policy" in weight.path for weight in lm.weights)


def test_an_encoder_of_ones_own(tmp_path, visor):
    images = keras.Input((28, 28, 3))
    patches = keras.layers.Conv2D(12, 7, strides=7)(images)
    encoder = keras.Model(images, keras.layers.Reshape((16, 12))(patches))
    backbone = VisorBackbone(
        vision_encoder=encoder,
        vocabulary_size=416,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=12,
        **uniform_layout(2),
    )
    assert backbone.patches_per_tile == 16
    lm = VisorCausalLM(backbone, own_preprocessor(visor))
    samples = batch(["one image"], budget=[1])
    logits = outputs(lm, preprocess(lm, samples))
    lm.save_to_preset(tmp_path)
    copy = VisorCausalLM.from_preset(tmp_path)
    check_equal(copy, lm)
    np.testing.assert_array_equal(
        outputs(copy, preprocess(copy, samples)), logits
    )
    # The image counts: blind, it would answer otherwise.
    samples["images"] = [[255 - samples["images"][0][0]]]
    assert np.any(outputs(copy, preprocess(copy, samples)) != logits)
