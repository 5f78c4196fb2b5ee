"""Accuracy of multiple choice, the metric of ScienceQA."""

import re
import string
from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_answer_lists
from keras_visor.datasets.metrics.checks import single_answers

_LETTERS = tuple(string.ascii_uppercase)
# A bare letter, one that a full stop ends, or ScienceQA's own phrase.
_PATTERNS = (
    re.compile(r"^([A-Z])$"),
    re.compile(r"^([A-Z])\."),
    re.compile(r"The answer is ([A-Z])\."),
    re.compile(r"The answer is ([A-Z])"),
)


def option_accuracy(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    """Fraction of right option letters, the metric of ScienceQA.

    A prediction chooses "B" if it is "B", begins with "B." or a line "B", or
    says "The answer is B". Anything else is a miss: a small letter, the text
    of the option, a letter that the question does not have.

    ScienceQA's own code looks for "The answer is B" and draws an option where
    there is none; this is what LLaVA (`llava/eval/eval_science_qa.py`) counts,
    which draws nothing, and "B." with nothing after it, which lmms-eval
    (`tasks/scienceqa/utils.py`) counts too.

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
    for pattern in _PATTERNS:
        match = pattern.search(text)
        if match:
            return match[1]
    return None
