"""Train models on what token reducers leave.

The dense model of `train.py --dense` with each reducer, as their papers have
them, at rates at which that costs what "auto" costs without one, and half of
that; the bundled model's full budget alone likewise, and all of its budgets on
pooled tokens, with a policy of their own (VISOR-TR). Each start goes on without
a reducer too, for what the steps alone do. Same pictures, same losses, same
steps (VISOR-TR has more, at a higher rate: `SCHEDULES`), but that a reducer
within the decoder sees one question a picture. What they reach on the test
questions of `make claims` goes to `reduced_controls.json`.

    KERAS_BACKEND=torch python examples/visor_tiny/reduced_controls.py

Names train those alone. Started again, a training goes on from its last
checkpoint.
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import keras
from comparisons import split_name
from controls import FOLDER
from controls import SCHEDULE
from controls import START
from controls import write_record
from model import DENSE_PRESET
from route import route
from schedule import Universal
from schedule import flush_denormals
from schedule import train
from scoreboard import measure
from scoreboard import measure_auto

from keras_visor import VisorCausalLM
from keras_visor import reduction
from keras_visor.analysis import count_flops
from keras_visor.training import with_budgets

# What is trained on: the dense model, the full budget, or all of them.
STARTS = {"dense": str(DENSE_PRESET), "full": START, "universal": START}
# Functions from a rate to a reducer.
REDUCERS = {
    "random_choice": reduction.RandomChoice,
    "uniform_choice": reduction.UniformChoice,
    "vision_zip": reduction.VisionZip,
    "vis_pruner": reduction.VisPruner,
    "hired": reduction.HiRED,
    # At layers that look at the image in both, as early as they can.
    "fast_v": functools.partial(reduction.FastV, layer=0),
    "pyramid_drop": functools.partial(reduction.PyramidDrop, layers=(0, 3, 4)),
}
# What a rate of average pooling is does not depend on FLOPs.
POOLING = {
    "pooling_2x": reduction.AveragePooling(0.5),
    "pooling_4x": reduction.AveragePooling(0.25),
}
ROUTING_SAMPLES = 2000
# The dense model was trained in bfloat16.
IN_BFLOAT16 = dataclasses.replace(SCHEDULE, dtype="mixed_bfloat16")
SCHEDULES = {
    "dense": IN_BFLOAT16,
    "full": SCHEDULE,
    # Its steps are shared by all budgets: 150 left it 30 points behind, 400 at
    # a rate of 0.003 left it 6.6.
    "universal": dataclasses.replace(
        IN_BFLOAT16, steps=3000, learning_rate=4e-3, decay=0.6
    ),
}

# Text and visual tokens of a question about a picture.
TEXT_TOKENS, VISUAL_TOKENS = 22, 259


def at_cost(make_reducer, share, backbone, budget):
    """The reducer that keeps most where a budget costs `share` or less.

    Returns:
        The reducer, or `None` where even one token costs more.
    """
    count = functools.partial(count_flops, backbone, TEXT_TOKENS, VISUAL_TOKENS)
    for tokens in range(VISUAL_TOKENS, 0, -1):
        reducer = make_reducer(tokens / VISUAL_TOKENS)
        if count(budget, reducer) <= share * count():
            return reducer
    return None


def all_reducers(backbone):
    """Reducers by name, which begins as that of a start does.

    Args:
        backbone: `VisorBackbone`, the shipped one.
    """
    claims = json.loads((FOLDER / "claims" / "claims.json").read_text())
    auto = claims["auto_flops_vs_dense"]
    full = len(backbone.budgets) - 1
    reducers = {f"{start}_unreduced": None for start in STARTS}
    for start, budget in (("dense", None), ("full", full)):
        reducers |= {f"{start}_{name}": POOLING[name] for name in POOLING}
        reducers |= {
            f"{start}_{name}_{amount}": found
            for amount, share in (("auto", auto), ("half", auto / 2))
            for name, make in REDUCERS.items()
            if (found := at_cost(make, share, backbone, budget)) is not None
        }
    return reducers | {f"universal_{name}": POOLING[name] for name in POOLING}


def run_reduced(name, reducer, folder, workers):
    """Train with a reducer and measure it."""
    start, _ = split_name(name)
    universal = start == "universal"
    schedule = SCHEDULES[start]
    keras.utils.set_random_seed(schedule.seed)
    lm = VisorCausalLM.from_preset(STARTS[start], dtype=schedule.dtype)
    budgets = lm.backbone.budgets
    lm = with_budgets(lm, budgets if universal else budgets[-1:])
    lm.reducer = reducer
    # What can answer already goes on at all budgets.
    draw_budget = Universal(len(lm.backbone.budgets), full_steps=0)
    lm, minutes = train(
        lm, schedule, draw_budget, folder, reads=True, workers=workers
    )
    record = {
        "reducer": repr(reducer),
        "schedule": dataclasses.asdict(schedule),
        "minutes": round(minutes, 1),
        "budgets": measure(lm, folder / "scores"),
    }
    if universal:
        lm, _ = route(lm, ROUTING_SAMPLES, folder / "routing", schedule.seed)
        record["viable_budgets"] = lm.backbone.budgets
        record["auto"] = measure_auto(lm, folder / "auto_scores")
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--run", type=pathlib.Path, default="runs/reduced")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches"
    )
    arguments = parser.parse_args()
    flush_denormals()
    known = all_reducers(VisorCausalLM.from_preset(START).backbone)
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"NAME must be of {list(known)}: {sorted(unknown)}")
    names = arguments.names or list(known)
    if any(n.startswith("dense") for n in names) and not DENSE_PRESET.exists():
        parser.error(f"{DENSE_PRESET} is missing: train.py --dense makes it")
    for name in names:
        record = run_reduced(
            name,
            known[name],
            arguments.run / name,
            arguments.workers,
        )
        write_record(FOLDER / "reduced_controls.json", name, record)


if __name__ == "__main__":
    main()
