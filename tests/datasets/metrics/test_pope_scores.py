import pytest

from keras_visor.datasets import pope_f1
from keras_visor.datasets import pope_scores

# Three of four "yes" are right, one "yes" is missed, two "no" are right.
PREDICTIONS = ["yes", "Yes", "yes", "yes", "no", "No", "no"]
ANSWERS = [["yes"], ["yes"], ["yes"], ["no"], ["yes"], ["no"], ["no"]]


def means_yes(prediction):
    return pope_scores([prediction], [["yes"]])["yes_ratio"] == 1


def test_scores():
    assert pope_scores(PREDICTIONS, ANSWERS) == pytest.approx(
        {
            "accuracy": 5 / 7,
            "precision": 3 / 4,
            "recall": 3 / 4,
            "f1": 3 / 4,
            "yes_ratio": 4 / 7,
        }
    )
    # Precision 3/5, recall 3/4: F1 = 2 * 0.45 / 1.35 = 2/3.
    assert pope_f1([*PREDICTIONS, "yes"], [*ANSWERS, ["no"]]) == pytest.approx(
        2 / 3
    )


@pytest.mark.parametrize(
    "prediction",
    [
        "no",
        "No",
        "No.",
        "No, there is none.",
        " no\n",
        "There is not a dog in the image",
        "I see no dog. Yes.",
        "Yes and no",
    ],
)
def test_means_no(prediction):
    assert not means_yes(prediction)


@pytest.mark.parametrize(
    "prediction",
    [
        "yes",
        "Yes, there is a dog.",
        # Only the first sentence counts.
        "Yes. There is no cat.",
        # Only these words, spelled so.
        "NO",
        "Not that I know",
        "nothing",
        "There isn't",
        "none",
        "no!",
        "",
        ".no",
        "maybe",
    ],
)
def test_anything_else_means_yes(prediction):
    assert means_yes(prediction)


def test_a_ratio_without_denominator_is_zero():
    scores = pope_scores(["no", "no"], [["yes"], ["no"]])
    assert scores["precision"] == scores["recall"] == scores["f1"] == 0
    assert scores["accuracy"] == 0.5
    assert pope_scores(["yes"], [["no"]])["recall"] == 0


@pytest.mark.parametrize("answers", [["maybe"], ["yes", "no"], ["Yes"]])
def test_answers_are_yes_or_no(answers):
    with pytest.raises(ValueError, match=r"`answers\[1\]`.*'no', 'yes'"):
        pope_scores(["yes", "yes"], [["no"], answers])
