"""Every batch has one budget, drawn by seed and step."""

import keras
import numpy as np
import pytest

from keras_visor.models.sample_batches import SampleBatches
from keras_visor.training import budget_shares
from keras_visor.training import sample_budgets
from keras_visor.training.budget_sampling import draw_budget

SHARES = [0.5, 0.2, 0.3]
COLUMNS = {"prompts": np.array([f"q{row}" for row in range(10)])}
STEPS = 5


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return {"prompts": COLUMNS["prompts"][2 * index : 2 * index + 2]}


class Preprocessed(Batches):
    def __getitem__(self, index):
        x = {"token_ids": np.zeros((2, 3)), "budget": np.array([9, 9])}
        return x, np.array([index] * 2), np.ones(2)


def tf_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(COLUMNS).batch(2)


FORMS = {
    "dict": lambda: COLUMNS,
    "PyDataset": Batches,
    "tf.data": tf_dataset,
    "preprocessed": Preprocessed,
    "preprocessed in tf.data": lambda: tf_dataset().map(
        lambda x: ({"token_ids": x["prompts"]}, x["prompts"])
    ),
}


def read(data):
    if hasattr(data, "as_numpy_iterator"):
        return list(data.as_numpy_iterator())
    return [data[index] for index in range(len(data))]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_budgets(form):
    expected = [draw_budget(SHARES, 3, step) for step in range(7, 12)]
    assert len(set(expected)) > 1
    data = sample_budgets(
        FORMS[form](), 3, SHARES, seed=3, first_step=7, batch_size=2
    )
    batches = read(data)
    assert len(batches) == STEPS
    for batch, budget in zip(batches, expected, strict=True):
        columns = batch[0] if isinstance(batch, tuple) else batch
        assert columns["budget"].dtype == np.int32
        assert columns["budget"].tolist() == [budget, budget]
    if form == "preprocessed":
        assert [labels.tolist() for _, labels, _ in batches] == [
            [step, step] for step in range(STEPS)
        ]
    elif "preprocessed" not in form:
        texts = [t for batch in batches for t in batch["prompts"]]
        assert [
            str(t, "utf-8") if isinstance(t, bytes) else t for t in texts
        ] == COLUMNS["prompts"].tolist()


def test_shares_are_kept():
    draws = [draw_budget(SHARES, 0, step) for step in range(4000)]
    frequencies = np.bincount(draws, minlength=3) / len(draws)
    # Four standard deviations.
    np.testing.assert_allclose(frequencies, SHARES, atol=0.032)
    assert draws != [draw_budget(SHARES, 1, step) for step in range(4000)]
    never = [draw_budget([0.0, 1.0], 0, step) for step in range(100)]
    assert set(never) == {1}


def test_all_alike_by_default():
    data = sample_budgets(COLUMNS, 2, batch_size=1)
    budgets = [batch["budget"][0] for batch in read(data)]
    assert budgets == [draw_budget([0.5, 0.5], 0, s) for s in range(10)]
    assert "budget" not in COLUMNS


def test_full_minimal_and_random():
    np.testing.assert_allclose(
        budget_shares(4, full=0.4, minimal=0.2), [0.3, 0.1, 0.1, 0.5]
    )
    np.testing.assert_allclose(budget_shares(2), [0.45, 0.55])
    np.testing.assert_allclose(budget_shares(1), [1.0])


def test_a_model_runs_them(visor):
    """The budgets drawn are the backbone's inputs."""
    data = {"prompts": ["Which one?"] * 4, "responses": ["this"] * 4}
    drawn = sample_budgets(data, 3, SHARES, seed=1, batch_size=2)
    batches = SampleBatches(drawn, visor.preprocessor)
    budgets = [batches[index][0]["budget"].tolist() for index in range(2)]
    first, second = (draw_budget(SHARES, 1, step) for step in range(2))
    assert first != second
    assert budgets == [[first] * 2, [second] * 2]


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.2, 0.2]]
)
def test_bad_shares(shares):
    with pytest.raises(ValueError, match="`shares` must be one for each of"):
        sample_budgets(COLUMNS, 3, shares)


def test_bad_input():
    with pytest.raises(TypeError, match="`data` must be.*list"):
        sample_budgets([1, 2], 3)
    with pytest.raises(ValueError, match="`num_budgets` must be 1 or more"):
        sample_budgets(COLUMNS, 0)
    with pytest.raises(TypeError, match="`batch_size`.*2.5"):
        sample_budgets(COLUMNS, 3, batch_size=2.5)
    with pytest.raises(ValueError, match="full=0.7, minimal=0.4"):
        budget_shares(3, 0.7, 0.4)
