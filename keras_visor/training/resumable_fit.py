"""`fit`, for trainings that may be interrupted at any time."""

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from keras_visor.training.budget_sampling import sample_budgets
from keras_visor.training.checks import check_positive
from keras_visor.training.files import write_whole
from keras_visor.training.steps import Steps

PROGRESS = "progress.json"


def fit(
    model: keras.Model,
    data: Any,
    num_steps: int,
    directory: str | os.PathLike | None = None,
    batch_size: int = 32,
    save_every: int = 100,
    shares: Sequence[float] | None = None,
    shuffle: bool = True,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    **kwargs,
) -> dict[str, list[float]]:
    """`model.fit` for a number of steps, which goes on where it was stopped.

    Weights and optimizer are saved after every `save_every` steps, which
    Keras shows as an epoch. Started again with the same directory, after
    Ctrl-C or a kill, it goes on from there and meets the same batches in the
    same order, at the same budgets, as if nothing had happened: they depend
    on the seed and the step alone. A training that is complete is loaded.

    (`keras.callbacks.BackupAndRestore` starts the data afresh, and a model
    that it has restored once begins every later `fit` at that epoch.)

    Args:
        model: A compiled `keras.Model`, such as `VisorCausalLM`.
        data: What `VisorCausalLM.fit` takes: a dict of columns, a
            `keras.utils.PyDataset` or a `tf.data.Dataset` of batches. A
            dataset of tf.data starts again whenever it ends, is read up to
            where a resumed training goes on, and has to be in the same order
            each time.
        num_steps: int. The number of batches to train on.
        directory: str or path. Where to save. Defaults to `None`: nowhere.
        batch_size: int. For a dict. Defaults to `32`.
        save_every: int. Defaults to `100`.
        shares: sequence of float. How often a batch runs at each budget, see
            `sample_budgets`. Defaults to `None`: as the data say, which is
            the full budget where they say nothing.
        shuffle: bool. Whether each epoch shuffles the samples of a dict or
            the batches of a `PyDataset`. Defaults to `True`.
        seed: int. Of shuffling and of the budgets. Defaults to `0`.
        settings: dict of JSON values. What else makes this training what it
            is, by which a directory is told from another training's. Defaults
            to `None`: nothing else.
        **kwargs: Other arguments of the model's `fit`, such as `callbacks`,
            `validation_data` and `verbose`. Callbacks may begin anew with
            each epoch.

    Returns:
        A dict of the metrics, as in `keras.callbacks.History`: an entry for
        each epoch from the first on, whichever call ran it.

    Raises:
        ValueError: Bad counts; shares of another number than the model has
            budgets; or the directory holds another training, a longer one, or
            a damaged file.

    Example:
    ```python
    data = {
        "prompts": ["what colour is the square?"] * 8,
        "responses": ["red"] * 8,
        "images": [np.zeros((96, 96, 3), "uint8")] * 8,
    }
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    keras_visor.training.freeze_base(lm)
    lm.compile(optimizer=keras_visor.training.adamw(lm, 1e-3))
    keras_visor.training.fit(
        lm, data, num_steps=2, directory="stage_1", batch_size=4
    )
    ```
    """
    check_positive(
        num_steps=num_steps, batch_size=batch_size, save_every=save_every
    )
    run = {
        "batch_size": batch_size,
        "shares": None if shares is None else list(shares),
        "shuffle": shuffle,
        "seed": seed,
        "trainable parameters": sum(
            math.prod(v.shape) for v in model.trainable_variables
        ),
        "settings": settings,
    }
    run = json.loads(json.dumps(run))
    step, history = _restore(model, directory, run, num_steps)
    saving = _Saving(directory, run, step, history, save_every, num_steps)
    callbacks = [*kwargs.pop("callbacks", ()), saving]
    while step < num_steps:
        saving.stop = saving.next_step()
        steps_per_epoch = None
        if _is_tf_data(data) and step % save_every == 0:
            # It can be entered at its beginning only: one pass for all the
            # epochs that are whole.
            steps_per_epoch = saving.stop - step
            whole = num_steps - num_steps % save_every
            saving.stop = whole if step < whole else num_steps
        batches = _batches(data, step, saving.stop, batch_size, shuffle, seed)
        if shares is not None:
            batches = sample_budgets(
                batches, _num_budgets(model, shares), shares, seed, step
            )
        model.fit(
            batches,
            initial_epoch=step // save_every,
            epochs=math.ceil(num_steps / save_every),
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            shuffle=False,
            **kwargs,
        )
        if saving.step == step:
            raise RuntimeError(
                f"`model.fit` ended at step {step} of {num_steps} without an "
                "epoch. Is `keras.config.max_epochs` set?"
            )
        # Only now are averaged weights, say, where they belong.
        saving.save(model)
        step = saving.step
    return history


class _Saving(keras.callbacks.Callback):
    """Saves after each epoch, and ends the call of `fit` at the step `stop`."""

    def __init__(self, directory, run, step, history, save_every, num_steps):
        super().__init__()
        self.directory = directory
        self.run = run
        self.step = self.stop = step
        self.history = history
        self.save_every = save_every
        self.num_steps = num_steps

    def on_epoch_end(self, epoch, logs=None):
        self.step = self.next_step()
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if self.step < self.stop:
            self.save(self.model)
        else:
            self.model.stop_training = True

    def next_step(self):
        """The step at which the epoch ends."""
        whole = self.step - self.step % self.save_every
        return min(whole + self.save_every, self.num_steps)

    def save(self, model):
        if self.directory is not None:
            progress = {"run": self.run, "step": self.step}
            _save(model, self.directory, progress, self.history)


def _num_budgets(model, shares):
    backbone = getattr(model, "backbone", None)
    return len(getattr(backbone, "budgets", shares))


def _is_tf_data(data):
    return hasattr(data, "as_numpy_iterator")


def _batches(data, first, stop, batch_size, shuffle, seed):
    if _is_tf_data(data):
        return data.repeat().skip(first).take(stop - first)
    if isinstance(data, dict | keras.utils.PyDataset):
        return Steps(data, first, stop, batch_size, shuffle, seed)
    raise TypeError(
        "`data` must be a dict of columns, a `keras.utils.PyDataset` or a "
        f"`tf.data.Dataset`. Received: {type(data)}"
    )


def _weights_file(directory, step):
    return pathlib.Path(directory) / f"step_{step:08d}.weights.h5"


def _save(model, directory, progress, history):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = _weights_file(directory, progress["step"])
    partial = path.with_name(f"partial_{path.name}")
    model.save_weights(partial, overwrite=True)
    partial.replace(path)
    # From here on it counts, and the one before can go.
    write_whole(
        directory / PROGRESS,
        json.dumps({**progress, "history": history}, indent=1) + "\n",
    )
    for other in directory.glob("step_*.weights.h5"):
        if other != path:
            other.unlink()


def _restore(model, directory, run, num_steps):
    """The step reached and the metrics until then."""
    if directory is None:
        return 0, {}
    path = pathlib.Path(directory) / PROGRESS
    if not path.exists():
        return 0, {}
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        known, step = progress["run"], progress["step"]
        history = progress["history"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`{path}` is damaged: {error!r}") from error
    differing = [
        key for key in {**known, **run} if known.get(key) != run.get(key)
    ]
    if differing:
        raise ValueError(
            f"`directory` holds another training: {path} differs in "
            + ", ".join(
                f"{key} ({known.get(key)} there, {run.get(key)} here)"
                for key in differing
            )
            + ". Pass another directory, or the same arguments."
        )
    if step > num_steps:
        raise ValueError(
            f"`directory` holds a longer training: {path} is at step {step}. "
            f"Received: num_steps={num_steps}"
        )
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(_weights_file(directory, step))
    return step, history
