"""The cheapest budget that is right: what a policy learns."""

from collections.abc import Sequence

import numpy as np

from keras_visor.training.budget_scores import BudgetScores


def is_right(scores: BudgetScores, slack: float = 0.01) -> np.ndarray:
    """Where a budget answers right, bool (samples, budgets).

    Right is an answer that scores at all, and at least `1 - slack` times what
    the full budget scores; of exact matches, those that match.

    Args:
        scores: `BudgetScores`, or an array like its `scores`.
        slack: float. Defaults to `0.01`.

    Raises:
        ValueError: A slack that is no share, or scores that are no matrix.
    """
    if not 0 <= slack <= 1:
        raise ValueError(
            f"`slack` must be from 0 to 1. Received: slack={slack}"
        )
    scores = np.asarray(getattr(scores, "scores", scores), "float64")
    if scores.ndim != 2 or not scores.size:
        raise ValueError(
            "`scores` must be of shape (samples, budgets). Received: shape "
            f"{scores.shape}"
        )
    return (scores > 0) & (scores >= (1 - slack) * scores[:, -1:])


def pseudo_labels(scores: BudgetScores, slack: float = 0.01) -> np.ndarray:
    """The cheapest budget that is right, for each sample.

    Follows section "Training" of VISOR (arXiv 2603.23495): the label is the
    cheapest configuration that keeps 99 % of the full model's accuracy. Where
    none is right, more work would be wasted: the label is the minimal budget.

    Args:
        scores: `BudgetScores`, see `score_budgets`, or an array (samples,
            budgets).
        slack: float. How much of the full budget's score a cheaper one may
            lose. Defaults to `0.01`.

    Returns:
        An int array (samples,) of indices into the budgets.

    Raises:
        ValueError: A slack that is no share.

    Example:
    ```python
    keras_visor.training.pseudo_labels([[0, 1, 1], [0.5, 0.8, 0.8]])
    # array([1, 1])
    ```
    """
    # The first True: argmax of a bool takes the first of equals.
    return np.argmax(is_right(scores, slack), axis=1)


def label_frequencies(
    labels: Sequence[int], num_budgets: int, groups: Sequence[str]
) -> dict[str, list[int]]:
    """How often each budget is the label, by group.

    Args:
        labels: int array (samples,), see `pseudo_labels`.
        num_budgets: int.
        groups: sequence of strings, one a sample: its data set, say.

    Returns:
        A dict from group, sorted, to a list of counts, one a budget.

    Raises:
        ValueError: Not one group a label.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    if len(labels) != len(groups):
        raise ValueError(
            "`groups` must have one entry for each label. Received: "
            f"{len(groups)} groups, {len(labels)} labels"
        )
    return {
        str(group): np.bincount(
            labels[groups == group], minlength=num_budgets
        ).tolist()
        for group in np.unique(groups)
    }
