"""F1 of POPE."""

from collections.abc import Sequence

from keras_visor.datasets.metrics.pope_scores import pope_scores


def pope_f1(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    """F1 of "yes", the one of POPE's scores by which models are compared.

    Args:
        predictions: sequence of strings. What the model answered.
        answers: sequence of sequences of strings. Each question's one answer,
            `"yes"` or `"no"`.

    Returns:
        A float from 0 to 1, the `"f1"` of `pope_scores`.

    Raises:
        TypeError, ValueError: as `pope_scores`.

    Example:

    ```python
    keras_visor.datasets.pope_f1(["Yes", "No"], [["yes"], ["yes"]])
    # 2 / 3: precision 1, recall 0.5
    ```
    """
    return pope_scores(predictions, answers)["f1"]
