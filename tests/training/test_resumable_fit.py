"""A training that is stopped and started again is the same training."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_visor.training import adamw
from keras_visor.training import fit
from keras_visor.training.budget_sampling import draw_budget

RATES = {"vision_encoder": 1e-3}
SHARES = [0.5, 0.5]


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C after a number of batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def compiled(load_small):
    lm = load_small()
    # A schedule goes on where it was; parts have optimizers of their own.
    rate = keras.optimizers.schedules.CosineDecay(0.01, 20)
    lm.compile(optimizer=adamw(lm, rate, RATES))
    return lm


def run(lm, samples, directory=None, **arguments):
    arguments = {"num_steps": 7, "save_every": 2, **arguments}
    return fit(
        lm,
        samples,
        directory=directory,
        batch_size=5,
        shares=SHARES,
        seed=2,
        verbose=0,
        **arguments,
    )


def test_interrupted_and_resumed(load_small, samples, weights_of, tmp_path):
    lm = compiled(load_small)
    lm.optimizer.build(lm.trainable_variables)
    start = [
        (v, np.array(ops.convert_to_numpy(v)))
        for v in (*lm.weights, *lm.optimizer.variables)
    ]
    history = run(lm, samples)
    weights = weights_of(lm)
    assert len(history["loss"]) == 4
    assert len(set(history["loss"])) == 4

    for variable, value in start:
        variable.assign(value)
    with pytest.raises(KeyboardInterrupt):
        run(lm, samples, tmp_path, callbacks=[Interrupt(5)])
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 4
    # What a kill while saving leaves behind.
    (tmp_path / "partial_step_00000006.weights.h5").write_bytes(b"half")

    resumed = compiled(load_small)
    again = run(resumed, samples, tmp_path)
    assert again.keys() == history.keys()
    for name in history:
        np.testing.assert_allclose(again[name], history[name], rtol=1e-5)
    for weight, expected in zip(weights_of(resumed), weights, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)
    # Those of a model that never went on are far away.
    assert any(
        np.abs(weight - expected).max() > 1e-3
        for weight, expected in zip(weights_of(lm), weights, strict=True)
    )
    files = {path.name for path in tmp_path.glob("step_*")}
    assert files == {"step_00000007.weights.h5"}

    # Complete: nothing is left to do but to load.
    idle = compiled(load_small)
    assert run(idle, samples, tmp_path, callbacks=[Interrupt(0)]) == again
    for weight, expected in zip(
        weights_of(idle), weights_of(resumed), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)

    check_refusals(load_small, samples, tmp_path)


def check_refusals(load_small, samples, directory):
    lm = compiled(load_small)
    with pytest.raises(ValueError, match="another training.*progress.json"):
        fit(lm, samples, 7, directory, batch_size=5, shares=SHARES, seed=3)
    with pytest.raises(ValueError, match="in settings .*None there, .*2"):
        run(lm, samples, directory, settings={"stage": 2})
    with pytest.raises(ValueError, match="longer training.*step 7.*num_steps"):
        run(lm, samples, directory, num_steps=6)
    three = [0.2, 0.3, 0.5]
    with pytest.raises(ValueError, match="`shares` must be one for each.*2"):
        fit(lm, samples, 7, batch_size=5, shares=three)
    lm.backbone.vision_tower.trainable = False
    with pytest.raises(ValueError, match="trainable parameters"):
        run(lm, samples, directory)
    (directory / "progress.json").write_text("")
    with pytest.raises(ValueError, match="progress.json` is damaged"):
        run(lm, samples, directory)


class Recorder(keras.Model):
    """Notes what `fit` is asked to do."""

    def __init__(self):
        super().__init__()
        self.epochs = []
        self.batches = []

    def fit(
        self, x, initial_epoch, epochs, steps_per_epoch, callbacks, shuffle
    ):
        assert (shuffle, epochs) == (False, 3)
        tf_data = hasattr(x, "as_numpy_iterator")
        batches = list(
            x.as_numpy_iterator()
            if tf_data
            else map(x.__getitem__, range(len(x)))
        )
        self.batches += batches
        callbacks = keras.callbacks.CallbackList(callbacks, model=self)
        self.stop_training = False
        for epoch in range(initial_epoch, epochs):
            self.epochs.append(epoch)
            callbacks.on_epoch_end(epoch, {"loss": 0.5})
            del batches[: steps_per_epoch or len(batches)]
            if self.stop_training:
                break
        assert not batches


def test_what_a_batch_is(samples):
    """Each step has the samples and the budget that it should have."""
    model = Recorder()
    history = fit(model, samples, 5, batch_size=4, save_every=2, shares=SHARES)
    assert history == {"loss": [0.5, 0.5, 0.5]}
    assert model.epochs == [0, 1, 2]
    batches = model.batches
    assert [len(batch["prompts"]) for batch in batches] == [4, 4, 2, 4, 4]
    prompts = [id(i) for batch in batches[:3] for i in batch["images"]]
    assert sorted(prompts) == sorted(map(id, samples["images"]))
    assert [batch["budget"][0] for batch in batches] == [
        draw_budget(SHARES, 0, step) for step in range(5)
    ]


def test_tf_data_starts_again_when_it_ends():
    """And is read in one go, but for an epoch that is not whole."""
    import tensorflow as tf

    columns = {"prompts": ["a", "b", "c"]}
    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(2)
    model = Recorder()
    fits = []
    model.fit = lambda *args, **kwargs: (
        fits.append(kwargs["initial_epoch"]),
        Recorder.fit(model, *args, **kwargs),
    )
    history = fit(model, dataset, 5, save_every=2, shares=SHARES)
    assert history == {"loss": [0.5, 0.5, 0.5]}
    assert (fits, model.epochs) == ([0, 2], [0, 1, 2])
    prompts = [batch["prompts"].tolist() for batch in model.batches]
    assert prompts == [[b"a", b"b"], [b"c"]] * 2 + [[b"a", b"b"]]
    assert [batch["budget"][0] for batch in model.batches] == [
        draw_budget(SHARES, 0, step) for step in range(5)
    ]


def test_tf_data_interrupted_and_resumed(
    load_small, samples, weights_of, tmp_path
):
    import tensorflow as tf

    text = {name: samples[name] for name in ("prompts", "responses")}
    text["prompts"] = [p.replace("<image>", "") for p in text["prompts"]]
    dataset = tf.data.Dataset.from_tensor_slices(text).batch(2)

    def train(directory, **arguments):
        lm = compiled(load_small)
        fit(lm, dataset, 7, directory, save_every=2, verbose=0, **arguments)
        return lm

    whole = train(tmp_path / "whole")
    directory = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        train(directory, callbacks=[Interrupt(5)])
    assert json.loads((directory / "progress.json").read_text())["step"] == 4
    resumed = train(directory)
    for weight, expected in zip(
        weights_of(resumed), weights_of(whole), strict=True
    ):
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["num_steps", "batch_size", "save_every"])
def test_bad_counts(samples, name):
    arguments = {"num_steps": 3, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be 1 or more"):
        fit(keras.Model(), samples, **arguments)


def test_bad_data():
    with pytest.raises(TypeError, match="`data` must be.*list"):
        fit(keras.Model(), [1, 2], 3)
