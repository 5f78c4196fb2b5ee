"""Exact match of answers."""

from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_strings


def exact_match(predictions: Sequence[str], answers: Sequence[str]) -> float:
    """Returns the fraction of predictions that are equal to their answers.

    Both sides are normalised first: white space at the ends is dropped, inner
    white space becomes one space, and case is folded. Nothing else is forgiven:
    a full stop or an added word is a miss.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of strings. The right answers, in the same order.

    Returns:
        A float from 0 to 1.

    Example:

    ```python
    keras_visor.datasets.exact_match([" Red\\n", "two"], ["red", "three"])
    # 0.5
    ```
    """
    hits = _hits(predictions, answers)
    return sum(hits) / len(hits)


def exact_match_by_family(
    predictions: Sequence[str],
    answers: Sequence[str],
    families: Sequence[str],
) -> dict[str, float]:
    """Returns the exact match of each question family, sorted by name.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of strings. The right answers, in the same order.
        families: sequence of strings. The family of each question.

    Returns:
        A dictionary from a family's name to its exact match, as `exact_match`
        defines it.
    """
    hits = _hits(predictions, answers)
    check_strings("families", families)
    if len(families) != len(hits):
        raise ValueError(
            "`families` and `answers` must have the same length. "
            f"Received: {len(families)} families, {len(hits)} answers"
        )
    hits_of = {family: [] for family in sorted(set(families))}
    for family, hit in zip(families, hits, strict=True):
        hits_of[family].append(hit)
    return {family: sum(hits) / len(hits) for family, hits in hits_of.items()}


def _hits(predictions: Sequence[str], answers: Sequence[str]) -> list[bool]:
    check_strings("predictions", predictions)
    check_strings("answers", answers)
    if len(predictions) != len(answers):
        raise ValueError(
            "`predictions` and `answers` must have the same length. Received: "
            f"{len(predictions)} predictions, {len(answers)} answers"
        )
    if not len(answers):
        raise ValueError("`answers` must not be empty. Received: answers=[]")
    return [
        _normalise(prediction) == _normalise(answer)
        for prediction, answer in zip(predictions, answers, strict=True)
    ]


def _normalise(text: str) -> str:
    return " ".join(text.split()).casefold()
