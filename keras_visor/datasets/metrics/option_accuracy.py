"""Accuracy of multiple choice, the metric of ScienceQA."""

import re
import string
from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_answer_lists
from keras_visor.datasets.metrics.checks import single_answers

_LETTERS = tuple(string.ascii_uppercase)
# A bare letter, or one that a full stop ends.
_FIRST = re.compile(r"([A-Z])(?:$|\.)")
# ScienceQA's own phrase, rather as a sentence.
_PHRASES = (
    re.compile(r"The answer is ([A-Z])\."),
    re.compile(r"The answer is ([A-Z])"),
)


def option_accuracy(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    """Fraction of right option letters, the metric of ScienceQA.

    A prediction chooses "B" if it is "B", begins with "B." or a line "B", or
    says "The answer is B." just once, or "The answer is B" just once whatever
    follows: "The answer is Boron" chooses it too. Anything else is a miss: a
    small letter, the text of the option alone, two answers, a letter that the
    question does not have.

    ScienceQA's own code looks for "The answer is B" and draws an option where
    there is none; this is what LLaVA (`llava/eval/eval_science_qa.py`) counts,
    which draws nothing, and more: "B." whatever follows, which lmms-eval
    (`tasks/scienceqa/utils.py`) counts too, and of two answers the one that a
    full stop ends.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of sequences of strings. Each question's one answer,
            a capital letter.

    Returns:
        A float from 0 to 1.

    Raises:
        TypeError: if either argument holds something else.
        ValueError: if the lengths differ, there is nothing to score, or an
            answer is not a capital letter.

    Example:

    ```python
    keras_visor.datasets.option_accuracy(["B. iron", "b"], [["B"], ["B"]])
    # 0.5
    ```
    """
    check_answer_lists(predictions, answers)
    right = single_answers(answers, _LETTERS)
    hits = [
        _option(prediction) == answer
        for prediction, answer in zip(predictions, right, strict=True)
    ]
    return sum(hits) / len(hits)


def _option(prediction: str) -> str | None:
    # A letter on a line of its own ends like one before a full stop.
    text = prediction.strip().replace("\n", ". ")
    first = _FIRST.match(text)
    if first:
        return first[1]
    for phrase in _PHRASES:
        named = phrase.findall(text)
        if len(named) == 1:
            return named[0]
    return None
