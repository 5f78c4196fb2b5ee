import pytest

from keras_visor.datasets import exact_match
from keras_visor.datasets import exact_match_by_family


def test_fraction_of_hits():
    assert exact_match(["red", "two", "no"], ["red", "three", "no"]) == 2 / 3


@pytest.mark.parametrize(
    "prediction", ["two words", "Two Words", " two words\n", "two \t words"]
)
def test_space_and_case_do_not_count(prediction):
    assert exact_match([prediction], ["two words"]) == 1
    assert exact_match(["two words"], [prediction]) == 1


@pytest.mark.parametrize("prediction", ["red.", "dark red", "twowords", "re"])
def test_anything_else_counts(prediction):
    assert exact_match([prediction], ["red"]) == 0


def test_by_family():
    by_family = exact_match_by_family(
        ["red", "blue", "yes", "one"],
        ["red", "red", "yes", "two"],
        ["colour", "colour", "present", "count"],
    )
    assert by_family == {"colour": 0.5, "count": 0.0, "present": 1.0}
    assert list(by_family) == ["colour", "count", "present"]


def test_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="1 predictions, 2 answers"):
        exact_match(["red"], ["red", "blue"])
    with pytest.raises(ValueError, match="1 families, 2 answers"):
        exact_match_by_family(["a", "b"], ["a", "b"], ["colour"])


def test_refuses_no_answers():
    with pytest.raises(ValueError, match="must not be empty"):
        exact_match([], [])


def test_refuses_what_is_no_sequence_of_strings():
    with pytest.raises(TypeError, match="`predictions`"):
        exact_match("red", ["r", "e", "d"])
    with pytest.raises(TypeError, match="`answers`.*int"):
        exact_match(["1"], [1])
