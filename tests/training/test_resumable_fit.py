"""A training that is stopped and started again is the same training."""

import json

import keras
import numpy as np
import pytest

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


@pytest.fixture(scope="module")
def uninterrupted(load_small, samples, weights_of):
    lm = compiled(load_small)
    history = run(lm, samples)
    return history, weights_of(lm)


def test_interrupted_and_resumed(
    load_small, samples, weights_of, uninterrupted, tmp_path
):
    history, weights = uninterrupted
    assert len(history["loss"]) == 4
    assert len(set(history["loss"])) == 4
    lm = compiled(load_small)
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
    lm.backbone.vision_tower.trainable = False
    with pytest.raises(ValueError, match="trainable parameters"):
        run(lm, samples, directory)


def test_what_a_batch_is(samples):
    """Each step has the samples and the budget that it should have."""
    seen = []

    class Recorder(keras.Model):
        def fit(self, x, initial_epoch, epochs, callbacks, shuffle):
            assert (shuffle, epochs) == (False, 3)
            seen.append((initial_epoch, [x[i] for i in range(len(x))]))
            history = keras.callbacks.History()
            history.history = {"loss": [0.5]}
            return history

    history = fit(
        Recorder(), samples, 5, batch_size=4, save_every=2, shares=SHARES
    )
    assert history == {"loss": [0.5, 0.5, 0.5]}
    assert [epoch for epoch, _ in seen] == [0, 1, 2]
    batches = [batch for _, stretch in seen for batch in stretch]
    assert [len(batch["prompts"]) for batch in batches] == [4, 4, 2, 4, 4]
    assert [batch["budget"][0] for batch in batches] == [
        draw_budget(SHARES, 0, step) for step in range(5)
    ]


def test_tf_data_goes_on_where_it_was(load_small, samples, tmp_path):
    """A dataset of tf.data starts again when it ends."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(
        {name: np.array(column) for name, column in samples.items()}
    ).batch(5)
    lm = load_small()
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    arguments = {"save_every": 1, "verbose": 0}
    losses = fit(lm, dataset, 3, tmp_path, **arguments)["loss"]
    assert losses[0] == losses[2] != losses[1]
    again = fit(lm, dataset, 4, tmp_path, **arguments)["loss"]
    assert again == [*losses, losses[1]]


@pytest.mark.parametrize("name", ["num_steps", "batch_size", "save_every"])
def test_bad_counts(samples, name):
    arguments = {"num_steps": 3, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be 1 or more"):
        fit(keras.Model(), samples, **arguments)


def test_bad_data():
    with pytest.raises(TypeError, match="`data` must be.*list"):
        fit(keras.Model(), [1, 2], 3)
