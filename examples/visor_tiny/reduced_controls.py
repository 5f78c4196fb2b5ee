"""Train controls a little longer on what token reducers leave.

The dense control with each reducer, at rates at which it costs what "auto"
costs the shipped model, and half of that; and the shipped, universal model on
pooled tokens (VISOR-TR), with a policy of its own: same pictures, same losses,
same steps, which what they are compared with has not had. What they reach on
the test questions of `make claims` goes to `reduced_controls.json`.

    KERAS_BACKEND=torch python examples/visor_tiny/reduced_controls.py dense

Started again, a training goes on from its last checkpoint. Names of reducers
after the control's train with those alone.
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import keras
from controls import DENSE_PRESET
from controls import FOLDER
from controls import ROUTING_SAMPLES
from controls import SCHEDULE
from controls import START
from controls import write_record
from model import all_budgets
from route import route
from schedule import Universal
from schedule import train
from scoreboard import measure
from scoreboard import measure_auto

from keras_visor import VisorBackbone
from keras_visor import VisorCausalLM
from keras_visor import reduction
from keras_visor.analysis import count_flops
from keras_visor.training import with_budgets

REDUCED = dataclasses.replace(SCHEDULE, steps=100)

# Functions from a rate to a reducer.
REDUCERS = {
    "random_choice": reduction.RandomChoice,
    "uniform_choice": reduction.UniformChoice,
    "vision_zip": reduction.VisionZip,
    "vis_pruner": reduction.VisPruner,
    "hired": reduction.HiRED,
    # As early as they can: a layer over all tokens is a ninth of dense.
    "fast_v": functools.partial(reduction.FastV, layer=0),
    "pyramid_drop": functools.partial(reduction.PyramidDrop, layers=(0, 2, 4)),
}
# What a rate of average pooling is does not depend on FLOPs.
POOLING = {
    "pooling_2x": reduction.AveragePooling(0.5),
    "pooling_4x": reduction.AveragePooling(0.25),
}

# Text and visual tokens of a question about a picture.
TEXT_TOKENS, VISUAL_TOKENS = 22, 259


def at_cost(make_reducer, share, backbone):
    """The reducer that keeps most where dense costs at most `share` of it.

    Returns:
        The reducer, or `None` where even one token costs more.
    """
    count = functools.partial(count_flops, backbone, TEXT_TOKENS, VISUAL_TOKENS)
    for tokens in range(VISUAL_TOKENS, 0, -1):
        reducer = make_reducer(tokens / VISUAL_TOKENS)
        if count(reducer=reducer) <= share * count():
            return reducer
    return None


def reducers_of(name):
    """Reducers by name, to train the control `name` with."""
    if name == "universal":
        return POOLING
    claims = json.loads((FOLDER / "claims" / "claims.json").read_text())
    auto = claims["auto_flops_vs_dense"]
    backbone = VisorBackbone.from_preset(START, load_weights=False)
    return POOLING | {
        f"{reducer}_{amount}": found
        for amount, share in (("auto", auto), ("half", auto / 2))
        for reducer, make_reducer in REDUCERS.items()
        if (found := at_cost(make_reducer, share, backbone)) is not None
    }


def run_reduced(name, reducer_name, reducer, run, workers):
    """Train a control with a reducer and measure it."""
    folder = run / f"{name}_{reducer_name}"
    keras.utils.set_random_seed(REDUCED.seed)
    if name == "universal":
        shipped = VisorCausalLM.from_preset(START, dtype=REDUCED.dtype)
        lm = with_budgets(shipped, all_budgets())
        lm.reducer = reducer
    else:
        lm = VisorCausalLM.from_preset(
            str(FOLDER / DENSE_PRESET), dtype=REDUCED.dtype, reducer=reducer
        )
    # What can answer already goes on at all budgets.
    draw_budget = Universal(len(lm.backbone.budgets), full_steps=0)
    lm, minutes = train(
        lm, REDUCED, draw_budget, folder, reads=True, workers=workers
    )
    auto = {}
    if name == "universal":
        lm, _ = route(lm, ROUTING_SAMPLES, folder / "routing", REDUCED.seed)
        auto = {"auto": measure_auto(lm, folder / "scores")}
    return {
        "reducer": repr(reducer),
        "schedule": dataclasses.asdict(REDUCED),
        "minutes": round(minutes, 1),
        "budgets": measure(lm, folder / "scores"),
        **auto,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("dense", "universal"))
    parser.add_argument("reducers", nargs="*", metavar="REDUCER")
    parser.add_argument("--run", type=pathlib.Path, default="runs/controls")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches"
    )
    arguments = parser.parse_args()
    known = reducers_of(arguments.name)
    unknown = set(arguments.reducers) - set(known)
    if unknown:
        parser.error(f"REDUCER must be of {list(known)}: {sorted(unknown)}")
    for reducer_name in arguments.reducers or known:
        record = run_reduced(
            arguments.name,
            reducer_name,
            known[reducer_name],
            arguments.run,
            arguments.workers,
        )
        path = FOLDER / "reduced_controls.json"
        write_record(path, f"{arguments.name} {reducer_name}", record)


if __name__ == "__main__":
    main()
