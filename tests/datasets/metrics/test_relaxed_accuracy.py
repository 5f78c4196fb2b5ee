import pytest

from keras_visor.datasets import relaxed_accuracy


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("42.1", "42.1"),
        # 5 % of 40 is 2, bounds included.
        ("38", "40"),
        ("42", "40"),
        ("-38", "-40"),
        ("4e1", "40"),
        (" 41\n", "40"),
        # Both are shares.
        ("40%", "41%"),
        ("0.4", "40%"),
        ("40 %", "40%"),
        ("0", "0"),
        ("yes", "Yes"),
        ("[42.47, 54.91]", "[42.47, 54.91]"),
        ("[yes, no]", "[Yes, No]"),
        # A year is a number too.
        ("1950", "2020"),
        ("", ""),
    ],
)
def test_hits(prediction, answer):
    assert relaxed_accuracy([prediction], [[answer]]) == 1


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("37.9", "40"),
        ("42.1", "40"),
        ("38", "-40"),
        # Units and separators make text of a number.
        ("40%", "40"),
        ("40", "40%"),
        ("$40", "40"),
        ("40 kg", "40"),
        ("1,000", "1000"),
        # Nothing is near zero, and it is compared as text.
        ("0.0", "0"),
        ("0.01", "0"),
        # Lists are text, in their order.
        ("42.47, 54.91", "[42.47, 54.91]"),
        ("[54.91, 42.47]", "[42.47, 54.91]"),
        ("[42.4, 54.9]", "[42.47, 54.91]"),
        ("yes.", "Yes"),
        ("Yes, it is", "Yes"),
        ("nan", "40"),
        ("inf", "40"),
        ("", "40"),
    ],
)
def test_misses(prediction, answer):
    assert relaxed_accuracy([prediction], [[answer]]) == 0


def test_fraction_of_hits_on_any_accepted_answer():
    answers = [["10", "twelve"], ["10"], ["Yes", "yeah"]]
    assert relaxed_accuracy(["twelve", "12", "yes"], answers) == 2 / 3
