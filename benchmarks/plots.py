"""Time and memory against visual tokens, per budget, on log axes.

    python benchmarks/plots.py                      # from results.json

Writes prefill.png and memory.png beside the results. Wants matplotlib: the
extra `plots`.
"""

import argparse
from pathlib import Path

import matplotlib
import results
import tables

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter  # noqa: E402

HERE = Path(__file__).parent
BUDGETS = ("minimal", "two", "full", "dense")
COLOURS = dict(zip(BUDGETS, ("C2", "C0", "C1", "C3"), strict=True))
PLOTS = {
    "prefill": ("seconds", "Prefill of the language model", 1.0),
    "memory": ("MB", "Peak memory of a prefill, above the weights", 1e6),
}


def plot(rows: list[dict], what: str, path: Path) -> None:
    """One panel a backend and machine, one line a budget, and the peer's."""
    rows = [row for row in rows if row["what"] == what]
    if not rows:
        return
    unit, title, scale = PLOTS[what]
    wheres = sorted({_where(row) for row in rows})
    figure, panels = plt.subplots(
        1,
        len(wheres),
        figsize=(1 + 3.5 * len(wheres), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, where in zip(panels[0], wheres, strict=True):
        chosen = [row for row in rows if _where(row) == where]
        for budget in BUDGETS:
            line = _line(chosen, budget, "value", scale)
            if not line[0]:
                continue
            panel.plot(*line, "o-", color=COLOURS[budget], label=budget)
        line = _line(chosen, "dense", "transformers", scale)
        panel.plot(*line, "s--", color="black", label="transformers")
        lengths = sorted({row["visual_tokens"] for row in chosen})
        panel.set(title=where, xscale="log", yscale="log")
        panel.set_xlabel("visual tokens")
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.tick_params(axis="x", labelsize="small", rotation=30)
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(which="both", alpha=0.2)
    panels[0, 0].set_ylabel(unit)
    panels[0, -1].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _where(row):
    return f"{row['backend']} on {tables.machine(row)}"


def _line(rows, budget, key, scale):
    points = sorted(
        (row["visual_tokens"], row[key] / scale)
        for row in rows
        if row["budget"] == budget and row[key]
    )
    return [point[0] for point in points], [point[1] for point in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", default=HERE / "results.json")
    path = Path(parser.parse_args().results)
    for what in PLOTS:
        plot(results.read(path), what, path.with_name(f"{what}.png"))


if __name__ == "__main__":
    main()
