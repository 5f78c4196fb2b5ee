"""Time and memory beside `transformers` and beside our own dense self.

Writes benchmarks/results.json, row by row, and the table results.md. The
peers have the same random weights, float32, and the same number of threads,
and are timed in turns within one process; memory, the host's, is measured in a
process a peer. Linux only.

    python benchmarks/speed.py                      # everything: hours
    python benchmarks/speed.py --resume             # what is missing
    python benchmarks/speed.py --what prefill decode --backend torch
    python benchmarks/speed.py --quick              # does it run?
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
import sizes
import tables
from cells import WHAT
from cells import cells_of
from real_shape_checkpoint import write_checkpoint
from rich.console import Console

HERE = Path(__file__).parent
BACKENDS = ("torch", "jax", "tensorflow")
console = Console(highlight=False)


def main() -> None:
    arguments = parse()
    chosen = sizes.QUICK if arguments.quick else sizes.REAL
    with tempfile.TemporaryDirectory() as root:
        checkpoints = Checkpoints(Path(root), chosen)
        for group in groups(arguments):
            for backend in arguments.backend:
                parts = remaining(arguments, chosen, group, backend)
                if parts:
                    directory = checkpoints.directory(group)
                    run(arguments, directory, backend, parts)
    page = tables.page(results.read(arguments.results))
    arguments.results.with_suffix(".md").write_text(page, "utf-8")


def parse():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument(
        "--backend", nargs="+", choices=BACKENDS, default=BACKENDS
    )
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--repeats", type=int, help="defaults to 5")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip what has been measured, on whatever machine",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, one repeat"
    )
    parser.add_argument(
        "--results", type=Path, help="defaults to results.json beside this"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= cores:
        parser.error(f"--threads: 1 to {cores} here")
    if arguments.repeats is None:
        arguments.repeats = 1 if arguments.quick else 5
    if arguments.results is None:
        name = "quick.json" if arguments.quick else "results.json"
        arguments.results = HERE / name
    return arguments


class Checkpoints:
    """Checkpoints of the chosen sizes, written when first asked for."""

    def __init__(self, root: Path, chosen):
        self.root, self.chosen = root, chosen

    def directory(self, group: list[str]) -> Path:
        """Where the encoder counts, or how it cuts a picture."""
        with_encoder = group in (["end_to_end"], ["reduction"])
        directory = self.root / ("whole" if with_encoder else "text")
        if not directory.exists():
            directory.mkdir()
            console.print("writing a checkpoint of random weights")
            vision = self.chosen.vision if with_encoder else sizes.TINY_VISION
            write_checkpoint(directory, self.chosen.text, vision)
        return directory


def groups(arguments) -> list[list[str]]:
    """What runs in one process: each kind of row, or all that is quick."""
    if arguments.quick:
        return [list(arguments.what)]
    return [[what] for what in arguments.what]


def remaining(arguments, chosen, group, backend) -> list[tuple]:
    """Kinds of rows and the measurements that are still to be made."""
    known = results.read(arguments.results) if arguments.resume else []
    parts = []
    for what in group:
        cells = [
            cell
            for cell in cells_of(what, chosen)
            if not results.has_cell(known, what, backend, cell)
        ]
        if cells:
            parts.append((what, cells))
    return parts


def run(arguments, directory: Path, backend: str, parts) -> None:
    """Run a worker and merge its rows as they come."""
    names = ", ".join(what for what, _ in parts)
    console.print(f"[bold]{names}[/bold] on {backend}")
    job = {
        "directory": str(directory),
        "parts": parts,
        "quick": arguments.quick,
        "repeats": arguments.repeats,
        "threads": arguments.threads,
    }
    start = time.perf_counter()
    cores = sorted(os.sched_getaffinity(0))
    if not arguments.quick:
        # As many as threads: whatever pool a library makes, it fits.
        cores = cores[: job["threads"]]
    worker = subprocess.Popen(
        [sys.executable, HERE / "worker.py"],
        env=environment(backend, job["threads"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    worker.stdin.write(json.dumps(job))
    worker.stdin.close()
    for line in worker.stdout:
        if line.startswith("{"):
            row = json.loads(line)
            results.merge(arguments.results, row)
            console.print("  " + tables.one_line(row))
    if worker.wait():
        raise SystemExit(f"{names} failed on {backend}, see above")
    console.print(f"  {time.perf_counter() - start:.0f} s")


def environment(backend: str, threads: int) -> dict[str, str]:
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "NPROC",  # XLA's
    )
    return {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(
            [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        ),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # On a GPU, float32 means float32 to all, and they share its memory.
        "NVIDIA_TF32_OVERRIDE": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "float32",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **dict.fromkeys(names, str(threads)),
    }


if __name__ == "__main__":
    main()
