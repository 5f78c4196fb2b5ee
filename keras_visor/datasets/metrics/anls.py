"""ANLS, the metric of DocVQA."""

from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_answer_lists

_THRESHOLD = 0.5


def anls(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Average normalised Levenshtein similarity, the metric of DocVQA.

    A prediction scores 1 less its edit distance to the nearest accepted answer
    over the length of the longer of the two. Less than 0.5 counts as 0. Case
    and extra white space do not count.

    As the evaluation script of the DocVQA challenge
    (https://rrc.cvc.uab.es/?ch=17) has it: a similarity of exactly 0.5 is
    kept, which the formula in the paper (arXiv 2007.00398, section 4.1 of
    arXiv 1907.00490) drops, and lengths are those before extra white space is
    taken out.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of sequences of strings. The accepted answers of each
            question.

    Returns:
        A float from 0 to 1.

    Raises:
        TypeError: if either argument holds something else.
        ValueError: if the lengths differ, or there is nothing to score.

    Example:

    ```python
    keras_visor.datasets.anls(["Acme Inc"], [["ACME Inc.", "Acme"]])
    # 8 / 9: one of nine characters is missing
    ```
    """
    check_answer_lists(predictions, answers)
    scores = [
        max(_similarity(prediction, answer) for answer in accepted)
        for prediction, accepted in zip(predictions, answers, strict=True)
    ]
    kept = [score if score >= _THRESHOLD else 0.0 for score in scores]
    return sum(kept) / len(kept)


def _similarity(prediction: str, answer: str) -> float:
    # The script measures upper case, which can be longer ("ß").
    length = max(len(prediction.upper()), len(answer.upper()))
    if length == 0:
        return 1.0
    distance = _edit_distance(_normalise(prediction), _normalise(answer))
    return 1 - distance / length


def _normalise(text: str) -> str:
    return " ".join(text.lower().split())


def _edit_distance(first: str, second: str) -> int:
    # distances[j]: from what has been read of `first` to second[:j].
    distances = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        diagonal, distances[0] = distances[0], i
        for j, other in enumerate(second, start=1):
            diagonal, distances[j] = (
                distances[j],
                min(
                    diagonal + (letter != other),
                    distances[j] + 1,
                    distances[j - 1] + 1,
                ),
            )
    return distances[-1]
