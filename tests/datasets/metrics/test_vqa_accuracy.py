import pytest

from keras_visor.datasets import vqa_accuracy
from keras_visor.datasets.metrics.vqa_answer import normalise_vqa_answer


def score(prediction, answers):
    return vqa_accuracy([prediction], [answers])


@pytest.mark.parametrize(
    ("people", "expected"),
    # Of the ten rounds, `people` leave one of the matching answers out:
    # (people * (people - 1) + (10 - people) * people) / 3 / 10, up to three.
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (5, 1), (10, 1)],
)
def test_each_answer_is_left_out_in_turn(people, expected):
    answers = ["nokia"] * people + [str(n) for n in range(10 - people)]
    assert score("nokia", answers) == pytest.approx(expected)


def test_is_the_average_over_questions():
    answers = [["red"] * 10, ["red"] * 2 + ["blue"] * 8, ["blue"] * 10]
    assert vqa_accuracy(["red"] * 3, answers) == pytest.approx(1.6 / 3)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Nokia", "nokia"),
        ("the nokia", "a nokia."),
        ("two", "2"),
        ("none", "0"),
        ("10,000", "10000"),
        ("don't stop", "dont stop"),
        ("e-mail", "e mail"),
        ("yes!", "yes"),
        ("a.m.", "am"),
        (" nokia\n", "nokia"),
        ("", "the"),
        ("", ""),
    ],
)
def test_counts_as_equal(prediction, answer):
    assert score(prediction, [answer] * 10) == 1
    assert score(answer, [prediction] * 10) == 1


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("eleven", "11"),
        ("5 kg", "5"),
        ("5kg", "5 kg"),
        ("$5", "5"),
        ("1.5", "15"),
        ("blue, red", "red, blue"),
        ("yeah", "yes"),
        ("", "unanswerable"),
        ("nokias", "nokia"),
    ],
)
def test_does_not_count_as_equal(prediction, answer):
    assert score(prediction, [answer] * 10) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Decimal points stay, and a full stop before a digit.
        ("3.14 and .5 and 7.", "3.14 and .5 and 7"),
        # Between words punctuation is a space ...
        ("and/or", "and or"),
        ("(a)", ""),
        # ... but where it touches a space anywhere, it is gone everywhere.
        ("a-b -c", "ab c"),
        # A space that other punctuation left does not make it so.
        ("x-/y-z", "x y z"),
        ("12:30", "12:30"),
        # With its apostrophe an 's is set apart, without it is put in.
        ("mcdonald's", "mcdonald 's"),
        ("whats", "what's"),
        ("couldntve couldn'tve couldnt've", "couldntve" + " couldn't've" * 2),
        ("somebody'd", "somebodyd"),
        ("shed well were", "shed well were"),
        # Articles go after digits come.
        ("The one\tand\nan only", "1 and only"),
        ("A", ""),
    ],
)
def test_normal_form(text, expected):
    assert normalise_vqa_answer(text) == expected


def test_takes_ten_answers():
    with pytest.raises(ValueError, match=r"`answers\[1\]`.*10.*: 9"):
        vqa_accuracy(["a", "b"], [["a"] * 10, ["b"] * 9])
