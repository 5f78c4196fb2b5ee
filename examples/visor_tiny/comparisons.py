"""What the controls say, all trained on one shorter schedule."""

import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np
from even_samples import GROUPS

FOLDER = pathlib.Path(__file__).parent


def read_record(name):
    """What `controls.py` or `reduced_controls.py` has written, if anything."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def universal_gaps(controls):
    """How far each control is ahead of the universal model.

    At its own budget, or at the full one where the universal model has no
    such budget, in each group.
    """
    ours = controls["universal"]["budgets"]
    full = max(ours, key=lambda budget: ours[budget]["flops_vs_dense"])
    return [
        theirs[group] - ours.get(budget, ours[full])[group]
        for name, control in controls.items()
        if name not in ("universal", "more_cross_attention")
        for budget, theirs in control["budgets"].items()
        for group in GROUPS
    ]


def best_reduction(reduced, share):
    """The best fine score of a reduced dense model that costs at most this."""
    return max(
        scores["fine"]
        for name, record in reduced.items()
        if name.startswith("dense")
        for scores in record["budgets"].values()
        if scores["flops_vs_dense"] <= 1.01 * share
    )


def control_claims(controls, reduced):
    """Fractions by name, of those controls that have been trained."""
    claims = {}
    if "dense" in controls:
        (dense,) = controls["dense"]["budgets"].values()
        claims |= {f"dense_{group}": dense[group] for group in GROUPS[:2]}
    if "universal" in controls and len(controls) > 1:
        claims["universal_worst_gap"] = max(universal_gaps(controls))
    if "universal" in controls and reduced:
        auto = controls["universal"]["auto"]
        share = auto["flops_vs_dense"]
        tr2 = list(reduced["universal pooling_2x"]["budgets"].values())
        ours = list(controls["universal"]["budgets"].values())
        claims |= {
            "control_auto_fine": auto["fine"],
            "control_full_fine": ours[-1]["fine"],
            "reduction_best_fine": best_reduction(reduced, share),
            "tr2_fine": tr2[-1]["fine"],
            "tr2_best_fine_half": max(
                (
                    scores["fine"]
                    for scores in tr2
                    if scores["flops_vs_dense"] <= share / 2
                ),
                default=0.0,
            ),
            "reduction_best_fine_half": best_reduction(reduced, share / 2),
        }
    return claims


def points(controls, reduced):
    """What was trained, at each budget: (name, budget, scores, minutes)."""
    for name, record in (controls | reduced).items():
        for budget, scores in record["budgets"].items():
            yield name, budget, scores, record["minutes"]
        if "auto" in record:
            yield name, "auto", record["auto"], record["minutes"]


def control_rows(controls, reduced):
    return [
        [
            name,
            budget,
            f"{scores['flops_vs_dense']:.3f}",
            *(f"{scores[group]:.1%}" for group in GROUPS),
            f"{minutes:.0f}",
        ]
        for name, budget, scores, minutes in points(controls, reduced)
    ]


def draw_pareto(controls, reduced, path):
    """Accuracy against FLOPs of everything, with the Pareto front."""
    found = list(points(controls, reduced))
    figure, axes = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axis, group in zip(axes, GROUPS[:2], strict=True):
        for number, name in enumerate(dict.fromkeys(row[0] for row in found)):
            rows = [scores for each, _, scores, _ in found if each == name]
            axis.plot(
                [scores["flops_vs_dense"] for scores in rows],
                [scores[group] for scores in rows],
                "os^vDP*X"[number % 8],
                color=plt.cm.tab20(number % 20),
                label=name,
            )
        costs, shares = np.array(
            [(row[2]["flops_vs_dense"], row[2][group]) for row in found]
        ).T
        order = np.lexsort((-shares, costs))
        best = np.maximum.accumulate(shares[order])
        axis.step(costs[order], best, where="post", color="0.6", zorder=0)
        axis.set(
            title=group,
            xscale="log",
            xlabel="language-model FLOPs, share of dense",
            ylabel="exact match",
            ylim=(0, 1.03),
        )
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
    plt.close(figure)
