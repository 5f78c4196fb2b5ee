"""Train what `visor_tiny_en` is compared with, on shorter schedules.

The universal model again, a model for each single budget, and one with more
cross-attention and no self-attention: same pictures, same losses, same steps,
all on from the shipped weights (`controls.json`: from an earlier stage's, see
`history.md`).

    KERAS_BACKEND=torch python examples/visor_tiny/controls.py

And, with the dense model, of which the shipped weights know too little, all of
them from nothing, on more steps:

    KERAS_BACKEND=torch python examples/visor_tiny/controls.py --from-nothing

Their weights are not kept. What they reach on the test questions of `make
claims` goes to `controls.json` and `controls_from_nothing.json`, with their
seeds. Started again, a training goes on from its last checkpoint.
"""

import argparse
import dataclasses
import json
import pathlib

import keras
from model import CROSS_ATTENTION_LAYERS
from model import LOOKING_LAYER
from model import SELF_ATTENTION_LAYERS
from model import dense_layout
from model import make_model
from model import universal_layout
from schedule import Schedule
from schedule import Universal
from schedule import flush_denormals
from schedule import train
from scoreboard import measure
from supervision import WORDS

from keras_visor import VisorCausalLM
from keras_visor.training import with_layout
from keras_visor.training.files import write_whole

FOLDER = pathlib.Path(__file__).parent
START = "visor_tiny_en"
SCHEDULE = Schedule(
    steps=150, learning_rate=2e-3, decay=0.7, seed=5, dtype="float32"
)
FROM_NOTHING = Schedule(steps=1000, vision_steps=1000)
# The share of those steps, at the start, that run the full budget alone.
FULL = 0.3


def single(self_attention_layers, cross_attention_layers):
    return {
        "cross_attention_layers": cross_attention_layers,
        "self_attention_layers": self_attention_layers,
        "budgets": [list(self_attention_layers)],
    }


LAYOUTS = {
    "universal": universal_layout(),
    "minimal": single((), CROSS_ATTENTION_LAYERS),
    "two_layers": single(SELF_ATTENTION_LAYERS[1:], CROSS_ATTENTION_LAYERS),
    "full": single(SELF_ATTENTION_LAYERS, CROSS_ATTENTION_LAYERS),
    "more_cross_attention": single((), (0, 1, 3, 5, LOOKING_LAYER)),
    "dense": dense_layout(),
}


def run_control(name, from_nothing, folder, workers):
    """Train a control and measure it."""
    schedule = FROM_NOTHING if from_nothing else SCHEDULE
    keras.utils.set_random_seed(schedule.seed)
    if from_nothing:
        lm = make_model(WORDS, LAYOUTS[name], schedule.dtype)
    else:
        shipped = VisorCausalLM.from_preset(START, dtype=schedule.dtype)
        lm = with_layout(shipped, **LAYOUTS[name])
    # What can answer already goes on at all budgets.
    full = FULL if from_nothing else 0.0
    draw_budget = Universal(len(lm.backbone.budgets), full * schedule.steps)
    lm, minutes = train(
        lm,
        schedule,
        draw_budget,
        folder / name,
        reads=not from_nothing,
        workers=workers,
    )
    return {
        "schedule": dataclasses.asdict(schedule) | {"full": full},
        "minutes": round(minutes, 1),
        "budgets": measure(lm, folder / name / "scores"),
    }


def write_record(path, name, record):
    """Add a control's record to those in a file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    write_whole(path, json.dumps(known | {name: record}, indent=2) + "\n")
    print(name, json.dumps(record, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--from-nothing", action="store_true")
    parser.add_argument("--run", type=pathlib.Path, default="runs/controls")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches"
    )
    arguments = parser.parse_args()
    from_nothing, folder = arguments.from_nothing, arguments.run
    known = [name for name in LAYOUTS if name != "dense" or from_nothing]
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"NAME must be of {known}: {sorted(unknown)}")
    flush_denormals()
    kind = "controls"
    if from_nothing:
        kind, folder = "controls_from_nothing", folder / "from_nothing"
    for name in arguments.names or known:
        record = run_control(name, from_nothing, folder, arguments.workers)
        write_record(FOLDER / f"{kind}.json", name, record)


if __name__ == "__main__":
    main()
