"""Random and uniform choice."""

import numpy as np
import pytest
from keras import ops
from visual_tokens import kept
from visual_tokens import sample

from keras_visor.reduction import RandomChoice
from keras_visor.reduction import UniformChoice
from keras_visor.reduction.selection import evenly

RANDOM = [3, 6, 9, 14, 22, 27, 29, 30, 32, 33, 35, 38]


@pytest.mark.parametrize(
    "rate, length, expected",
    [
        (0.5, 8, [0, 2, 4, 6]),
        (0.25, 8, [0, 4]),
        (0.3, 10, [0, 4, 7]),
        (0.9, 10, [0, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.01, 10, [0]),
        (1, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_uniform(rate, length, expected):
    assert kept(UniformChoice(rate), sample(range(1, length + 1))) == expected


def test_even_choice_among_very_many():
    """Where a place times a count takes more than 32 bits."""
    total, count = 90_000, 60_000
    places = np.arange(total, dtype="int32")[None]
    chosen = evenly(
        ops.convert_to_tensor(places),
        ops.convert_to_tensor(np.array([[count]], "int32")),
        ops.convert_to_tensor(np.array([[total]], "int32")),
    )
    chosen = ops.convert_to_numpy(chosen)
    np.testing.assert_array_equal(chosen, places % 3 != 1)


def test_random_is_by_seed_alone():
    one = sample(range(1, 41))
    choices = {seed: kept(RandomChoice(0.3, seed), one) for seed in range(4)}
    assert len(set(map(tuple, choices.values()))) == 4
    for seed, choice in choices.items():
        assert len(choice) == 12 and choice == sorted(set(choice))
        assert choice == kept(RandomChoice(0.3, seed), one)
    # On every backend.
    assert choices[0] == RANDOM


def test_random_hits_every_place():
    one = sample(range(1, 41))
    chosen = [kept(RandomChoice(0.3, seed), one) for seed in range(30)]
    counts = [sum(i in choice for choice in chosen) for i in range(40)]
    assert 1 <= min(counts) and max(counts) <= 20


def test_random_differs_with_the_number_of_tokens():
    long, short = (sample(range(1, n)) for n in (41, 40))
    reducer = RandomChoice(0.3)
    assert kept(reducer, long) != kept(reducer, short)
