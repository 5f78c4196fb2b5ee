import numpy as np
from visual_tokens import kept
from visual_tokens import sample

from keras_visor.reduction import VisPruner

# Six candidates c0 ... c5, which three turns bring down to c4 and c5.
CANDIDATES = [
    (1, 0, 0, 0),
    (1, 0, 0, 0),
    (0, 1, 0, 0.1),
    (0, 1, 0, 0),
    (0, 0.1, 1, 0),
    (0.8, 0, 0, 0.6),
]


def test_by_hand():
    """Of 8 tokens 4 are kept: 2 important ones and 2 diverse ones.

    Turn 1: of c0, c2, c4, the two that are most like c1, c3 or c5 go: c0 (as
    c1) and c2 (nearly as c3). Turn 2: of c1 and c4, one goes: c1, like c5.
    Turn 3: of c3 and c5, one goes: c3, a little like c4.
    """
    important = [(9, 9, 9, 9)] * 2
    # Index 0 and 5 are looked at most.
    tokens = [important[0], *CANDIDATES[:4], important[1], *CANDIDATES[4:]]
    attention = [0.5, 0, 0.1, 0, 0.1, 0.4, 0, 0]
    one = sample(range(1, 9), tokens, attention)
    assert kept(VisPruner(0.5), one) == [0, 5, 6, 7]


def test_length_of_tokens_makes_no_difference():
    tokens = np.array([*CANDIDATES, (9, 9, 9, 9), (9, 9, 9, 9)])
    attention = [0, 0, 0, 0, 0, 0, 1, 1]
    tokens *= np.array([5, 0.1, 1, 3, 0.2, 7, 1, 1])[:, None]
    one = sample(range(1, 9), tokens, attention)
    assert kept(VisPruner(0.5), one) == [4, 5, 6, 7]


def test_little_is_left():
    tokens = np.eye(9)
    one = sample(range(1, 10), tokens, np.arange(9))
    assert kept(VisPruner(0.1), one) == [8]
