"""Train controls a little longer on what token reducers leave.

The dense control from nothing with each reducer, at rates at which it costs
what "auto" costs the universal control, and half of that; and the universal
control from nothing on pooled tokens (VISOR-TR): same pictures, same losses,
same steps, which what they are compared with has not had. What they reach on
the test questions of `make claims` goes to `reduced_controls.json`.

    KERAS_BACKEND=torch python examples/visor_tiny/reduced_controls.py dense

Needs the runs of `controls.py --from-nothing`, and goes on like it. Names of
reducers after the control's train with those alone.
"""

import argparse
import dataclasses
import functools
import json
import pathlib

import keras
from controls import FOLDER
from controls import SCHEDULE
from controls import write_record
from model import make_model
from model import universal_layout
from schedule import Universal
from schedule import load_trained
from schedule import train
from scoreboard import measure
from supervision import WORDS

from keras_visor import reduction
from keras_visor.analysis import count_flops

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
    path = FOLDER / "controls_from_nothing.json"
    controls = json.loads(path.read_text())
    auto = controls["universal"]["auto"]["flops_vs_dense"]
    backbone = make_model(WORDS, universal_layout()).backbone
    return POOLING | {
        f"{reducer}_{amount}": found
        for amount, share in (("auto", auto), ("half", auto / 2))
        for reducer, make_reducer in REDUCERS.items()
        if (found := at_cost(make_reducer, share, backbone)) is not None
    }


def run_reduced(name, reducer_name, reducer, run, workers):
    """Train a control with a reducer and measure it."""
    folder = run / f"{name}_{reducer_name}"
    keras.utils.set_random_seed(SCHEDULE.seed)
    lm = load_trained(run / name, SCHEDULE.dtype, reducer=reducer)
    # What can answer already goes on at all budgets.
    draw_budget = Universal(len(lm.backbone.budgets), full_steps=0)
    lm, minutes = train(
        lm, SCHEDULE, draw_budget, folder, reads=True, workers=workers
    )
    return {
        "reducer": repr(reducer),
        "schedule": dataclasses.asdict(SCHEDULE),
        "minutes": round(minutes, 1),
        "budgets": measure(lm, folder / "scores"),
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
            arguments.run / "from_nothing",
            arguments.workers,
        )
        path = FOLDER / "reduced_controls.json"
        write_record(path, f"{arguments.name} {reducer_name}", record)


if __name__ == "__main__":
    main()
