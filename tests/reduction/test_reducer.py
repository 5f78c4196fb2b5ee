import keras
import numpy as np
import pytest
from keras import ops

from keras_visor import reduction
from keras_visor.reduction.reducer import kept_count

REDUCERS = [
    reduction.AveragePooling(0.25),
    reduction.RandomChoice(0.3, seed=2),
    reduction.UniformChoice(0.3),
    reduction.VisionZip(0.3),
    reduction.VisPruner(0.3),
    reduction.HiRED(0.3),
    reduction.FastV(0.3, layer=2),
    reduction.PyramidDrop(0.3, layers=[1, 2]),
    reduction.PyramidDrop(0.3),
]


@pytest.mark.parametrize(
    "rate, count, kept",
    [
        (0.1, 30, 3),  # In floating point, 0.1 * 30 is a little more than 3.
        (0.07, 100, 7),
        (0.3, 7, 3),
        (1 / 3, 9, 3),
        (1, 7, 7),
        (1e-9, 7, 1),
        (0.5, 0, 0),
    ],
)
def test_counts_are_rounded_up_exactly(rate, count, kept):
    assert kept_count(count, rate) == kept
    tensor = kept_count(ops.convert_to_tensor(np.int32(count)), rate)
    assert int(tensor) == kept


@pytest.mark.parametrize("reducer", REDUCERS, ids=str)
def test_config(reducer):
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(reducer)
    )
    assert again == reducer and hash(again) == hash(reducer)
    assert str(again) == str(reducer)


def test_reducers_that_differ():
    assert len({*REDUCERS, *REDUCERS}) == len(REDUCERS)
    assert reduction.VisionZip(0.3) != reduction.VisionZip(0.4)
    assert reduction.VisionZip(0.3) != reduction.HiRED(0.3)


@pytest.mark.parametrize(
    "reducer, lengths",
    [
        (reduction.HiRED(0.3), [4] * 8),
        (reduction.FastV(0.3, layer=2), [11] * 3 + [4] * 5),
        # Four stages of two layers: after layers 1, 3 and 5.
        (reduction.PyramidDrop(0.5), [11, 11, 6, 6, 3, 3, 2, 2]),
        (reduction.PyramidDrop(0.5, layers=[0, 6]), [11] + [6] * 6 + [3]),
    ],
    ids=str,
)
def test_lengths_by_layer(reducer, lengths):
    assert reducer.vision_length_before(11, 8) == lengths


@pytest.mark.parametrize("rate", [0, -0.1, 1.1, float("nan")])
@pytest.mark.parametrize("cls", {type(reducer) for reducer in REDUCERS})
def test_refuses_rates(cls, rate):
    with pytest.raises(ValueError, match="`rate`.*above 0 and at most 1.*Rec"):
        cls(rate)


@pytest.mark.parametrize("rate", ["much", "0.5", None, True, np.True_])
def test_refuses_what_is_no_rate(rate):
    with pytest.raises(TypeError, match="`rate` must be a number. Received"):
        reduction.HiRED(rate)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: reduction.AveragePooling(0.3), ValueError, "0.25, 0.5, 1.0"),
        (lambda: reduction.RandomChoice(0.3, 0.5), TypeError, "`seed`.*0.5"),
        (lambda: reduction.RandomChoice(0.3, -1), ValueError, "`seed`.*-1"),
        (lambda: reduction.FastV(0.3, "two"), TypeError, "`layer`.*'two'"),
        (lambda: reduction.PyramidDrop(0.3, 2), TypeError, "`layers`.*2"),
        (lambda: reduction.PyramidDrop(0.3, []), ValueError, "`layers`"),
        (lambda: reduction.PyramidDrop(0.3, [2, 1]), ValueError, "ascending"),
    ],
)
def test_refuses_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
