"""What the policy's choices cost and are worth, by hand."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from keras_visor.analysis import count_flops
from keras_visor.training import BudgetScores
from keras_visor.training import Subnetwork
from keras_visor.training import calibrate_tolerance
from keras_visor.training import choose_budgets
from keras_visor.training import evaluate_routing
from keras_visor.training import label_table
from keras_visor.training import routing_table
from keras_visor.training import set_policy_rule
from keras_visor.training import subnetwork_table
from keras_visor.training import with_policy

# By argmax: budgets 0, 1, 0, 1.
LOGITS = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.9], [-1.0, 0.5]], "float32")
SCORES = BudgetScores(
    budgets=[[], [1]],
    scores=np.array([[1.0, 1.0], [0.0, 1.0], [0.25, 0.5], [1.0, 0.75]]),
    answers=[["", ""]] * 4,
    text_tokens=np.array([10, 12, 10, 20]),
    vision_tokens=np.array([50, 60, 50, 0]),
)
GROUPS = ["easy", "hard", "hard", "easy"]


@pytest.fixture
def lm(routed):
    set_policy_rule(routed, "argmax")
    return routed


@pytest.fixture(scope="module")
def routed(load_small):
    return with_policy(load_small())


def cost(lm, row, budget):
    return count_flops(
        lm.backbone,
        int(SCORES.text_tokens[row]),
        int(SCORES.vision_tokens[row]),
        budget,
    )


def test_choices(lm):
    assert choose_budgets(lm, LOGITS).tolist() == [0, 1, 0, 1]


def test_routing_by_group(lm):
    everything, easy, hard = evaluate_routing(
        lm, LOGITS, SCORES, GROUPS, held_out=["hard"]
    )
    assert (everything.group, everything.count) == ("all", 4)
    assert everything.score == (1.0 + 1.0 + 0.25 + 0.75) / 4
    assert everything.full_score == (1.0 + 1.0 + 0.5 + 0.75) / 4
    assert everything.minimal_score == (1.0 + 0.0 + 0.25 + 1.0) / 4
    assert everything.layers_on == 0.5
    assert not everything.held_out

    assert (easy.group, easy.count, easy.held_out) == ("easy", 2, False)
    assert easy.score == (1.0 + 0.75) / 2
    assert (hard.group, hard.count, hard.held_out) == ("hard", 2, True)
    assert hard.score == (1.0 + 0.25) / 2
    assert hard.flops == (cost(lm, 1, 1) + cost(lm, 2, 0)) / 2
    assert hard.full_flops == (cost(lm, 1, 1) + cost(lm, 2, 1)) / 2
    assert hard.flops < hard.full_flops


def test_without_groups(lm):
    (routing,) = evaluate_routing(lm, LOGITS, SCORES)
    assert (routing.group, routing.count) == ("all", 4)


def test_a_group_of_that_name_is_a_group(lm):
    groups = ["all", "hard", "hard", "all"]
    found = evaluate_routing(lm, LOGITS, SCORES, groups)
    assert [(routing.group, routing.count) for routing in found] == [
        ("all", 4),
        ("all", 2),
        ("hard", 2),
    ]


# === Calibration ===


def by_hand(lm, tolerance):
    """Score and cost of the rule, sample by sample."""
    score = flops = 0.0
    for row, logits in enumerate(LOGITS):
        minimal, full = 1 / (1 + np.exp(-logits.astype("float64")))
        budget = 0 if minimal >= full - tolerance else 1
        score += SCORES.scores[row, budget] / 4
        flops += cost(lm, row, budget) / 4
    return score, flops


@pytest.mark.parametrize(
    "max_loss, tolerance",
    # The minimal budget's probability is short of the full one's by -0.22,
    # 0.38, -0.02 and 0.35. Of the full score, 0.8125, the third sample costs
    # 0.25 / 4 at any tolerance, the second 1 / 4 more; the fourth, free of
    # visual tokens, gains 0.25 / 4.
    [(0.0, 0.36), (0.08, 0.0), (0.5, 0.39)],
)
def test_the_cheapest_tolerance_that_is_good_enough(lm, max_loss, tolerance):
    set_policy_rule(lm, "tolerance")
    curve = calibrate_tolerance(lm, LOGITS, SCORES, max_loss)
    assert [t for t, _ in curve] == [round(i / 100, 2) for i in range(101)]
    for each, routing in curve:
        score, flops = by_hand(lm, each)
        assert routing.score == pytest.approx(score)
        assert routing.flops == pytest.approx(flops)
    assert lm.backbone.policy_tolerance == tolerance
    assert lm.backbone.policy.tolerance == tolerance


@pytest.mark.parametrize(
    ("groups", "tolerance"),
    [
        # Minimal for all keeps 2.25 of 3.25.
        (None, 0.39),
        # But 0.25 of 1.5 in "hard", unless its first sample stays full, which
        # is short by 0.38. The fourth saves nothing, see above.
        (GROUPS, 0.0),
    ],
)
def test_no_group_pays_for_another(lm, groups, tolerance):
    set_policy_rule(lm, "tolerance")
    calibrate_tolerance(lm, LOGITS, SCORES, max_loss=0.31, groups=groups)
    assert lm.backbone.policy_tolerance == tolerance


def test_what_loses_just_as_much_is_good_enough(lm):
    """One of a hundred, though 1 - 0.99 is more than 0.01 in floats."""
    set_policy_rule(lm, "tolerance")
    full = np.ones((100, 2))
    full[0, 0] = 0.0
    scores = dataclasses.replace(
        SCORES,
        scores=full,
        answers=[["", ""]] * 100,
        text_tokens=np.full(100, 8),
        vision_tokens=np.full(100, 20),
    )
    # 0.5 and 0.605: minimal for all from a tolerance of 0.11 on.
    logits = np.tile(np.log([[1.0, 0.605 / 0.395]]), (100, 1))
    calibrate_tolerance(lm, logits, scores, max_loss=0.01)
    assert lm.backbone.policy_tolerance == 0.11
    calibrate_tolerance(lm, logits, scores, max_loss=0.009)
    assert lm.backbone.policy_tolerance == 0.0


def test_where_none_is_good_enough_no_group_pays_either(lm):
    """In "hard" the third sample costs 0.25 of 1.5 at any tolerance.

    At 0.36 the fourth would gain 0.25 in "easy", at the same cost.
    """
    set_policy_rule(lm, "tolerance")
    calibrate_tolerance(lm, LOGITS, SCORES, max_loss=0.0, groups=GROUPS)
    assert lm.backbone.policy_tolerance == 0.0


def test_where_none_is_good_enough_the_best(lm):
    set_policy_rule(lm, "tolerance")
    logits = LOGITS.copy()
    logits[:, 0] = [3.0, 3.0, 3.0, 0.0]  # short by 0.12 in the fourth alone
    logits[:, 1] = [1.0, 1.0, 1.0, 0.5]
    calibrate_tolerance(lm, logits, SCORES, max_loss=0.0)
    # 1 + 0 + 0.25 + (0.75 or 1.0) of the full 3.25
    assert lm.backbone.policy_tolerance == 0.13


def test_bad_input(lm, load_small):
    with pytest.raises(ValueError, match='rule="tolerance".*argmax'):
        calibrate_tolerance(lm, LOGITS, SCORES)
    for logits in (LOGITS[:3], LOGITS[:, :1]):
        with pytest.raises(ValueError, match=r"`logits`.*\(4, 2\).* and 4"):
            evaluate_routing(lm, logits, SCORES)
    others = dataclasses.replace(SCORES, budgets=[[], [4]])
    with pytest.raises(ValueError, match=r"`scores`.*\[1\]\].*\[4\]\]"):
        evaluate_routing(lm, LOGITS, others)
    with pytest.raises(ValueError, match="`held_out`.*'DocVQA'"):
        evaluate_routing(lm, LOGITS, SCORES, GROUPS, ["DocVQA"])
    with pytest.raises(ValueError, match="`lm` must have a policy"):
        evaluate_routing(load_small(), LOGITS, SCORES)
    with pytest.raises(ValueError, match="must have a policy"):
        choose_budgets(load_small(), LOGITS)
    set_policy_rule(lm, "tolerance")
    with pytest.raises(ValueError, match="`max_loss`.*2"):
        calibrate_tolerance(lm, LOGITS, SCORES, max_loss=2)


# === Tables ===


def shown(table):
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    rows = (line.split("│")[1:-1] for line in capture.get().splitlines())
    return [[cell.strip() for cell in row] for row in rows if row]


def test_tables(lm):
    found = [
        Subnetwork((1, 4), 0.5, 3e9),
        Subnetwork((), 0.25, 1e9),
        Subnetwork((4,), 0.5, 2e9),
    ]
    assert shown(subnetwork_table(found)) == [
        ["none", "1e+09", "25.0%", "yes"],
        ["4", "2e+09", "50.0%", "yes"],
        ["1, 4", "3e+09", "50.0%", ""],
    ]
    assert shown(label_table({"a": [3, 1], "b": [0, 2]}, [[], [4]])) == [
        ["a", "75.0%", "25.0%"],
        ["b", "0.0%", "100.0%"],
    ]
    routings = evaluate_routing(lm, LOGITS, SCORES, GROUPS, ["hard"])
    rows = shown(routing_table(routings))
    assert [row[0] for row in rows] == ["all", "easy", "hard (held out)"]
    assert rows[1][1:5] == ["2", "87.5%", "87.5%", "100.0%"]
    share = routings[2].flops / routings[2].full_flops
    assert rows[2][5:] == [f"{share:.1%}", "0.50"]
