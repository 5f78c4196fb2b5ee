"""Smaller numbers and recomputed states: int8, bfloat16, rematerialisation."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from model_checks import batch
from model_checks import outputs
from model_checks import preprocess
from samples import MAX_LENGTH

from keras_visor import VisorBackbone
from keras_visor import VisorCausalLM
from keras_visor import VisorCausalLMPreprocessor
from keras_visor import VisorTokenizer
from keras_visor import uniform_layout
from keras_visor.layers import decoder_layer


def size_in_bytes(lm):
    return sum(
        np.prod(w.shape) * np.dtype(w.dtype).itemsize
        for w in lm.backbone.weights
    )


@pytest.mark.parametrize("budget", [0, 2])
def test_bfloat16_is_close(visor, visor_directory, budget):
    lm = VisorCausalLM.from_preset(visor_directory, dtype="bfloat16")
    inputs = preprocess(visor, batch(budget=[budget] * 5))
    mask = inputs["padding_mask"]
    expected, logits = outputs(visor, inputs)[mask], outputs(lm, inputs)[mask]
    assert np.corrcoef(expected.ravel(), logits.ravel())[0, 1] > 0.999
    answers, expected = (
        model.generate(
            batch(), max_length=MAX_LENGTH, budget=budget, strip_prompt=True
        )
        for model in (lm, visor)
    )
    # Rounded, some answers part; where they begin, most do not.
    alike = [a[:1] == e[:1] for a, e in zip(answers, expected, strict=True)]
    assert sum(alike) >= 3


def test_int8(small_directory, tmp_path):
    small, lm = map(VisorCausalLM.from_preset, [small_directory] * 2)
    data = batch(["one image", "strip"])

    def answers_of(model):
        return model.generate(data, max_length=MAX_LENGTH, budget=1)

    assert answers_of(lm) == answers_of(small)
    lm.quantize("int8")
    assert size_in_bytes(lm) < 0.5 * size_in_bytes(small)

    inputs = preprocess(lm, data)
    mask = inputs["padding_mask"]
    expected, logits = outputs(small, inputs)[mask], outputs(lm, inputs)[mask]
    assert np.corrcoef(expected.ravel(), logits.ravel())[0, 1] > 0.99
    # Not what the program of before the quantization says.
    answers = answers_of(lm)
    assert answers != answers_of(small)

    lm.save_to_preset(str(tmp_path / "int8"))
    again = VisorCausalLM.from_preset(tmp_path / "int8")
    np.testing.assert_allclose(outputs(again, inputs)[mask], logits, atol=1e-4)
    assert answers == answers_of(again)


def test_int8_of_a_model_made_by_hand(visor, tmp_path):
    """Whose encoder has the name that Keras gave it, before any answer."""
    backbone = VisorBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=7,
            hidden_dim=16,
            num_layers=2,
            num_heads=2,
            intermediate_dim=32,
            image_shape=(28, 28, 3),
        ),
        vocabulary_size=416,
        num_layers=3,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=32,
        intermediate_dim=48,
        **uniform_layout(3),
    )
    tokenizer = VisorTokenizer(visor.preprocessor.tokenizer.definition)
    converter = visor.preprocessor.image_converter
    lm = VisorCausalLM(
        backbone, VisorCausalLMPreprocessor(tokenizer, converter)
    )
    lm.quantize("int8")
    lm.save_to_preset(str(tmp_path))
    again = VisorCausalLM.from_preset(str(tmp_path))
    for first, second in zip(again.weights, lm.weights, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(first), ops.convert_to_numpy(second)
        )


def is_recomputed(lm, data):
    """Whether the program that JAX traces has recomputed parts."""
    import jax

    x, _, _ = lm.preprocessor(data)
    return "remat" in str(jax.make_jaxpr(lm.backbone)(x))


def test_rematerialisation_trains_alike(small_directory, monkeypatch):
    """And on PyTorch, where it can be counted, blocks run once more."""
    losses, blocks, recomputed = [], [], []
    finish = decoder_layer.VisorDecoderLayer._finish_block

    def counted(*arguments):
        blocks.append(1)
        return finish(*arguments)

    monkeypatch.setattr(
        decoder_layer.VisorDecoderLayer, "_finish_block", counted
    )
    runs = []
    decoder = [f"decoder_layer_{index}" for index in range(3)]
    for names in ([], [*decoder, "cross_attention_0"]):
        with keras.RematScope("list_of_layers", layer_names=names):
            lm = VisorCausalLM.from_preset(small_directory)
        lm.compile(optimizer=keras.optimizers.SGD(0.1))
        data = {
            **batch(["one image", "strip"]),
            "responses": ["red", "12"],
            "budget": [1, 1],
        }
        blocks.clear()
        history = lm.fit(data, batch_size=2, epochs=3, verbose=0)
        losses.append(history.history["loss"])
        runs.append(len(blocks))
        if keras.config.backend() == "jax":
            recomputed.append(is_recomputed(lm, data))
    if keras.config.backend() == "torch":
        # Three steps, and before them a call that builds.
        assert runs[1] - runs[0] == 3 * runs[0] / 4
    if keras.config.backend() == "jax":
        assert recomputed == [False, True]
    # Recomputed or not, the answers stand.
    answers = lm.generate(batch(["strip"]), max_length=MAX_LENGTH, budget=1)
    assert len(answers) == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][-1] < losses[0][0]
