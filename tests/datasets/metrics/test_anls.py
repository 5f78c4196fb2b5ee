import pytest

from keras_visor.datasets import anls


@pytest.mark.parametrize(
    ("prediction", "accepted", "expected"),
    [
        ("1/8/93", ["1/8/93"], 1),
        # One letter of six is wrong, missing or too many.
        ("1/9/93", ["1/8/93"], 5 / 6),
        ("1/8/9", ["1/8/93"], 5 / 6),
        ("1/8/931", ["1/8/93"], 6 / 7),
        # Swapped letters are two edits.
        ("form", ["from"], 0.5),
        # The nearest of several answers.
        ("acme inc", ["A", "ACME Inc.", "Acme Incorporated"], 8 / 9),
        # Exactly a half stays, less does not.
        ("ab", ["abcd"], 0.5),
        ("ab", ["abcde"], 0),
        ("abc", ["xyz"], 0),
        # Case and white space.
        ("  RED\n", ["red"], 1),
        ("dark  red", ["dark red"], 1),
        # The length is the one before white space goes: 1 - 1 / 6.
        ("a  bcd", ["a bce"], 5 / 6),
        ("0.28 %", ["0.28%"], 5 / 6),
        ("5", ["5 kg"], 0),
        ("no", ["yes"], 0),
        ("", ["red"], 0),
        ("red", [""], 0),
        ("", [""], 1),
    ],
)
def test_one_question(prediction, accepted, expected):
    assert anls([prediction], [accepted]) == pytest.approx(expected)


def test_is_the_average_over_questions():
    predictions = ["1/9/93", "xyz", "red"]
    answers = [["1/8/93"], ["abc"], ["red", "blue"]]
    assert anls(predictions, answers) == pytest.approx((5 / 6 + 0 + 1) / 3)


def test_is_symmetric_and_kind_to_long_answers():
    long = "the quick brown fox jumps over the lazy dog"
    other = "a quick brown fox jumped over the lazy dogs"
    # the -> a: 3 edits; s -> ed: 2; + s: 1.
    assert anls([other], [[long]]) == pytest.approx(1 - 6 / 43)
    assert anls([long], [[other]]) == pytest.approx(1 - 6 / 43)
