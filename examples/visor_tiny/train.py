"""Train `visor_tiny_en`, the model that comes with the package.

A VISOR of 2.4 million parameters learns from scratch to read rendered
documents and charts, in hours on two cores:

    KERAS_BACKEND=torch python examples/visor_tiny/train.py

1. The encoder learns to name what stands where (`Reader`).
2. The full budget learns to answer, then every budget does, one a batch;
   what each visual token shows, and at which of them an answer has to look,
   is taught beside.
3. A sub-network search on validation data keeps the viable budgets.
4. Every budget answers training questions; on these pseudo-labels the policy
   is trained, both ways, and the better one on validation data is kept.

`--start` goes on with a model of such a training instead, as the shipped
weights did (see `history.md`), and keeps its budgets. Started again, it goes on
from its last checkpoint. At the end it writes the preset and, beside it, what
it measured on validation data, `training.json`.

`--dense` trains the dense model instead, which token reducers are compared on
(`reduced_controls.py`): steps 1 and 2 alone, measured on the test questions of
`make claims`.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys

import keras
from model import DENSE_PRESET
from model import dense_layout
from model import make_model
from model import universal_layout
from route import route
from schedule import Schedule
from schedule import Universal
from schedule import flush_denormals
from schedule import train
from scoreboard import measure
from supervision import WORDS

from keras_visor import VisorCausalLM

OUTPUT = pathlib.Path("keras_visor/presets/visor_tiny_en")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(Schedule):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=field.type, default=field.default)
    parser.add_argument("--full", type=float, default=0.3, help="of the steps")
    parser.add_argument("--samples", type=int, default=16000, help="to route")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches"
    )
    parser.add_argument(
        "--start", metavar="PRESET", help="a trained model to go on with"
    )
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--run", type=pathlib.Path, default="runs/visor_tiny")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help=f"defaults to {OUTPUT}, with --dense to {DENSE_PRESET}",
    )
    arguments = vars(parser.parse_args())
    run, output = arguments.pop("run"), arguments.pop("output")
    start, workers = arguments.pop("start"), arguments.pop("workers")
    full, samples = arguments.pop("full"), arguments.pop("samples")
    dense = arguments.pop("dense")
    if output is None:
        output = DENSE_PRESET if dense else OUTPUT
    schedule = Schedule(**arguments)

    flush_denormals()
    keras.utils.set_random_seed(schedule.seed)
    if start is None:
        layout = dense_layout() if dense else universal_layout()
        lm = make_model(WORDS, layout, schedule.dtype)
    else:
        lm = VisorCausalLM.from_preset(start, dtype=schedule.dtype)
        if dense and lm.backbone.cross_attention_layers:
            parser.error(f"--start must be a dense model with --dense: {start}")
    print(f"{lm.count_params():,} parameters, budgets {lm.backbone.budgets}")
    budgets = Universal(len(lm.backbone.budgets), full * schedule.steps)
    reads = start is not None
    lm, minutes = train(lm, schedule, budgets, run, reads, workers)
    # Scores are of one model, and are refused by a model trained longer.
    scores = run / f"after_{schedule.steps}"
    if dense:
        record = {"test": measure(lm, scores)}
    else:
        lm, record = route(lm, samples, scores, schedule.seed)
        record["routing_samples"] = samples
    lm.save_to_preset(str(output))
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "backend": keras.config.backend(),
        "start": start,
        "schedule": dataclasses.asdict(schedule) | {"full": full},
        "training_minutes": round(minutes, 1),
        **record,
    }
    text = json.dumps(record, indent=2) + "\n"
    (output / "training.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
