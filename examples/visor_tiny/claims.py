"""Measure what VISOR claims on fresh pictures, from the bundled weights.

    make claims
    make claims SEED=1 SAMPLES=1000 OUT=outputs/claims

Writes a report with tables and plots, `claims.md`, and `claims.json` beside
it, fractions by name. Interrupted, it goes on where it stopped.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
from comparisons import control_claims
from comparisons import control_rows
from comparisons import draw_pareto
from comparisons import read_record
from even_samples import BATCH_SIZE
from even_samples import GROUPS
from even_samples import MAX_LENGTH
from even_samples import draw_samples
from even_samples import encoded
from even_samples import share_out
from model import DENSE_PRESET

import keras_visor
from keras_visor import training
from keras_visor.datasets import question_families

HERE = pathlib.Path(__file__).parent


def interval(scores):
    """Wilson's 95 % interval of a share: its ends."""
    count, share, z = len(scores), np.mean(scores), 1.96
    middle = share + z**2 / (2 * count)
    spread = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return tuple(
        (middle + sign * spread) / (1 + z**2 / count) for sign in (-1, 1)
    )


def percent(scores):
    low, high = interval(scores)
    return f"{np.mean(scores):.1%} ({100 * low:.1f} to {100 * high:.1f})"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


class Measured:
    """Answers of every budget and the policy's choices, over samples.

    Attributes:
        scores: float array (samples, budgets), 1 where the answer is right.
        flops: float array (samples, budgets), of the language model.
        dense_flops: float array (samples,), of the dense base model.
        chosen: int array (samples,), the budget that the policy picks.
    """

    def __init__(self, lm, samples, folder):
        samples = encoded(lm, samples)
        self.groups = np.array(samples["groups"])
        self.families = np.array(samples["families"])
        found = training.score_budgets(
            lm, samples, folder, max_length=MAX_LENGTH, batch_size=BATCH_SIZE
        )
        self.scores = found.scores
        self.flops = found.flops(lm.backbone, lm.reducer)
        self.dense_flops = found.dense_flops(lm.backbone)
        self.chosen = choose(lm, samples)

    def auto(self, values):
        """Of values (samples, budgets), those at the chosen budgets."""
        return at_budgets(values, self.chosen)

    def auto_saving(self, groups):
        """Dense FLOPs over those of "auto", each group weighing the same."""
        chosen, dense = self.auto(self.flops), self.dense_flops
        rows = [self.groups == group for group in groups]
        return sum(dense[row].mean() for row in rows) / sum(
            chosen[row].mean() for row in rows
        )


def at_budgets(values, chosen):
    """Of values (samples, budgets), those at one budget a sample."""
    return values[np.arange(len(values)), chosen]


def choose(lm, samples):
    return training.choose_budgets(lm, training.routing_logits(lm, samples))


def hide_pictures(lm, samples):
    """The same questions, about a grey picture."""
    grey = lm.encode(np.full_like(samples["images"][0], 128))
    return {**samples, "images": [grey] * len(samples["images"])}


def seconds_to_answer():
    """From the start of the command line to its right answer."""
    command = pathlib.Path(sys.executable).with_name("keras-visor")
    picture = HERE.parent / "pictures" / "table.png"
    start = time.time()
    ran = subprocess.run(
        [command, "ask", picture, "what does the picture show?"],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.time() - start
    if not re.search(r"^answer +table$", ran.stdout, re.MULTILINE):
        raise RuntimeError(f"{picture} was answered by: {ran.stdout}")
    return seconds


def budget_rows(lm, measured):
    """Exact match by budget, and of "auto", in each group."""
    names = [str(budget) for budget in lm.backbone.budgets]
    rows = []
    for name, scores, flops in [
        *zip(names, measured.scores.T, measured.flops.T, strict=True),
        ("auto", measured.auto(measured.scores), measured.auto(measured.flops)),
    ]:
        saved = measured.dense_flops.mean() / flops.mean()
        shares = [percent(scores[measured.groups == g]) for g in GROUPS]
        rows.append([name, f"{saved:.1f}x", *shares])
    return rows


def hidden_rows(measured, hidden):
    """What the policy's choices are worth without the picture."""
    rows = []
    for group in GROUPS:
        at = measured.groups == group
        row = [group]
        for chosen in (measured.chosen, hidden):
            flops = at_budgets(measured.flops, chosen)[at].mean()
            score = at_budgets(measured.scores, chosen)[at].mean()
            saved = measured.dense_flops[at].mean() / flops
            row += [f"{score:.1%}", f"{saved:.1f}x"]
        rows.append(row)
    return rows


def held_out_rows(preset):
    """How a policy fares on the families that it was not trained on.

    As `train.py` measured it on validation questions.
    """
    folder = pathlib.Path(preset)
    if not folder.is_dir():
        folder = pathlib.Path(keras_visor.__file__).parent / "presets" / preset
    path = folder / "training.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    return [
        [
            each["group"],
            each["count"],
            *(
                f"{each[name]:.1%}"
                for name in ("minimal_score", "full_score", "score")
            ),
            f"{each['layers_on']:.2f}",
        ]
        for each in record.get("held_out", [])
    ]


def shipped_record(lm, measured):
    """What the shipped model reaches, as records of controls have it."""

    def shares(scores):
        return {
            group: float(scores[measured.groups == group].mean())
            for group in GROUPS
        }

    def scores(found, flops):
        share = flops.mean() / measured.dense_flops.mean()
        return {"flops_vs_dense": float(share), **shares(found)}

    columns = zip(
        lm.backbone.budgets, measured.scores.T, measured.flops.T, strict=True
    )
    return {
        "schedule": {"steps": "history.md"},  # Eight stages.
        "budgets": {str(b): scores(*found) for b, *found in columns},
        "auto": {
            "flops_vs_dense": 1 / measured.auto_saving(GROUPS[:2]),
            **shares(measured.auto(measured.scores)),
        },
    }


def dense_record():
    """What `train.py --dense` has recorded of its model."""
    record = json.loads((DENSE_PRESET / "training.json").read_text())
    return {"schedule": record["schedule"], "budgets": record["test"]}


def family_rows(lm, measured):
    layers = np.array([len(budget) for budget in lm.backbone.budgets])
    rows = []
    for group in GROUPS:
        for family in question_families()[group]:
            at = measured.families == family
            shares = measured.scores[at].mean(axis=0)
            auto = measured.auto(measured.scores)[at].mean()
            on = layers[measured.chosen[at]].mean()
            rows.append(
                [
                    group,
                    family,
                    *(f"{share:.1%}" for share in (*shares, auto)),
                    f"{on:.2f}",
                ]
            )
    return rows


def draw_tradeoff(lm, measured, path):
    """Accuracy against FLOPs: the budgets, and what the policy makes of it."""
    dense = measured.dense_flops.mean()
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axis, group in zip(axes, GROUPS, strict=True):
        at = measured.groups == group
        shares = measured.flops[at].mean(axis=0) / dense
        axis.plot(shares, measured.scores[at].mean(axis=0), "o-", label="fixed")
        axis.plot(
            measured.auto(measured.flops)[at].mean() / dense,
            measured.auto(measured.scores)[at].mean(),
            "*",
            markersize=14,
            label="auto",
        )
        for budget, x, y in zip(
            lm.backbone.budgets,
            shares,
            measured.scores[at].mean(axis=0),
            strict=True,
        ):
            axis.annotate(str(budget), (x, y), fontsize=8)
        axis.set(
            title=group,
            xlabel="language-model FLOPs, share of dense",
            ylabel="exact match",
            ylim=(0, 1.03),
        )
        axis.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--out", type=pathlib.Path, default="outputs/claims")
    parser.add_argument("--preset", default="visor_tiny_en")
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    out.mkdir(parents=True, exist_ok=True)
    work = out / f"answers_{seed}_{arguments.samples}"

    lm = keras_visor.VisorCausalLM.from_preset(arguments.preset)
    samples = draw_samples("test", share_out(arguments.samples), seed)
    measured = Measured(lm, samples, work / "test")
    each = arguments.samples // 10
    unseen = {
        what: Measured(
            lm,
            draw_samples("test", dict.fromkeys(GROUPS, each), seed, what),
            work / what,
        )
        for what in ("font", "words")
    }
    hidden = choose(lm, hide_pictures(lm, samples))

    def share(scores, group):
        return float(scores[measured.groups == group].mean())

    auto = measured.auto(measured.scores)
    controls = read_record("controls")
    from_nothing = read_record("controls_from_nothing")
    reduced = read_record("reduced_controls")
    claims = {
        **{f"full_{g}": share(measured.scores[:, -1], g) for g in GROUPS},
        **{f"minimal_{g}": share(measured.scores[:, 0], g) for g in GROUPS[:2]},
        **{f"auto_{g}": share(auto, g) for g in GROUPS[:2]},
        "auto_flops_vs_dense": 1 / measured.auto_saving(GROUPS[:2]),
        "auto_coarse_flops_vs_dense": 1 / measured.auto_saving(GROUPS[:1]),
    }
    share_of_dense = claims["auto_flops_vs_dense"]
    claims |= control_claims(controls, from_nothing, reduced, share_of_dense)
    claims["seconds_to_answer"] = seconds_to_answer()
    draw_tradeoff(lm, measured, out / "tradeoff.png")
    budgets = list(map(str, lm.backbone.budgets))
    report = [
        "# What visor_tiny_en shows",
        f"{len(measured.scores):,} fresh test questions (seed {seed}), exact "
        "match with 95 % intervals. FLOPs of the language model's prefill, as "
        "a saving against the dense model.",
        "## Budgets",
        table(["budget", "FLOPs saved", *GROUPS], budget_rows(lm, measured)),
        "![Accuracy against FLOPs](tradeoff.png)",
        f'"auto" on coarse and fine questions, one of each: '
        f"{measured.auto_saving(GROUPS[:2]):.1f}x; on coarse ones alone: "
        f"{measured.auto_saving(GROUPS[:1]):.1f}x.",
        "## Families",
        table(
            ["group", "family", *budgets, "auto", "layers on at auto"],
            family_rows(lm, measured),
        ),
        "## The policy with the picture hidden from it",
        table(
            ["group", "sees it", "FLOPs saved", "sees grey", "FLOPs saved"],
            hidden_rows(measured, hidden),
        ),
        "## Families never shown to a policy",
        "Validation questions, and a policy trained and calibrated without "
        "these families.",
        table(
            ["family", "questions", "minimal", "full", "auto", "layers on"],
            held_out_rows(arguments.preset),
        ),
        "## Fonts and words never trained on",
        *(
            f"Unseen {what}:\n\n"
            + table(["budget", "FLOPs saved", *GROUPS], budget_rows(lm, other))
            for what, other in unseen.items()
        ),
    ]
    header = ["trained", "budget", "FLOPs", *GROUPS, "steps"]
    if controls:
        report += [
            "## Controls that go on from trained weights",
            "Those of which stage, history.md says. The universal model's "
            "worst gap is to these and to the dense control from nothing.",
            table(header, control_rows(controls)),
        ]
    if reduced:
        compared = {
            "shipped": shipped_record(lm, measured),
            "dense": dense_record(),
        } | reduced
        draw_pareto(compared, out / "pareto.png")
        report += [
            "## Token reduction",
            "Trained on with a reducer, or `_unreduced`: the dense model "
            "(`dense_`), the shipped model's full budget alone (`full_`) and "
            "all its budgets (`universal_`). Rates of `_auto` "
            'cost what "auto" costs, those of `_half` half of that. The '
            'FLOPs of "auto" are those of '
            "coarse and fine questions, one of each. Steps are those that "
            "came on top; of `dense` itself, which began from nothing, all.",
            "![Accuracy against FLOPs of all of them](pareto.png)",
            table(header, control_rows(compared)),
        ]
    if from_nothing:
        report += [
            "## Controls from nothing",
            table(header, control_rows(from_nothing)),
        ]
    (out / "claims.md").write_text("\n\n".join(report) + "\n")
    (out / "claims.json").write_text(json.dumps(claims, indent=2) + "\n")
    print(json.dumps(claims, indent=2))


if __name__ == "__main__":
    main()
