"""Relaxed accuracy, the metric of ChartQA."""

from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_answer_lists

_MAX_RELATIVE_CHANGE = 0.05


def relaxed_accuracy(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    """Fraction of hits where a number may be 5 % off, the metric of ChartQA.

    A number hits when it is within 5 % of the answer, bounds included;
    anything else when it is equal to it but for case. "12%" is the number
    0.12, so it misses the answer "12".

    ChartQA (arXiv 2203.10244, section 5.1) published no code for it. This is
    the definition of Pix2Struct that Qwen-VL (`eval_mm/evaluate_vqa.py`) and
    lmms-eval (`tasks/chartqa/utils.py`) took over, LLaVA-OneVision's figures
    with them. As there: the answer "0" is compared as text; so are numbers
    with units or thousands separators, and lists such as "[42.47, 54.91]".
    White space around a prediction is dropped.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of sequences of strings. The accepted answers of each
            question; ChartQA has one.

    Returns:
        A float from 0 to 1.

    Raises:
        TypeError: if either argument holds something else.
        ValueError: if the lengths differ, or there is nothing to score.

    Example:

    ```python
    keras_visor.datasets.relaxed_accuracy(["41"], [["42.1"]])
    # 1.0
    ```
    """
    check_answer_lists(predictions, answers)
    hits = [
        any(_is_hit(prediction.strip(), answer) for answer in accepted)
        for prediction, accepted in zip(predictions, answers, strict=True)
    ]
    return sum(hits) / len(hits)


def _is_hit(prediction: str, answer: str) -> bool:
    number, right = _number(prediction), _number(answer)
    # Nothing is within 5 % of zero.
    if number is not None and right:
        return abs(number - right) / abs(right) <= _MAX_RELATIVE_CHANGE
    return prediction.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        if text.endswith("%"):
            return float(text.rstrip("%")) / 100
        return float(text)
    except ValueError:
        return None
