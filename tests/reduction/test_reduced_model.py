"""A model with a reducer: answers, training, presets, bad input."""

import keras
import keras_hub
import numpy as np
import pytest
from model_checks import batch
from model_checks import check_rows
from model_checks import outputs
from model_checks import preprocess
from samples import MAX_LENGTH
from samples import SAMPLES

from keras_visor import EncodedImages
from keras_visor import VisorBackbone
from keras_visor import VisorCausalLM
from keras_visor import reduction
from keras_visor.generation.generator import Generator

IMAGES = ["one image", "strip"]
TRAINING = {**batch(IMAGES), "responses": ["red", "12"], "budget": [1, 0]}
OPTIONS = {"batch_size": 2, "verbose": 0}


@pytest.fixture(scope="module")
def lm(visor_directory):
    return VisorCausalLM.from_preset(visor_directory)


def ask(lm, samples, **arguments):
    arguments = {"max_length": MAX_LENGTH, "strip_prompt": True, **arguments}
    return lm.generate(samples, **arguments)


def first_tokens(lm, inputs):
    """The likeliest next token of each prompt."""
    logits = outputs(lm, inputs)
    last = inputs["padding_mask"].sum(axis=1) - 1
    ids = logits[np.arange(len(last)), last].argmax(axis=-1)
    return lm.preprocessor.tokenizer.detokenize([[int(i)] for i in ids])


@pytest.mark.parametrize(
    "reducer",
    [
        reduction.AveragePooling(0.5),
        reduction.VisionZip(0.3),
        reduction.VisPruner(0.3),
        reduction.PyramidDrop(0.5, layers=[0, 3]),
    ],
    ids=str,
)
def test_answers(lm, reducer):
    """Of a batch, of one sample, streamed, and what a call says, agree."""
    answers, report = ask(lm, batch(), reducer=reducer, return_report=True)
    for name, answer, budget in zip(
        SAMPLES, answers, report["budget"], strict=True
    ):
        alone = ask(lm, batch([name]), reducer=reducer, budget=int(budget))
        assert alone == [answer]
    assert answers[-1:] == ask(lm, batch(["text only"]))
    pieces = lm.stream(batch(), max_length=MAX_LENGTH, reducer=reducer)
    assert ["".join(text) for text in zip(*pieces, strict=True)] == answers

    lm.reducer = reducer
    assert ask(lm, batch()) == answers
    routed = keras.ops.convert_to_numpy(lm.route(preprocess(lm, batch())))
    assert routed.argmax(axis=-1).tolist() == report["budget"].tolist()
    inputs = preprocess(lm, batch(budget=report["budget"].tolist()))
    for answer, token in zip(answers, first_tokens(lm, inputs), strict=True):
        assert answer.startswith(token) and bool(answer) == bool(token)
    encoded = lm.encode([SAMPLES[name][1] for name in IMAGES])
    samples = {**batch(IMAGES), "images": encoded}
    assert ask(lm, samples) == answers[:2]
    lm.reducer = None
    assert ask(lm, batch()) != answers


@pytest.mark.parametrize(
    "reducer",
    [
        reduction.VisionZip(1),
        reduction.HiRED(1),
        reduction.FastV(1, layer=0),
    ],
    ids=str,
)
def test_a_rate_of_one_changes_nothing(lm, reducer):
    assert ask(lm, batch(), reducer=reducer) == ask(lm, batch())


@pytest.mark.parametrize(
    "reducer",
    [
        reduction.AveragePooling(0.5),
        reduction.VisionZip(0.3),
        reduction.FastV(0.5, layer=0),
    ],
    ids=str,
)
def test_bfloat16_is_close(visor_directory, reducer):
    rounded, lm = (
        VisorCausalLM.from_preset(visor_directory, dtype=dtype, reducer=reducer)
        for dtype in ("bfloat16", "float32")
    )
    inputs = preprocess(lm, batch(IMAGES, budget=[2, 0]))
    mask = inputs["padding_mask"]
    logits, expected = (outputs(each, inputs)[mask] for each in (rounded, lm))
    assert np.corrcoef(expected.ravel(), logits.ravel())[0, 1] > 0.99
    lm.reducer = None
    unreduced = outputs(lm, inputs)[mask]
    assert np.corrcoef(unreduced.ravel(), logits.ravel())[0, 1] < 0.99


def test_nothing_compiles_twice(lm):
    programs = lm.make_generate_function().programs
    ask(lm, batch(), reducer=reduction.UniformChoice(0.4), budget=1)
    compiled = programs.num_compiled
    assert (compiled > 0) == programs.compiles
    ask(lm, batch(), reducer=reduction.UniformChoice(0.4), budget=1)
    assert programs.num_compiled == compiled


def test_beams(visor_directory):
    lm = VisorCausalLM.from_preset(visor_directory)
    lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=1))
    reducer = reduction.PyramidDrop(0.5, layers=[0, 3])
    beams = ask(lm, batch(IMAGES), reducer=reducer, budget=1)
    lm.compile(sampler="greedy")
    assert ask(lm, batch(IMAGES), reducer=reducer, budget=1) == beams


def test_saved_with_a_preset(lm, tmp_path):
    lm.reducer = reduction.RandomChoice(0.3, seed=4)
    lm.save_to_preset(str(tmp_path))
    again = VisorCausalLM.from_preset(tmp_path)
    assert again.reducer == lm.reducer
    inputs = preprocess(lm, batch())
    expected = outputs(lm, inputs)[inputs["padding_mask"]]
    np.testing.assert_allclose(
        outputs(again, inputs)[inputs["padding_mask"]], expected, atol=1e-5
    )
    plain = VisorCausalLM.from_preset(tmp_path, reducer=None)
    assert plain.reducer is None
    lm.reducer = None
    check_rows(outputs(plain, inputs), outputs(lm, inputs), atol=1e-5)


@pytest.mark.parametrize(
    "reducer",
    [reduction.VisPruner(0.3), reduction.FastV(0.5, layer=0)],
    ids=str,
)
def test_training(small_directory, reducer):
    lm = VisorCausalLM.from_preset(small_directory)
    # Of other visual tokens others would be kept, and the loss would jump.
    lm.backbone.vision_tower.trainable = False
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    without = lm.evaluate(TRAINING, **OPTIONS)[0]
    lm.reducer = reducer
    loss = lm.evaluate(TRAINING, **OPTIONS)[0]
    assert loss != without
    losses = lm.fit(TRAINING, epochs=2, **OPTIONS).history["loss"]
    assert losses[0] == pytest.approx(loss, abs=1e-5)
    assert losses[1] < losses[0]
    # What was compiled with the reducer is not what runs without.
    lm.reducer = None
    without = lm.evaluate(TRAINING, **OPTIONS)[0]
    assert without != pytest.approx(losses[1])


def test_training_with_a_reducer_for_one_call(small_directory):
    lm = VisorCausalLM.from_preset(small_directory)
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    without = lm.evaluate(TRAINING, **OPTIONS)[0]
    reducer = reduction.AveragePooling(0.5)
    loss = lm.evaluate(TRAINING, reducer=reducer, **OPTIONS)[0]
    assert loss != pytest.approx(without)
    (first,) = lm.fit(TRAINING, reducer=reducer, **OPTIONS).history["loss"]
    assert first == pytest.approx(loss, abs=1e-5) and lm.reducer is None


def test_programs_of_another_reducer_are_not_taken(small_directory):
    """Not even while they live on."""
    lm = VisorCausalLM.from_preset(small_directory)
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    without = lm.evaluate(TRAINING, **OPTIONS)[0]
    programs = [lm.test_function]
    lm.reducer = reduction.AveragePooling(0.5)
    loss = lm.evaluate(TRAINING, **OPTIONS)[0]
    programs.append(lm.test_function)
    assert loss != pytest.approx(without)
    again = lm.evaluate(TRAINING, reducer=None, **OPTIONS)[0]
    assert again == pytest.approx(without)
    assert lm.test_function is programs[1]


def test_the_reducer_changes_while_training(small_directory):
    """In a callback, for one call and for good."""
    lm = VisorCausalLM.from_preset(small_directory)
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    without = lm.evaluate(TRAINING, **OPTIONS)[0]
    reducer = reduction.AveragePooling(0.5)
    losses = []

    class Changes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            losses.append(lm.evaluate(TRAINING, reducer=None, **OPTIONS)[0])
            if epoch == 1:
                lm.reducer = None

    lm.reducer = reducer
    history = lm.fit(TRAINING, epochs=4, callbacks=[Changes()], **OPTIONS)
    np.testing.assert_allclose(losses, [without] * 4, rtol=1e-5)
    losses = history.history["loss"]
    np.testing.assert_allclose(losses[2:], [without] * 2, rtol=1e-5)
    assert losses[1] == pytest.approx(losses[0])
    assert losses[0] != pytest.approx(without)


# === Bad input, refused before any work ===


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(Generator, "generate", None)
    monkeypatch.setattr(Generator, "encode", None)


@pytest.mark.parametrize(
    "reducer, error, message",
    [
        ("vision_zip", TypeError, "`reducer` must be one of .*'vision_zip'"),
        (0.5, TypeError, "`reducer` must be one of .*0.5"),
        (reduction.FastV(0.5, layer=6), ValueError, r"\[0, 3\].*after \[6\]"),
        (reduction.FastV(0.5, layer=-1), ValueError, r"after \[-1\]"),
        # Only some budgets switch layer 1 on, and none layer 2.
        (reduction.FastV(0.5), ValueError, r"whatever the budget.*after \[1\]"),
        (reduction.PyramidDrop(0.5), ValueError, r"after \[2\]"),
    ],
)
def test_refuses_reducers(lm, no_work, reducer, error, message):
    with pytest.raises(error, match=message):
        ask(lm, batch(), reducer=reducer)
    with pytest.raises(error, match=message):
        lm.reducer = reducer
    assert lm.reducer is None


def test_refuses_an_encoder_without_attention():
    images = keras.Input((8, 8, 3))
    pooled = keras.layers.AveragePooling2D(4)(images)
    encoder = keras.Model(images, keras.layers.Reshape((4, 3))(pooled))
    backbone = VisorBackbone(
        encoder,
        vocabulary_size=20,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=12,
    )
    VisorCausalLM(backbone, reducer=reduction.AveragePooling(0.5))
    for name in ("VisionZip", "VisPruner", "HiRED"):
        with pytest.raises(ValueError, match=f"SigLIP.*{name}.*without"):
            VisorCausalLM(backbone, reducer=getattr(reduction, name)(0.5))


def test_refuses_images_encoded_without_attention(lm, monkeypatch):
    encoded = lm.encode(SAMPLES["strip"][1][0])
    monkeypatch.setattr(Generator, "generate", None)
    samples = {**batch(["strip"]), "images": encoded}
    with pytest.raises(ValueError, match="without the attention.*VisionZip"):
        ask(lm, samples, reducer=reduction.VisionZip(0.5))
    bare = EncodedImages(encoded.tokens, encoded.image_lengths)
    with pytest.raises(ValueError, match="without `indices` and `weights`"):
        ask(
            lm,
            {**samples, "images": bare},
            reducer=reduction.AveragePooling(0.5),
        )
