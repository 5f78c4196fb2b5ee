"""Train what `visor_tiny_en` is compared with, on one shorter schedule.

The universal model again, a model for each single budget, one with more
cross-attention and no self-attention, and the dense model: same pictures,
same losses, same steps. Their weights are not kept; what they reach on 3,000
validation questions goes to `controls.json`, with their seeds.

    KERAS_BACKEND=torch python examples/visor_tiny/controls.py universal dense

Started again, a training goes on from its last checkpoint.
"""

import argparse
import dataclasses
import json
import pathlib

import keras
import numpy as np
from even_samples import MAX_LENGTH
from even_samples import draw_samples
from even_samples import share_out
from model import CROSS_ATTENTION_LAYERS
from model import NUM_LAYERS
from model import SELF_ATTENTION_LAYERS
from model import make_model
from model import universal_layout
from schedule import Schedule
from schedule import train
from schedule import universal
from supervision import WORDS

from keras_visor.training import score_budgets

RECORD = pathlib.Path(__file__).parent / "controls.json"
SCHEDULE = Schedule(steps=1500, vision_steps=1000)
FULL = 0.4
SAMPLES = share_out(3000)


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
    "more_cross_attention": single((), (0, 1, 3, 5, 7)),
    "dense": single(range(NUM_LAYERS), ()),
}


def run_control(name, folder):
    """Train a control and measure it, at each of its budgets."""
    keras.utils.set_random_seed(SCHEDULE.seed)
    layout = LAYOUTS[name]
    lm = make_model(WORDS, layout, "mixed_bfloat16")
    count = len(layout["budgets"])
    minutes = train(
        lm, SCHEDULE, universal(count, FULL * SCHEDULE.steps), folder / name
    )
    trained, lm = lm, make_model(WORDS, layout)
    lm.set_weights(trained.get_weights())
    samples = draw_samples("validation", SAMPLES, SCHEDULE.seed)
    scores = score_budgets(
        lm,
        samples,
        folder / name / "scores",
        max_length=MAX_LENGTH,
        batch_size=32,
    )
    groups = np.array(samples["groups"])
    return {
        "schedule": dataclasses.asdict(SCHEDULE) | {"full": FULL},
        "minutes": round(minutes, 1),
        "exact_match": {
            str(budget): {
                group: scores.scores[groups == group, index].mean()
                for group in SAMPLES
            }
            for index, budget in enumerate(scores.budgets)
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=LAYOUTS)
    parser.add_argument("--run", type=pathlib.Path, default="runs/controls")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(LAYOUTS)
    if unknown:
        parser.error(f"NAME must be of {list(LAYOUTS)}: {sorted(unknown)}")
    for name in arguments.names:
        record = run_control(name, arguments.run)
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        text = json.dumps(known | {name: record}, indent=2)
        RECORD.write_text(text + "\n")
        print(name, json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
