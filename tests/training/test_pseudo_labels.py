"""Labels, by hand."""

import numpy as np
import pytest

from keras_visor.training import BudgetScores
from keras_visor.training import label_frequencies
from keras_visor.training import pseudo_labels
from keras_visor.training.pseudo_labels import is_right

EXACT = [
    [1, 1, 1],  # the cheapest does
    [0, 1, 1],
    [0, 0, 1],
    [1, 0, 1],  # the cheapest, though a dearer one is wrong
    [0, 1, 0],  # the full one is wrong, another is right
    [0, 0, 0],  # none is right: no work is wasted
]


def test_exact_matches():
    assert pseudo_labels(EXACT).tolist() == [0, 1, 2, 0, 1, 0]
    scores = BudgetScores([[], [4], [1, 4]], np.array(EXACT, float), [], [], [])
    assert pseudo_labels(scores).tolist() == [0, 1, 2, 0, 1, 0]
    assert is_right(EXACT).astype(int).tolist() == EXACT


def test_graded_within_a_hundredth_of_the_full_score():
    scores = [
        [0.78, 0.792, 0.80],  # 0.99 * 0.80 = 0.792
        [0.78, 0.791, 0.80],
        [0.90, 0.10, 0.80],
        [0.00, 0.05, 0.00],
    ]
    assert pseudo_labels(scores).tolist() == [1, 2, 0, 1]
    assert pseudo_labels(scores, slack=0.0).tolist() == [2, 2, 0, 1]
    assert pseudo_labels(scores, slack=0.1).tolist() == [0, 0, 0, 1]


def test_frequencies_by_group():
    labels = [0, 2, 0, 1, 0, 0]
    groups = ["easy", "hard", "easy", "hard", "hard", "easy"]
    assert label_frequencies(labels, 4, groups) == {
        "easy": [3, 0, 0, 0],
        "hard": [1, 1, 1, 0],
    }


def test_bad_input():
    with pytest.raises(ValueError, match="`slack`.*slack=1.5"):
        pseudo_labels(EXACT, slack=1.5)
    with pytest.raises(ValueError, match=r"`scores`.*shape \(3,\)"):
        pseudo_labels([1, 0, 1])
    with pytest.raises(ValueError, match="`groups`.*1 groups, 2 labels"):
        label_frequencies([0, 1], 2, ["a"])
