"""The search, and the Pareto front of what it finds."""

import numpy as np
import pytest

from keras_visor.analysis import count_flops
from keras_visor.training import Subnetwork
from keras_visor.training import search_subnetworks
from keras_visor.training import subnetworks
from keras_visor.training import viable_budgets


def front(*points, **arguments):
    return viable_budgets([Subnetwork(*point) for point in points], **arguments)


# === The front, by hand ===


def test_front():
    assert front(
        ((1, 4, 7), 0.80, 40.0),
        ((4, 7), 0.85, 30.0),
        ((1,), 0.60, 20.0),
        ((), 0.50, 10.0),
        ((7,), 0.70, 20.0),
        ((4,), 0.40, 20.0),
        ((1, 7), 0.69, 30.0),
    ) == [[], [7], [4, 7]]


def test_of_equals_the_upper_layers():
    """They share more layers, and the policy sees more."""
    assert front(
        ((1, 4), 0.9, 30.0), ((1, 7), 0.9, 30.0), ((4, 7), 0.9, 30.0)
    ) == [[4, 7]]


def test_what_is_dearer_and_no_better_goes():
    assert front(((), 0.9, 10.0), ((1,), 0.9, 20.0)) == [[]]


def test_a_gain_within_noise_buys_nothing():
    points = (
        ((), 0.50, 10.0),
        ((7,), 0.51, 20.0),
        ((4, 7), 0.525, 30.0),
        ((1, 4, 7), 0.55, 40.0),
    )
    assert front(*points) == [[], [7], [4, 7], [1, 4, 7]]
    # 0.525 is 0.025 above 0.50, 0.55 is 0.025 above 0.525.
    assert front(*points, min_gain=0.02) == [[], [4, 7], [1, 4, 7]]
    assert front(*points, min_gain=0.1) == [[]]


def test_more_layers_that_cost_less():
    """As a reducer within the decoder has it; budgets ascend in both."""
    few, many, best = (
        ((1,), 0.7, 30.0),
        ((4, 7), 0.6, 20.0),
        ((4, 7), 0.8, 20.0),
    )
    assert front(((), 0.5, 10.0), few, many) == [[], [1]]
    for min_gain in (0.0, 0.2):
        found = front(((), 0.5, 10.0), few, best, min_gain=min_gain)
        assert found == [[], [4, 7]]


# === The search, on scores by hand ===

SCORES = {
    (): 0.3,
    (1,): 0.5,
    (4,): 0.6,
    (7,): 0.4,
    (1, 4): 0.61,
    (1, 7): 0.9,
    (4, 7): 0.65,
    (1, 4, 7): 0.8,
}


class Three:
    """Stands for a model of three self-attention layers."""

    class backbone:
        self_attention_layers = [1, 4, 7]


@pytest.fixture
def tried(monkeypatch):
    tried = []

    def evaluate(lm, subsets, samples, directory, metric, **kwargs):
        tried.append((None if directory is None else directory.name, subsets))
        return [Subnetwork(s, SCORES[s], 10.0 * len(s)) for s in subsets]

    monkeypatch.setattr(subnetworks, "_evaluate", evaluate)
    return tried


def test_few_subsets_are_all_tried(tried, tmp_path):
    found = search_subnetworks(Three, {}, tmp_path)
    assert tried == [("all", list(SCORES))]
    assert {s.layers: s.score for s in found} == SCORES
    assert viable_budgets(found) == [[], [4], [1, 7]]


def test_greedy(tried, tmp_path):
    """It follows the best layer, 4, and misses the best pair."""
    found = search_subnetworks(
        Three, {}, tmp_path, strategy="beam", beam_width=1
    )
    assert tried == [
        ("0_layers", [()]),
        ("1_layers", [(1,), (4,), (7,)]),
        ("2_layers", [(1, 4), (4, 7)]),
        ("3_layers", [(1, 4, 7)]),
    ]
    assert viable_budgets(found) == [[], [4], [4, 7], [1, 4, 7]]


def test_a_wider_beam_finds_more(tried):
    found = search_subnetworks(Three, {}, strategy="beam", beam_width=2)
    assert tried[2] == (None, [(1, 4), (1, 7), (4, 7)])
    assert viable_budgets(found) == [[], [4], [1, 7]]


def test_many_subsets_are_searched(tried, monkeypatch):
    monkeypatch.setattr(subnetworks, "MAX_EXHAUSTIVE", 7)
    search_subnetworks(Three, {})
    assert len(tried) == 4


# === The search, on a model ===


def test_a_model(load_small, samples, tmp_path):
    """Each subset has the score and the cost of its own answers."""
    lm = load_small()
    columns = {name: column[:2] for name, column in samples.items()}

    def length(answers, responses):
        return min(1.0, len(answers[0]) / 50)

    found = search_subnetworks(
        lm, columns, tmp_path, length, max_length=24, verbose=False
    )
    assert [s.layers for s in found] == [(), (1,)]
    assert found[0].score != found[1].score
    for budget, subnetwork in enumerate(found):
        answers, report = lm.generate(
            {name: columns[name] for name in ("prompts", "images")},
            max_length=24,
            strip_prompt=True,
            budget=budget,
            return_report=True,
        )
        score = np.mean([length([answer], None) for answer in answers])
        assert subnetwork.score == pytest.approx(score)
        lengths = zip(
            report["text_tokens"], report["vision_tokens"], strict=True
        )
        cost = np.mean(
            [count_flops(lm.backbone, t, v, budget) for t, v in lengths]
        )
        assert subnetwork.flops == pytest.approx(cost)
    assert len(list((tmp_path / "all").glob("scores-*.jsonl"))) == 1


def test_bad_input():
    with pytest.raises(ValueError, match="`strategy` must be one of.*'all'"):
        search_subnetworks(Three, {}, strategy="all")
    with pytest.raises(ValueError, match="`beam_width` must be 1 or more"):
        search_subnetworks(Three, {}, beam_width=0)
    with pytest.raises(ValueError, match="`subnetworks` must not be empty"):
        viable_budgets([])
    with pytest.raises(ValueError, match="`min_gain` must be 0 or more"):
        front(((), 0.5, 1.0), min_gain=-0.1)
