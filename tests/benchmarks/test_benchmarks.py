"""The benchmarks run, and make their table and plots from what they write."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KEYS = {
    "what": str,
    "backend": str,
    "visual_tokens": (int, type(None)),
    "batch": int,
    "budget": str,
    "value": (float, int),
    "transformers": (float, int, type(None)),
    "ratio": (float, type(None)),
}
# What the made-up results below hold.
PREFILL = {
    "what": "prefill",
    "backend": "jax",
    "visual_tokens": 1_485,
    "batch": 1,
    "budget": "minimal",
    "value": 0.4,
    "transformers": 8.0,
    "ratio": 20.0,
    "dense": 8.0,
    "dense_ratio": 20.0,
    "flops": 5.6e10,
    "text_flops": 5e10,
    "flops_ratio": 25.0,
    "of_flops_ratio": 0.8,
    "machine": "a computer",
    "threads": 2,
    "versions": {"keras": "3"},
    "roofline": {
        "matmul_flops": 1e11,
        "torch_matmul_flops": 1e11,
        "copy_bytes": 1e10,
    },
    "measured": "2026-01-01T00:00:00+00:00",
    "repeats": 5,
}


def run(script, *arguments):
    subprocess.run(
        [sys.executable, BENCHMARKS / script, *map(str, arguments)],
        check=True,
    )


def test_quick(tmp_path):
    path = tmp_path / "results.json"
    backend = keras.config.backend()
    arguments = ["--quick", "--threads", 1, "--backend", backend]
    # Where nothing is compiled, all kinds of rows.
    kinds = ["reduction"] if backend == "torch" else []
    kinds += ["prefill", "decode", "memory", "routing", "end_to_end"]
    arguments += ["--what", *kinds, "train_step"]
    run("speed.py", *arguments, "--results", path)
    rows = json.loads(path.read_text())
    for row in rows:
        for key, kind in KEYS.items():
            assert isinstance(row[key], kind), (key, row)
        assert row["backend"] == backend
    found = {(row["what"], row["budget"]) for row in rows}
    if backend == "torch":
        assert {
            ("reduction", "two average_pooling:0.5"),
            ("reduction", "dense pyramid_drop:0.5"),
        } <= found
    assert {
        ("prefill", "minimal"),
        ("prefill", "two"),
        ("prefill", "dense"),
        ("decode", "minimal"),
        ("memory", "minimal"),
        ("cache", "two"),
        ("routing", "minimal"),
        ("routing", "mixed"),
        ("train_step", "universal"),
        ("end_to_end", "dense"),
        ("roofline", "matmul"),
    } <= found
    keys = [tuple(row[key] for key in list(KEYS)[:5]) for row in rows]
    assert len(keys) == len(set(keys))
    assert "## Prefill" in path.with_suffix(".md").read_text()
    # By hand: 6 layers' matrices and attention over 16 tokens of text.
    matrices = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
    text_flops = 6 * (2 * 16 * matrices + 4 * 32 * 16**2)
    counted = {row["text_flops"] for row in rows if "text_flops" in row}
    assert counted == {text_flops}

    # All is there: nothing is measured again.
    run("speed.py", *arguments, "--resume", "--results", path)
    assert json.loads(path.read_text()) == rows


def made_up_rows():
    slow = {**PREFILL, "backend": "torch", "value": 1.6, "ratio": 5.0}
    slow["of_flops_ratio"] = 0.2
    longer = {**PREFILL, "visual_tokens": 3_699, "ratio": 40.0}
    return copy.deepcopy([PREFILL, slow, longer])


def test_table(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(made_up_rows()))
    run("tables.py", path)
    lines = path.with_suffix(".md").read_text().splitlines()
    (best,) = [line for line in lines if "| **jax** | 400.0 ms" in line][:1]
    assert "ratio ≥ 15: met" in best and "**missed**" not in best
    (slow,) = [line for line in lines if "| torch | 1.60 s" in line]
    assert "ratio ≥ 7.5: **missed**" in slow
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    # Each line of a table has as many cells as its head.
    for above, line in zip(lines, lines[1:], strict=False):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|")


def test_limit_of_thin_products(monkeypatch):
    """By hand: the text's FLOPs at their rate, the others at theirs."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tables

    limits = {**PREFILL["roofline"], "thin_matmul_flops": 5e10}
    row = {**PREFILL, "roofline": limits}
    # 50 GFLOP thin ones in a second, 6 others in 0.06.
    assert tables._limit(row) == {"limit_ratio": pytest.approx(8 / 1.06)}
    assert tables._limit(PREFILL) == {}


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "results.json"
    memory = {**PREFILL, "what": "memory", "value": 3e8, "transformers": 9e8}
    path.write_text(json.dumps([*made_up_rows(), memory]))
    run("plots.py", path)
    for name in ("prefill", "memory"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0


def test_rows_are_replaced(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results

    path = tmp_path / "results.json"
    for row in [*made_up_rows(), {**PREFILL, "value": 0.3}]:
        results.merge(path, row)
    assert [row["value"] for row in results.read(path)] == [0.3, 1.6, 0.4]


def test_targets(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from targets import targets_of

    best, slow, longer = made_up_rows()
    assert all(met for _, met in targets_of(best, best=True))
    assert not any(met for _, met in targets_of(slow, best=False))
    assert dict(targets_of(longer, best=True))["ratio ≥ 35"]


def test_readme_figures():
    """The speed-up that the README's table shows, of the best backend."""
    readme = (BENCHMARKS.parent / "README.md").read_text()
    prose = " ".join(readme.split())
    rows = json.loads((BENCHMARKS / "results.json").read_text())

    def best(what, budget="minimal", key="ratio", **cell):
        chosen = [
            row
            for row in rows
            if row["what"] == what
            and row["budget"] == budget
            and all(row[name] == value for name, value in cell.items())
        ]
        return min(chosen, key=lambda row: row["value"])[key]

    epyc = {"machine": "AMD EPYC, 2 core(s)"}
    for length in (1_485, 3_699, 7_371):
        ratios = [
            best("prefill", budget, visual_tokens=length, **epyc)
            for budget in ("minimal", "two", "dense")
        ]
        cells = " | ".join(f"{ratio:.1f}x" for ratio in ratios)
        assert f"| {length:,} | {cells} |" in readme, cells
    xeon = "Intel(R) Xeon(R) Processor, 2 core(s)"
    minimal, two, dense = (
        [
            f"{best('prefill', budget, visual_tokens=length, machine=xeon):.1f}"
            for length in (1_485, 3_699, 7_371)
        ]
        for budget in ("minimal", "two", "dense")
    )
    assert "minimal budget is {}, {} and {} times as fast".format(*minimal) in (
        prose
    )
    assert "two layers {}, {} and {} times".format(*two) in prose
    assert "dense model {}, {} and {} times".format(*dense) in prose
    pooled = "two average_pooling:0.5"
    faster = best("reduction", pooled, "unreduced_ratio", machine=xeon)
    assert f"read {faster:.1f} times as fast again" in prose
    one, eight = (best("decode", batch=batch, **epyc) for batch in (1, 8))
    assert f"{one:.1f} times as fast" in prose
    assert f"{eight:.1f} times in a batch of eight" in prose
    torch = best("decode", batch=1, backend="torch", **epyc)
    assert f"on PyTorch one answer is written {torch:.2f} times" in prose
    on_xeon = {"machine": xeon, "backend": "tensorflow"}
    one, eight = (best("decode", batch=batch, **on_xeon) for batch in (1, 8))
    assert f"TensorFlow {one:.2f} times and eight {eight:.1f} times" in prose
    jax = best("decode", batch=1, machine=xeon, backend="jax")
    assert f"JAX writes one answer {jax:.1f} times as fast" in prose
    torch = best("decode", batch=8, machine=xeon, backend="torch")
    assert f"PyTorch eight {torch:.1f} times" in prose
    memory = best("memory", visual_tokens=7_371)
    assert f"takes {memory:.1f} times less memory above" in prose
    long = {"visual_tokens": 7_371}
    jax, flow = (
        best("memory", backend=backend, **long)
        for backend in ("jax", "tensorflow")
    )
    assert f"{jax:.1f} times less on JAX and {flow:.1f} on Tens" in prose
    dense = [
        best("memory", "dense", backend=backend, **long)
        for backend in ("jax", "tensorflow", "torch")
    ]
    less = f"{min(dense):.1f} to {max(dense):.1f} times less"
    assert f"our dense model takes {less}" in prose
    step = best("train_step", "universal", "of_dense")
    assert f"takes {step:.2f} of the time that our dense model's takes" in prose
    first = best("end_to_end", visual_tokens=7_371)
    assert (
        f"to the first token the minimal budget is {first:.1f} times as fast"
    ) in prose
    five = best("end_to_end", "minimal, five questions", visual_tokens=7_371)
    assert f"and {five:.1f} times for five questions about it" in prose
