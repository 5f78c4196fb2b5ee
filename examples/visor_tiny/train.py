"""Train `visor_tiny_en`, the model that comes with the package.

A VISOR of 2.3 million parameters learns from scratch to read rendered
documents and charts, on one core and in hours:

    KERAS_BACKEND=torch python examples/visor_tiny/train.py

First its encoder learns to name what stands where; then the full budget
learns to answer; then every budget does, one a batch. A checkpoint is saved
after each block of steps, from which it goes on when it is started again.
"""

import argparse
import json
import pathlib
import time

import keras
from conversations import Conversations
from evaluate import evaluate
from model import make_model
from optimizer import make_optimizer
from supervision import ROLES
from supervision import WORDS
from supervision import TokenLabels


class VisionOnly(keras.Model):
    """Labels what the encoder sees, before the language model."""

    def __init__(self, lm, labels):
        super().__init__()
        self.vision_tower = lm.backbone.vision_tower
        self.token_embedding = lm.backbone.token_embedding
        self.labels = labels

    def call(self, x):
        vision = self.vision_tower(
            x["images"], x["vision_indices"], x["vision_weights"]
        )
        scores = self.labels(vision, x["labelled"])
        return {role: scores[role] for role in ROLES[:2]}


class Supervised(keras.Model):
    """Answers, and labels the visual tokens as its budget leaves them."""

    def __init__(self, lm, labels):
        super().__init__()
        self.backbone = lm.backbone
        self.labels = labels

    def call(self, x):
        backbone = self.backbone
        streams = backbone.run_layers(
            backbone.embed(x), backbone.switches(x["budget"])
        )
        answers = backbone.token_embedding(
            backbone.final_norm(streams.text), reverse=True
        )
        labels = self.labels(streams.vision, x["labelled"])
        return {"answer": answers, **labels}


def compile_for(model, targets, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    model.compile(
        optimizer,
        loss=dict.fromkeys(targets, loss),
        loss_weights={
            name: 1.0 if name == "answer" else 0.5 for name in targets
        },
        weighted_metrics={name: ["accuracy"] for name in targets},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vision-steps", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200, help="per block")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.25, help="of it all")
    parser.add_argument("--full", type=float, default=0.4, help="of it all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=pathlib.Path, default="runs/visor_tiny")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    lm = make_model(WORDS, "mixed_bfloat16")
    preprocessor = lm.preprocessor
    labels = TokenLabels(
        preprocessor.tokenizer,
        lm.backbone.token_embedding,
        dtype="mixed_bfloat16",
    )
    model = Supervised(lm, labels)
    steps = arguments.blocks * arguments.steps
    full_steps = arguments.full * steps
    last = len(lm.backbone.budgets) - 1

    def draw_budget(generator, step):
        if step < full_steps:
            return last
        return generator.choice(
            [last, 0, generator.integers(last + 1)], p=(0.3, 0.2, 0.5)
        )

    def batches(first, steps, targets):
        return Conversations(
            preprocessor,
            first,
            steps,
            arguments.batch_size,
            targets,
            draw_budget,
            arguments.seed,
        )

    targets = ("answer", *ROLES)
    x, _, _ = batches(0, 1, targets)[0]
    model(x)  # Builds it.
    print(f"{lm.count_params():,} parameters, budgets {lm.backbone.budgets}")

    arguments.run.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.run / "checkpoint.weights.h5"
    progress = arguments.run / "progress.json"
    done, seconds = 0, 0.0
    if not progress.exists():
        start = time.time()
        vision = VisionOnly(lm, labels)
        vision_steps = arguments.vision_steps
        compile_for(
            vision,
            ROLES[:2],
            make_optimizer(5e-3, vision_steps, vision_steps // 2),
        )
        vision.fit(batches(10**7, vision_steps, ROLES[:2]), verbose=2)
        seconds += time.time() - start
    optimizer = make_optimizer(
        arguments.learning_rate, steps, int(arguments.decay * steps)
    )
    compile_for(model, targets, optimizer)
    optimizer.build(model.trainable_variables)
    if progress.exists():
        model.load_weights(checkpoint)
        done, seconds = json.loads(progress.read_text()).values()
        print(f"going on after block {done}")
    for block in range(done, arguments.blocks):
        start = time.time()
        first = block * arguments.steps
        model.fit(
            batches(first, arguments.steps, targets),
            initial_epoch=block,
            epochs=block + 1,
            verbose=2,
        )
        seconds += time.time() - start
        # Written whole or not at all: an interrupt costs one block at most.
        partial = arguments.run / "partial.weights.h5"
        model.save_weights(partial)
        partial.replace(checkpoint)
        progress.write_text(json.dumps({"done": block + 1, "seconds": seconds}))
        if block % 3 == 2:
            print("full", json.dumps(evaluate(lm, "validation", 300, "full")))


if __name__ == "__main__":
    main()
