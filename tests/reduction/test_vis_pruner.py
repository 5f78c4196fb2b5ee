import numpy as np
from visual_tokens import ONE_IMAGE
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
    important = (9, 9, 9, 9)
    c0, c1, c2, c3, c4, c5 = CANDIDATES
    # Index 0 and 3 are looked at most, and c0 more than c1, up to c5.
    tokens = [important, c5, c4, important, c3, c2, c1, c0]
    attention = [0.5, 0.01, 0.02, 0.4, 0.03, 0.04, 0.05, 0.06]
    one = sample(range(1, 9), tokens, attention)
    assert kept(VisPruner(0.5), one) == [0, 1, 2, 3]


def test_newlines_go_first():
    one = sample(ONE_IMAGE, np.eye(14), np.linspace(0.1, 0.2, 14))
    patches = [i for i in range(14) if i not in (8, 13)]
    assert kept(VisPruner(12 / 14), one) == patches
    assert kept(VisPruner(13 / 14), one) == sorted([*patches, 8])


def test_what_is_no_number_ends():
    """As a model gives that has diverged: no turn goes on for ever."""
    tokens = np.full((8, 4), np.nan)
    one = sample(range(1, 9), tokens, np.linspace(0.1, 0.2, 8))
    assert len(kept(VisPruner(0.5), one)) == 4


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
