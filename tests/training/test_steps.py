"""Any stretch of a training can be had again."""

import keras
import numpy as np
import pytest

from keras_visor.training.steps import Steps

DATA = {"prompts": [f"q{row}" for row in range(7)], "images": None}


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"prompts": [f"b{index}"]}


def flat(steps):
    return [text for batch in steps for text in batch["prompts"]]


def read(steps):
    return [steps[index] for index in range(len(steps))]


def test_an_epoch_has_every_sample_once():
    steps = read(Steps(DATA, 0, 8, batch_size=2, seed=5))
    assert [len(batch["prompts"]) for batch in steps] == [2, 2, 2, 1] * 2
    assert all(batch.keys() == {"prompts"} for batch in steps)
    epochs = flat(steps[:4]), flat(steps[4:])
    assert sorted(epochs[0]) == sorted(epochs[1]) == DATA["prompts"]
    assert epochs[0] != epochs[1] != DATA["prompts"]
    assert flat(read(Steps(DATA, 0, 4, batch_size=2, seed=6))) != epochs[0]


@pytest.mark.parametrize("data", [DATA, Batches()], ids=["dict", "PyDataset"])
def test_a_stretch_is_that_of_the_whole(data):
    whole = read(Steps(data, 0, 9, batch_size=3, seed=1))
    assert read(Steps(data, 4, 9, batch_size=3, seed=1)) == whole[4:]
    assert len({str(batch) for batch in whole[:3]}) == 3


def test_in_order():
    steps = Steps(DATA, batch_size=4, shuffle=False)
    assert len(steps) == 2
    assert flat(read(steps)) == DATA["prompts"]
    assert [
        b["prompts"] for b in read(Steps(Batches(), 1, 4, shuffle=False))
    ] == [["b1"], ["b2"], ["b0"]]


def test_bad_input():
    with pytest.raises(ValueError, match="`data`.*'a': 2, 'b': 3"):
        Steps({"a": [1, 2], "b": np.zeros(3)})

    class Endless(Batches):
        num_batches = None

    with pytest.raises(ValueError, match="`data`.*num_batches=None"):
        Steps(Endless())
