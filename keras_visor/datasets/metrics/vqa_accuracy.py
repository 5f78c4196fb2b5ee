"""VQA accuracy, the metric of TextVQA."""

from collections.abc import Sequence

from keras_visor.datasets.metrics.checks import check_answer_lists
from keras_visor.datasets.metrics.vqa_answer import normalise_vqa_answer

_NUM_ANSWERS = 10
_ENOUGH = 3


def vqa_accuracy(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    """Agreement with ten people, the metric of TextVQA and VQA v2.

    A prediction is compared with every nine of the ten answers, and scores
    `min(matches / 3, 1)` on average. So an answer that one person gave scores
    0.3, two 0.6, three 0.9, four or more 1. Both sides are normalised first,
    see `normalise_vqa_answer`.

    As TextVQA's evaluator in MMF has it
    (https://github.com/facebookresearch/mmf, `TextVQAAccuracyEvaluator`),
    which follows https://visualqa.org/evaluation.html.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of sequences of strings. The ten answers to each
            question, equal ones repeated.

    Returns:
        A float from 0 to 1.

    Raises:
        TypeError: if either argument holds something else.
        ValueError: if the lengths differ, there is nothing to score, or a
            question does not have ten answers.

    Example:

    ```python
    keras_visor.datasets.vqa_accuracy(
        ["The Nokia."], [["nokia"] * 2 + ["nokia e71"] * 8]
    )
    # 0.6
    ```
    """
    check_answer_lists(predictions, answers)
    for index, given in enumerate(answers):
        if len(given) != _NUM_ANSWERS:
            raise ValueError(
                f"`answers[{index}]` must hold {_NUM_ANSWERS} answers. "
                f"Received: {len(given)}"
            )
    scores = [
        _score(prediction, given)
        for prediction, given in zip(predictions, answers, strict=True)
    ]
    return sum(scores) / len(scores)


def _score(prediction: str, given: Sequence[str]) -> float:
    said = normalise_vqa_answer(prediction)
    hits = [normalise_vqa_answer(answer) == said for answer in given]
    # Each person's answer is left out in turn.
    scores = [min((sum(hits) - hit) / _ENOUGH, 1) for hit in hits]
    return sum(scores) / len(scores)
