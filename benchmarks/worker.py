"""Kinds of rows on one backend, in a process of its own.

Started by `speed.py`, which sets the backend and the threads. Prints a row of
results.json a line.
"""

import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

import keras
import timing
import torch
from device import DEVICE


def main() -> None:
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])

    import sizes
    from models import Models
    from roofline import roofline

    chosen = sizes.QUICK if job["quick"] else sizes.REAL
    models = Models(job["directory"], chosen.text["num_hidden_layers"])
    limits = roofline(chosen)
    process = {
        "dtype": "float32",
        "threads": job["threads"],
        "machine": machine(),
        "versions": versions(),
        "roofline": limits,
    }
    for row in roofline_rows(limits):
        write({**row, **process})
    for what, cells in job["parts"]:
        module = importlib.import_module(what)
        for cell in cells:
            for row in module.measure(models, chosen, cell, job["repeats"]):
                write({**row, **fractions(row, limits), **process})


def fractions(row: dict, limits: dict) -> dict[str, float]:
    """How much of what the machine can do a row reaches."""
    parts = {}
    if "flops" in row:
        rate = row["flops"] / row["value"]
        parts["of_matmul"] = rate / limits["matmul_flops"]
    if "bytes" in row:
        rate = row["bytes"] / row["value"]
        parts["of_copy"] = rate / limits["copy_bytes"]
    return parts


def write(row: dict) -> None:
    now = datetime.datetime.now(datetime.UTC)
    row = {
        **row,
        "backend": keras.config.backend(),
        "repeats": row.get("repeats") or len(row.get("seconds", [None])),
        "measured": now.isoformat(timespec="seconds"),
    }
    print(json.dumps(row), flush=True)


def roofline_rows(limits: dict) -> list[dict]:
    """FLOP/s and bytes/s; more is better, and `transformers` is torch."""
    ours, theirs = limits["matmul_flops"], limits["torch_matmul_flops"]
    more = {"repeats": limits["repeats"]}
    matmul = timing.row("roofline", None, 1, "matmul", ours, theirs, **more)
    others = [
        timing.row("roofline", None, 1, budget, limits[name], **more)
        for budget, name in (
            ("thin matmul", "thin_matmul_flops"),
            ("copy", "copy_bytes"),
        )
    ]
    return [{**matmul, "ratio": ours / theirs}, *others]


def machine() -> str:
    """The GPU, or the processor and how many cores this process may use."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cores} core(s)"


def versions() -> dict[str, str]:
    names = {keras.config.backend(), "keras", "transformers", "torch"}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


if __name__ == "__main__":
    main()
