"""What the controls say: each compared with those trained alike."""

import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np
from even_samples import GROUPS
from matplotlib.lines import Line2D

FOLDER = pathlib.Path(__file__).parent
# VISOR-TR, by its name in `reduced_controls.json`.
POOLED = "universal_pooling_2x"
# Of a plot: what was trained on, and as many markers as there are reducers.
COLOURS = {"shipped": "C0", "universal": "C3", "full": "C2", "dense": "C1"}
MARKERS = "oDs^vP*X<>dp"


def read_record(name):
    """What a script of controls has written, if anything.

    Args:
        name: string. "controls", "controls_from_nothing" or
            "reduced_controls".
    """
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def universal_gaps(controls):
    """How far each control is ahead of the universal one.

    At its own budget, or at the full one where the universal one has no such
    budget, in each group.
    """
    if "universal" not in controls:
        return []
    ours = controls["universal"]["budgets"]
    return [
        theirs[group] - ours.get(budget, full_scores(ours))[group]
        for name, control in controls.items()
        if name not in ("universal", "more_cross_attention")
        for budget, theirs in control["budgets"].items()
        for group in GROUPS
    ]


def full_scores(budgets):
    """What a control reaches at its dearest budget."""
    return max(budgets.values(), key=lambda scores: scores["flops_vs_dense"])


def best_fine(reduced, prefix, amount, share):
    """The best fine score of some controls, `None` if there is none.

    Args:
        reduced: dict. The record of `reduced_controls.py`.
        prefix: string. How the names of those that count begin.
        amount: string. How the names end whose rate was chosen for that
            cost: `"auto"` or `"half"`.
        share: float. What others may cost, of the dense model's FLOPs.
    """
    return max(
        (
            scores["fine"]
            for name, record in reduced.items()
            if name.startswith(prefix)
            for scores in (*record["budgets"].values(), record.get("auto"))
            if scores
            and (
                name.endswith(f"_{amount}") or scores["flops_vs_dense"] <= share
            )
        ),
        default=None,
    )


def control_claims(controls, from_nothing, reduced, share):
    """Fractions by name, of those controls that have been trained.

    Args:
        controls: dict. The record of `controls.py`.
        from_nothing: dict. Its record with `--from-nothing`.
        reduced: dict. The record of `reduced_controls.py`.
        share: float. What "auto" costs, of the dense model's FLOPs.
    """
    # A single budget learns faster from nothing than eight at once do; the
    # dense model has no other start.
    beside_dense = {
        name: record
        for name, record in from_nothing.items()
        if name in ("universal", "dense")
    }
    gaps = universal_gaps(controls) + universal_gaps(beside_dense)
    half = share / 2
    claims = {
        "universal_worst_gap": max(gaps, default=None),
        # On the dense model.
        "reduction_best_fine": best_fine(reduced, "dense", "auto", share),
        "reduction_best_fine_half": best_fine(reduced, "dense", "half", half),
        # On the bundled model, at its full budget alone.
        "full_reduction_best_fine": best_fine(reduced, "full", "auto", share),
        "full_reduction_best_fine_half": best_fine(
            reduced, "full", "half", half
        ),
        "tr2_best_fine_half": best_fine(reduced, POOLED, "half", half),
    }
    if "dense" in from_nothing:
        dense = full_scores(from_nothing["dense"]["budgets"])
        claims |= {f"dense_{group}": dense[group] for group in GROUPS[:2]}
    if POOLED in reduced:
        claims["tr2_fine"] = full_scores(reduced[POOLED]["budgets"])["fine"]
    return {name: value for name, value in claims.items() if value is not None}


def points(controls):
    """What was trained, at each budget: (name, budget, scores, steps)."""
    for name, record in controls.items():
        steps = record["schedule"]["steps"]
        for budget, scores in record["budgets"].items():
            yield name, budget, scores, steps
        if "auto" in record:
            yield name, "auto", record["auto"], steps


def control_rows(controls):
    return [
        [
            name,
            budget,
            f"{scores['flops_vs_dense']:.3f}",
            *(f"{scores[group]:.1%}" for group in GROUPS),
            str(steps),
        ]
        for name, budget, scores, steps in points(controls)
    ]


def draw_pareto(controls, path):
    """Accuracy against FLOPs of everything, with the Pareto front.

    Colours say what was trained on, markers with which reducer.
    """
    found = list(points(controls))
    reducers = dict.fromkeys(split_name(name)[1] for name, *_ in found)
    markers = dict(zip(reducers, MARKERS, strict=False))
    figure, axes = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axis, group in zip(axes, GROUPS[:2], strict=True):
        for name, budget, scores, _ in found:
            start, reducer = split_name(name)
            point = scores["flops_vs_dense"], scores[group]
            axis.plot(*point, markers[reducer], color=COLOURS[start], alpha=0.8)
            if budget == "auto":
                axis.annotate(
                    "auto",
                    point,
                    (0, 7),
                    textcoords="offset points",
                    fontsize=8,
                    ha="center",
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
    keys = [
        *(Line2D([], [], color=c, lw=5, label=n) for n, c in COLOURS.items()),
        *(
            Line2D([], [], color="0.4", marker=m, ls="", label=n)
            for n, m in markers.items()
        ),
    ]
    figure.legend(handles=keys, fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def split_name(name):
    """What was trained on, and with which reducer: "dense_hired_auto"."""
    start, _, reducer = name.partition("_")
    for amount in ("_auto", "_half"):
        reducer = reducer.removesuffix(amount)
    return start, reducer or "unreduced"
