"""The scores of POPE."""

from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_answer_lists
from keras_visor.datasets.metrics.checks import single_answers

_ANSWERS = ("yes", "no")


def pope_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and share of "yes", as POPE reports them.

    A prediction means "no" if its first sentence, up to the first full stop,
    has the word "no", "No" or "not", commas aside. Anything else means "yes",
    an empty prediction and "NO" too. "yes" is the positive class.

    As POPE's `evaluate.py` (https://github.com/AoiDragon/POPE) has it, which
    fails where a ratio has no denominator; here that ratio is 0. White space
    around a prediction is dropped.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of sequences of strings. Each question's one answer,
            `"yes"` or `"no"`.

    Returns:
        A dictionary of floats from 0 to 1: `"accuracy"`, `"precision"`,
        `"recall"`, `"f1"` and `"yes_ratio"`, the share of predictions that
        mean "yes".

    Raises:
        TypeError: if either argument holds something else.
        ValueError: if the lengths differ, there is nothing to score, or an
            answer is neither "yes" nor "no".

    Example:

    ```python
    scores = keras_visor.datasets.pope_scores(
        ["Yes.", "No, there is none."], [["yes"], ["yes"]]
    )
    scores["recall"]  # 0.5
    ```
    """
    check_answer_lists(predictions, answers)
    right = [answer == "yes" for answer in single_answers(answers, _ANSWERS)]
    said = [_means_yes(prediction) for prediction in predictions]
    hits = [a == b for a, b in zip(said, right, strict=True)]
    found = sum(a and b for a, b in zip(said, right, strict=True))
    precision = _ratio(found, sum(said))
    recall = _ratio(found, sum(right))
    return {
        "accuracy": sum(hits) / len(hits),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": sum(said) / len(said),
    }


def _means_yes(prediction: str) -> bool:
    sentence = prediction.strip().split(".")[0].replace(",", "")
    return not {"No", "not", "no"} & set(sentence.split(" "))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
