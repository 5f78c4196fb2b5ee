"""Train what `visor_tiny_en` is compared with, on one shorter schedule.

The universal model again, a model for each single budget, one with more
cross-attention and no self-attention, and the dense model. All start from the
shipped weights: same pictures, same losses, same steps. Their weights are not
kept; what they reach on the test questions of `make claims` goes to
`controls.json`, with their seeds.

    KERAS_BACKEND=torch python examples/visor_tiny/controls.py universal dense

Started again, a training goes on from its last checkpoint.
"""

import argparse
import dataclasses
import json
import pathlib

import keras
from model import CROSS_ATTENTION_LAYERS
from model import LOOKING_LAYER
from model import NUM_LAYERS
from model import SELF_ATTENTION_LAYERS
from model import universal_layout
from route import route
from schedule import Schedule
from schedule import Universal
from schedule import train
from scoreboard import measure
from scoreboard import measure_auto

from keras_visor import VisorCausalLM
from keras_visor.training import with_layout

FOLDER = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/controls")
START = "visor_tiny_en"
SCHEDULE = Schedule(
    steps=150, learning_rate=2e-3, decay=0.7, seed=5, dtype="float32"
)
ROUTING_SAMPLES = 2000


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
    "dense": single(range(NUM_LAYERS), ()),
}


def run_control(name, folder, workers):
    """Train a control and measure it."""
    keras.utils.set_random_seed(SCHEDULE.seed)
    shipped = VisorCausalLM.from_preset(START, dtype=SCHEDULE.dtype)
    lm = with_layout(shipped, **LAYOUTS[name])
    # What can answer already goes on at all budgets.
    draw_budget = Universal(len(lm.backbone.budgets), full_steps=0)
    lm, minutes = train(
        lm, SCHEDULE, draw_budget, folder / name, reads=True, workers=workers
    )
    record = {
        "schedule": dataclasses.asdict(SCHEDULE),
        "minutes": round(minutes, 1),
        "budgets": measure(lm, folder / name / "scores"),
    }
    if name in ("minimal", "full"):
        # How they compare says which families are fine, not the test data.
        scores = folder / name / "validation_scores"
        record["validation"] = measure(lm, scores, "validation")
    if name == "universal":
        seed = SCHEDULE.seed
        lm, _ = route(lm, ROUTING_SAMPLES, folder / name / "routing", seed)
        record["auto"] = measure_auto(lm, folder / name / "auto_scores")
    return record


def write_record(path, name, record):
    """Add a control's record to those in a file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {name: record}, indent=2) + "\n")
    print(name, json.dumps(record, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=LAYOUTS)
    parser.add_argument("--run", type=pathlib.Path, default=RUNS)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(LAYOUTS)
    if unknown:
        parser.error(f"NAME must be of {list(LAYOUTS)}: {sorted(unknown)}")
    for name in arguments.names:
        record = run_control(name, arguments.run, arguments.workers)
        write_record(FOLDER / "controls.json", name, record)


if __name__ == "__main__":
    main()
