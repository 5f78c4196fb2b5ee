"""Checks of what the metrics are given."""

from collections.abc import Collection
from collections.abc import Sequence


def check_strings(name: str, texts: Sequence[str]) -> None:
    """Raises a TypeError unless `texts` is a sequence of strings."""
    # A lone string would otherwise be compared letter by letter.
    if isinstance(texts, str):
        raise TypeError(
            f"`{name}` must be a sequence of strings. "
            f"Received: {name}={texts!r}"
        )
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(
                f"`{name}` must hold strings. Received: {text!r} "
                f"of type {type(text).__name__}"
            )


def check_answer_lists(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> None:
    """Raises unless there is a list of accepted answers for each prediction.

    Args:
        predictions: sequence of strings.
        answers: sequence of sequences of strings, none of them empty.

    Raises:
        TypeError: if either holds something else.
        ValueError: if there are no predictions, another number of answers, or
            a question without any.
    """
    check_strings("predictions", predictions)
    if isinstance(answers, str):
        raise TypeError(
            "`answers` must hold a list of strings a question. "
            f"Received: answers={answers!r}"
        )
    if len(predictions) != len(answers):
        raise ValueError(
            "`predictions` and `answers` must have the same length. Received: "
            f"{len(predictions)} predictions, {len(answers)} answers"
        )
    if not len(predictions):
        raise ValueError("`predictions` must not be empty. Received: []")
    for index, accepted in enumerate(answers):
        check_strings(f"answers[{index}]", accepted)
        if not len(accepted):
            raise ValueError(
                f"`answers[{index}]` is empty: a question without answers, as "
                "in a test split whose answers are not public, has no score"
            )


def single_answers(
    answers: Sequence[Sequence[str]], allowed: Collection[str]
) -> list[str]:
    """Returns the one answer of each question.

    Raises:
        ValueError: if a question has several answers or one not in `allowed`.
    """
    for index, accepted in enumerate(answers):
        if len(accepted) != 1 or accepted[0] not in allowed:
            raise ValueError(
                f"`answers[{index}]` must hold one of {sorted(allowed)}. "
                f"Received: {list(accepted)}"
            )
    return [accepted[0] for accepted in answers]
