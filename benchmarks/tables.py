"""The Markdown page made from results.json.

python benchmarks/tables.py                     # results.json -> results.md
"""

import argparse
from pathlib import Path

import results
from sizes import REAL
from targets import targets_of

HERE = Path(__file__).parent
TITLES = {
    "prefill": "Prefill of the language model, up to the last logits",
    "decode": "Decoding after a prefill",
    "memory": "Peak memory of a prefill, above the weights",
    "cache": "Keys and values held after a prefill",
    "routing": "Routing, and batches of mixed budgets",
    "train_step": "Training step of the language model, LoRA",
    "end_to_end": "From picture to first token",
    "reduction": "Prefill with token reduction",
}
# What else a kind of row shows: a title, a key and how it is written.
MORE = {
    "prefill": (
        ("eager", "transformers_eager", "time"),
        ("ratio, eager", "eager_ratio", "ratio"),
        ("our dense / ours", "dense_ratio", "ratio"),
        ("by FLOPs", "flops_ratio", "ratio"),
        ("of that", "of_flops_ratio", "part"),
        ("of FLOPs that run", "of_run_ratio", "part"),
        ("of bare matmul", "of_matmul", "part"),
        ("ratio at the matmuls' limit", "limit_ratio", "ratio"),
    ),
    "decode": (
        ("our dense / ours", "dense_ratio", "ratio"),
        ("of bare copy", "of_copy", "part"),
    ),
    "memory": (
        ("of our dense", "of_dense", "part"),
        ("left behind", "left_behind", "size"),
        ("transformers left behind", "transformers_left_behind", "size"),
    ),
    "cache": (
        ("counted", "counted", "size"),
        ("of our dense", "of_dense", "part"),
        ("of our dense, counted", "counted_of_dense", "part"),
    ),
    "routing": (
        ("prefill", "prefill", "time"),
        ("of it", "of_prefill", "part"),
        ("groups apart", "apart", "time"),
        ("of that", "of_apart", "part"),
    ),
    "train_step": (
        ("of our dense", "of_dense", "part"),
        ("of bare matmul", "of_matmul", "part"),
    ),
    "end_to_end": (),
    "reduction": (
        ("unreduced / ours", "unreduced_ratio", "ratio"),
        ("our dense / ours", "dense_ratio", "ratio"),
        ("of bare matmul", "of_matmul", "part"),
    ),
}
SIZES = ("memory", "cache")
BUDGETS = ("minimal", "two", "full", "dense", "universal", "mixed")


def page(rows: list[dict]) -> str:
    """All rows, each beside its target.

    Args:
        rows: list of dict. The rows of results.json.
    """
    if not rows:
        return "# Speed and memory\n\nNothing has been measured.\n"
    rows = [{**row, **_of_run(row), **_limit(row)} for row in rows]
    parts = [HEAD, *_linearity(rows), *_rooflines(rows)]
    for what, title in TITLES.items():
        chosen = [row for row in rows if row["what"] == what]
        if chosen:
            parts.append(f"## {title}\n\n{_table(what, chosen)}")
    return "\n\n".join(parts) + "\n"


HEAD = """\
# Speed and memory

Written by `python benchmarks/speed.py`, which says what is measured; remade
from `results.json` by `python benchmarks/tables.py`. Everything in float32, the
shape of LLaVA-OneVision 0.5B (24 layers of width 896), 64 tokens of text where
nothing else is said, the same random weights for all peers. `transformers` is
LlavaOnevision with SDPA; a ratio above 1 means that ours takes less. Our dense
self is LLaVA-OneVision itself, every layer over all tokens. The best backend of
a row, on its machine, is set in bold; a target asks half of the others where it
is a prefill's ratio. Times are medians of rounds in which all peers of a row
take turns. A turn is the median of the runs that begin within two seconds, five
at most; it was a single run before 2026-11-30T15. Lengths are run as they
stand; `generate` pads them on JAX and TensorFlow, by less than an eighth. FLOPs
are those of `count_flops`, twice that for a training step, and are held against
a bare matmul. They count whole layers and all pairs of tokens, of which causal
attention needs half, and more where nobody reads the visual tokens afterwards:
what runs can be faster than a matmul of as many, and "of FLOPs that run" says
how much of their ratio the minimal budget reaches once half of dense's pairs
are left out. Up to 7,371 visual tokens, most of the minimal budget's FLOPs are
the text's, whose 64 rows make thin products, at a rate of their own (below):
"ratio at the matmuls' limit" is what the minimal budget would reach if it did
nothing but bare products, thin ones for the text. Routing is the difference of
two prefills' times, below 0 where it is lost in their noise. Five questions
about one picture take `transformers` five times what one does. A decoded token
reads all weights and the cache at least once, which is held against a bare copy
(bytes read and written)."""


def _of_run(row):
    """What of the FLOPs ratio is reached, dense's as they run.

    Its causal attention computes half of the pairs of tokens that are
    counted. The minimal budget has few of them.
    """
    counted = row.get("flops_ratio")
    if (row["what"], row["budget"]) != ("prefill", "minimal") or not counted:
        return {}
    text = REAL.text
    length = REAL.text_tokens + row["visual_tokens"]
    pairs = text["num_hidden_layers"] * 2 * text["hidden_size"] * length**2
    run = counted - pairs / row["flops"]
    return {"of_run_ratio": row["dense_ratio"] / run}


def _limit(row):
    """The ratio that bare matmuls would reach, the text's as thin ones."""
    limits = row["roofline"]
    if "text_flops" not in row or "thin_matmul_flops" not in limits:
        return {}
    if not row["ratio"]:
        return {}
    seconds = row["text_flops"] / limits["thin_matmul_flops"]
    other = row["flops"] - row["text_flops"]
    seconds += other / limits["matmul_flops"]
    return {"limit_ratio": row["transformers"] / seconds}


def one_line(row: dict) -> str:
    """A row as it is shown while the benchmark runs."""
    if row["what"] == "roofline":
        return f"{row['budget']} {row['value'] / 1e9:.1f} G/s"
    unit = "size" if row["what"] in SIZES else "time"
    words = [
        row["what"],
        row["budget"],
        f"{_write(row['visual_tokens'], 'count')} visual tokens",
        f"batch {row['batch']}:",
        _write(row["value"], unit),
    ]
    if row["ratio"]:
        words.append(f"transformers {_write(row['transformers'], unit)},")
        words.append(f"ratio {_write(row['ratio'], 'ratio')}")
    return " ".join(words)


def _table(what, rows) -> str:
    unit = "size" if what in SIZES else "time"
    more = [column for column in MORE[what] if _is_used(column, rows)]
    titles = ["budget", "visual tokens", "batch"]
    titles += ["machine", "backend", "ours"]
    has_peer = any(row["transformers"] for row in rows)
    if has_peer:
        titles += ["transformers", "ratio"]
    titles += [*(title for title, _, _ in more), "repeats", "target"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in sorted(rows, key=_order):
        best = is_best(row, rows)
        backend = f"**{row['backend']}**" if best else row["backend"]
        cells = [
            row["budget"],
            _write(row["visual_tokens"], "count"),
            str(row["batch"]),
            machine(row),
            backend,
            _write(row["value"], unit),
        ]
        if has_peer:
            cells += [
                _write(row["transformers"], unit),
                _write(row["ratio"], "ratio"),
            ]
        cells += [_write(row.get(key), kind) for _, key, kind in more]
        cells.append(str(row["repeats"]))
        cells.append(
            "; ".join(
                f"{words}: {'met' if met else '**missed**'}"
                for words, met in targets_of(row, best)
            )
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def is_best(row: dict, rows: list[dict]) -> bool:
    """Whether no other backend has a better value on that machine."""
    names = ("what", "machine", "visual_tokens", "batch", "budget")
    rivals = [r for r in rows if all(r[n] == row[n] for n in names)]
    return row["value"] == min(rival["value"] for rival in rivals)


def machine(row):
    """Its name and number of cores, as short as tells machines apart."""
    return row["machine"].replace("(R)", "").replace(" Processor", "")


def _linearity(rows):
    """How the minimal budget's time grows with the picture."""
    lines = []
    for where in sorted({(row["backend"], machine(row)) for row in rows}):
        line = sorted(
            (row["visual_tokens"], row["value"])
            for row in rows
            if (row["what"], row["budget"]) == ("prefill", "minimal")
            and (row["backend"], machine(row)) == where
        )
        if len(line) < 3:
            continue
        (first, least), (last, most) = line[0], line[-1]
        lines.append(
            f"- {' on '.join(where)}: {last / first:.1f} times the visual "
            f"tokens, {most / least:.1f} times the time "
            f"({_write(least, 'time')} at {first:,}, {_write(most, 'time')} "
            f"at {last:,})"
        )
    if lines:
        title = "## The minimal budget's prefill against visual tokens"
        yield f"{title}\n\n" + "\n".join(lines)


def _rooflines(rows):
    """The machines, and what they can do, by kind of row and backend."""
    lines = [
        "| rows | backend | machine | threads | matmul | thin matmul "
        "| torch's matmul | copy | versions | measured |",
        "|" + "---|" * 10,
    ]
    # The last of each kind's rows.
    runs = {(row["what"], row["backend"], row["machine"]): row for row in rows}
    for (what, backend, _), last in runs.items():
        if what in ("roofline", "cache"):
            continue
        limits = last["roofline"]
        versions = last["versions"].items()
        cells = [
            what,
            backend,
            last["machine"],
            str(last["threads"]),
            f"{limits['matmul_flops'] / 1e9:.0f} GFLOP/s",
            f"{limits['thin_matmul_flops'] / 1e9:.0f} GFLOP/s"
            if "thin_matmul_flops" in limits
            else "",
            f"{limits['torch_matmul_flops'] / 1e9:.0f} GFLOP/s",
            f"{limits['copy_bytes'] / 1e9:.1f} GB/s",
            ", ".join(f"{name} {version}" for name, version in versions),
            last["measured"][:16],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    yield "## Machine\n\n" + "\n".join(lines)


def _is_used(column, rows):
    return any(row.get(column[1]) is not None for row in rows)


def _order(row):
    """Cheap budgets first, short pictures first."""
    budget = row["budget"]
    known = [i for i, name in enumerate(BUDGETS) if budget.startswith(name)]
    return (
        "questions" in budget,
        min(known, default=len(BUDGETS)),
        row["visual_tokens"],
        row["batch"],
        row["machine"],
        row["backend"],
    )


def _write(value, kind) -> str:
    if value is None:
        return ""
    if kind == "count":
        return f"{value:,}"
    if kind == "size":
        return f"{value / 1e6:,.0f} MB"
    if kind == "time":
        return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"
    if kind == "part":
        return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", default=HERE / "results.json")
    path = Path(parser.parse_args().results)
    path.with_suffix(".md").write_text(page(results.read(path)), "utf-8")


if __name__ == "__main__":
    main()
