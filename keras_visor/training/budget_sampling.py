"""Universal training: every batch runs at a budget drawn for it."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_visor.training.checks import check_positive
from keras_visor.training.steps import Steps


def budget_shares(
    num_budgets: int,
    full: float = 0.3,
    minimal: float = 0.2,
) -> list[float]:
    """How often each budget trains: some full, some minimal, the rest any.

    Args:
        num_budgets: int. The number of budgets.
        full: float. Share of the batches that run the full budget. Defaults
            to `0.3`.
        minimal: float. Share of those that run the minimal one. Defaults to
            `0.2`.

    Returns:
        A list of floats, one a budget, whose sum is 1: the shares, and what
        is left spread over all budgets alike.

    Raises:
        ValueError: Shares that are no shares.

    Example:
    ```python
    keras_visor.training.budget_shares(3, full=0.4, minimal=0.3)
    # [0.4, 0.1, 0.5]
    ```
    """
    check_positive(num_budgets=num_budgets)
    if min(full, minimal) < 0 or full + minimal > 1:
        raise ValueError(
            "`full` and `minimal` must be shares, together at most 1. "
            f"Received: full={full}, minimal={minimal}"
        )
    shares = np.full(num_budgets, (1 - full - minimal) / num_budgets)
    shares[-1] += full
    shares[0] += minimal
    return shares.tolist()


def draw_budget(shares: Sequence[float], seed: int, step: int) -> int:
    """The budget of a training step, the same whenever it is asked for.

    Args:
        shares: sequence of float. How often each budget is drawn.
        seed: int.
        step: int. Counted from the beginning of the training.
    """
    random = np.random.default_rng([seed, step])
    return int(random.choice(len(shares), p=shares))


def sample_budgets(
    data: Any,
    num_budgets: int,
    shares: Sequence[float] | None = None,
    seed: int = 0,
    first_step: int = 0,
    batch_size: int = 32,
) -> Any:
    """Give every batch of the data a budget: the column `budget`.

    Follows section "Training" of VISOR (arXiv 2603.23495): every step of the
    universal fine-tuning runs one viable configuration at random, so that one
    set of weights serves every budget. A budget depends on the seed and the
    step alone, so that a resumed training draws what an uninterrupted one
    does; `fit` of this package counts the steps. All samples of a batch share
    their budget, and what it has off costs nothing (on TensorFlow it is masked
    instead, as `fit` has unknown lengths there).

    Args:
        data: A dict of columns, a `keras.utils.PyDataset` or a
            `tf.data.Dataset` of batches of them. Batches that are
            preprocessed, tuples whose first entry is the backbone's inputs,
            are taken too.
        num_budgets: int. How many there are, `len(lm.backbone.budgets)`.
        shares: sequence of float, one a budget, whose sum is 1. Defaults to
            `None`: all alike. See `budget_shares`.
        seed: int. Defaults to `0`.
        first_step: int. The step that the first batch belongs to. Defaults to
            `0`.
        batch_size: int. For a dict. Defaults to `32`.

    Returns:
        A `PyDataset` or, of one, a `tf.data.Dataset`, for `VisorCausalLM.fit`.

    Raises:
        TypeError: Data of another kind.
        ValueError: Shares that are none, or of another number.

    Example:
    ```python
    data = {
        "prompts": ["what colour is the square?"] * 8,
        "responses": ["red"] * 8,
        "images": [np.zeros((96, 96, 3), "uint8")] * 8,
    }
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.fit(
        keras_visor.training.sample_budgets(
            data, len(lm.backbone.budgets), seed=1, batch_size=4
        )
    )
    ```
    """
    check_positive(num_budgets=num_budgets, batch_size=batch_size)
    if shares is None:
        shares = [1 / num_budgets] * num_budgets
    if (
        len(shares) != num_budgets
        or min(shares) < 0
        or not math.isclose(sum(shares), 1)
    ):
        raise ValueError(
            f"`shares` must be one for each of the {num_budgets} budgets, 0 or "
            f"more, and their sum 1. Received: {list(shares)}"
        )
    first_step = operator.index(first_step)
    if isinstance(data, dict):
        data = Steps(data, batch_size=batch_size, shuffle=False)
    if isinstance(data, keras.utils.PyDataset):
        return _SampledBudgets(data, shares, seed, first_step)
    if hasattr(data, "as_numpy_iterator"):  # A `tf.data.Dataset`.
        return _sample_in_tf_data(data, shares, seed, first_step)
    raise TypeError(
        "`data` must be a dict of columns, a `keras.utils.PyDataset` or a "
        f"`tf.data.Dataset`. Received: {type(data)}"
    )


class _SampledBudgets(keras.utils.PyDataset):
    def __init__(self, data, shares, seed, first_step):
        super().__init__(
            workers=data.workers,
            use_multiprocessing=data.use_multiprocessing,
            max_queue_size=data.max_queue_size,
        )
        self.data = data
        self.shares = shares
        self.seed = seed
        self.first_step = first_step

    @property
    def num_batches(self):
        return self.data.num_batches

    def __len__(self):
        return self.data.num_batches

    def __getitem__(self, index):
        budget = draw_budget(self.shares, self.seed, self.first_step + index)
        batch = self.data[index]
        columns, *labels = batch if isinstance(batch, tuple) else (batch,)
        budgets = np.full(_batch_length(columns), budget, "int32")
        columns = {**columns, "budget": budgets}
        return (columns, *labels) if labels else columns

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()


def _sample_in_tf_data(data, shares, seed, first_step):
    import tensorflow as tf

    def draw(step):
        return np.int32(draw_budget(shares, seed, int(step)))

    def add_budget(step, batch):
        columns, *labels = batch if isinstance(batch, tuple) else (batch,)
        budget = tf.numpy_function(draw, [step], tf.int32, stateful=False)
        length = tf.shape(columns[_any_text_column(columns)])[:1]
        columns = {**columns, "budget": tf.fill(length, budget)}
        return (columns, *labels) if labels else columns

    return data.enumerate(first_step).map(
        add_budget, num_parallel_calls=tf.data.AUTOTUNE
    )


def _batch_length(columns: dict) -> int:
    """The number of samples of a batch, preprocessed or not."""
    return len(columns[_any_text_column(columns)])


def _any_text_column(columns):
    return "prompts" if "prompts" in columns else "token_ids"
