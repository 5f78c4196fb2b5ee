"""Train the bundled model a little longer on what token reducers leave.

Its full budget alone with each reducer, at rates at which that costs what
"auto" costs without one, and half of that; and all of its budgets on pooled
tokens, with a policy of their own (VISOR-TR): same start, same pictures, same
losses, same steps. What they reach on the test questions of `make claims` goes
to `reduced_controls.json`.

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
from controls import FOLDER
from controls import SCHEDULE
from controls import START
from controls import write_record
from route import route
from schedule import Universal
from schedule import train
from scoreboard import measure
from scoreboard import measure_auto

from keras_visor import VisorCausalLM
from keras_visor import reduction
from keras_visor.analysis import count_flops
from keras_visor.training import with_budgets

# Functions from a rate to a reducer.
REDUCERS = {
    "random_choice": reduction.RandomChoice,
    "uniform_choice": reduction.UniformChoice,
    "vision_zip": reduction.VisionZip,
    "vis_pruner": reduction.VisPruner,
    "hired": reduction.HiRED,
    # At layers that look at the image, as early as they can.
    "fast_v": functools.partial(reduction.FastV, layer=0),
    "pyramid_drop": functools.partial(reduction.PyramidDrop, layers=(0, 3, 4)),
}
# What a rate of average pooling is does not depend on FLOPs.
POOLING = {
    "pooling_2x": reduction.AveragePooling(0.5),
    "pooling_4x": reduction.AveragePooling(0.25),
}
ROUTING_SAMPLES = 2000

# Text and visual tokens of a question about a picture.
TEXT_TOKENS, VISUAL_TOKENS = 22, 259


def at_cost(make_reducer, share, backbone):
    """The reducer that keeps most where the full budget costs `share` or less.

    Returns:
        The reducer, or `None` where even one token costs more.
    """
    count = functools.partial(count_flops, backbone, TEXT_TOKENS, VISUAL_TOKENS)
    full = len(backbone.budgets) - 1
    for tokens in range(VISUAL_TOKENS, 0, -1):
        reducer = make_reducer(tokens / VISUAL_TOKENS)
        if count(full, reducer) <= share * count():
            return reducer
    return None


def all_reducers(backbone):
    """Reducers by name: of the full budget alone, and of all budgets."""
    claims = json.loads((FOLDER / "claims" / "claims.json").read_text())
    auto = claims["auto_flops_vs_dense"]
    alone = POOLING | {
        f"{name}_{amount}": found
        for amount, share in (("auto", auto), ("half", auto / 2))
        for name, make_reducer in REDUCERS.items()
        if (found := at_cost(make_reducer, share, backbone)) is not None
    }
    return {f"full_{name}": alone[name] for name in alone} | {
        f"universal_{name}": POOLING[name] for name in POOLING
    }


def run_reduced(name, reducer, shipped, folder, workers):
    """Train with a reducer and measure it."""
    keras.utils.set_random_seed(SCHEDULE.seed)
    universal = name.startswith("universal")
    budgets = shipped.backbone.budgets
    lm = with_budgets(shipped, budgets if universal else budgets[-1:])
    lm.reducer = reducer
    # What can answer already goes on at all budgets.
    draw_budget = Universal(len(lm.backbone.budgets), full_steps=0)
    lm, minutes = train(
        lm, SCHEDULE, draw_budget, folder, reads=True, workers=workers
    )
    record = {
        "reducer": repr(reducer),
        "schedule": dataclasses.asdict(SCHEDULE),
        "minutes": round(minutes, 1),
        "budgets": measure(lm, folder / "scores"),
    }
    if universal:
        seed = SCHEDULE.seed
        lm, _ = route(lm, ROUTING_SAMPLES, folder / "routing", seed)
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
    shipped = VisorCausalLM.from_preset(START, dtype=SCHEDULE.dtype)
    known = all_reducers(shipped.backbone)
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"NAME must be of {list(known)}: {sorted(unknown)}")
    for name in arguments.names or known:
        record = run_reduced(
            name,
            known[name],
            shipped,
            arguments.run / name,
            arguments.workers,
        )
        write_record(FOLDER / "reduced_controls.json", name, record)


if __name__ == "__main__":
    main()
