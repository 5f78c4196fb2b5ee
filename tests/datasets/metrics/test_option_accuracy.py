import pytest

from keras_visor.datasets import option_accuracy


@pytest.mark.parametrize(
    "prediction",
    [
        "B",
        " B\n",
        "B.",
        "B. iron",
        "B\niron",
        "The answer is B.",
        "The answer is B",
        "The answer is Boron",
        "Iron rusts. The answer is B. It does.",
        # A letter that a full stop ends goes before one that just begins.
        "The answer is Copper? The answer is B.",
    ],
)
def test_chooses_b(prediction):
    assert option_accuracy([prediction], [["B"]]) == 1


@pytest.mark.parametrize(
    "prediction",
    [
        "A",
        "b",
        "B iron",
        "(B)",
        "B, iron",
        "iron",
        "Bronze",
        "the answer is B",
        "A. The answer is B.",
        "The answer is A. No. The answer is B.",
        "The answer is B. No. The answer is B.",
        "AB",
        "",
    ],
)
def test_does_not_choose_b(prediction):
    assert option_accuracy([prediction], [["B"]]) == 0


def test_fraction_of_hits():
    answers = [["A"], ["B"], ["C"]]
    assert option_accuracy(["A", "B", "D"], answers) == 2 / 3


@pytest.mark.parametrize("answers", [["b"], ["AB"], ["A", "B"], [""]])
def test_answers_are_letters(answers):
    with pytest.raises(ValueError, match=r"`answers\[0\]`"):
        option_accuracy(["A"], [answers])
