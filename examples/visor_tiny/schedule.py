"""How long, how fast and at which budgets a model is trained."""

import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
from conversations import TURNS
from conversations import Conversations
from optimizer import make_optimizer
from pages import Pages
from supervised import Reader
from supervised import Supervised
from supervised import compile_supervised
from supervision import TokenLabels
from workers import making_ahead

import keras_visor
from keras_visor.models.model_digest import model_digest
from keras_visor.training.files import write_whole


@dataclass(frozen=True)
class Schedule:
    """Steps are batches of pictures, each at one budget.

    Args:
        vision_steps: int. Steps of the encoder alone.
        steps: int. Steps of the whole model.
        steps_per_block: int. Steps between two checkpoints.
        batch_size: int. Pictures in a batch.
        learning_rate: float. Of Muon; AdamW's is a third.
        decay: float. The last part of the steps, in which the rate falls.
        seed: int. Of the initial weights and of the pictures.
        dtype: string. The dtype policy: "float32" where a processor computes
            slowly in bfloat16.
    """

    vision_steps: int = 2500
    steps: int = 6000
    steps_per_block: int = 100
    batch_size: int = 32
    learning_rate: float = 4e-3
    decay: float = 0.3
    seed: int = 0
    dtype: str = "mixed_bfloat16"


@dataclass(frozen=True)
class Universal:
    """Draws the full budget at first, then all of them.

    After `full_steps`: 30 % full, 20 % minimal, 50 % any. A class, as workers
    are sent it.

    Args:
        num_budgets: int.
        full_steps: float. Steps at the full budget alone.
    """

    num_budgets: int
    full_steps: float

    def __call__(self, generator, step):
        full = self.num_budgets - 1
        if step < self.full_steps:
            return full
        return generator.choice(
            [full, 0, generator.integers(self.num_budgets)], p=(0.3, 0.2, 0.5)
        )


def flush_denormals():
    """Let PyTorch take what is too small for float32's exponent as 0.

    A trained attention's weights are full of such numbers, on which a CPU is
    slow: a step took two thirds of the time without them (Xeon, one thread).
    Call it before anything is computed: threads inherit it as they start.
    """
    if keras.config.backend() == "torch":
        import torch

        torch.set_flush_denormal(True)


def train(
    lm,
    schedule: Schedule,
    draw_budget: Callable,
    run: pathlib.Path,
    reads: bool = False,
    workers: int = 0,
):
    """Train `lm`, on from the last checkpoint in the folder `run`.

    Args:
        lm: `VisorCausalLM`. With a reducer, it is trained on what that
            leaves.
        schedule: `Schedule`.
        draw_budget: function from a NumPy generator and the step to the index
            of the budget. With workers, it is pickled.
        run: path. The folder of checkpoints, and of the trained model's
            preset, `trained`.
        reads: bool. Whether `lm` has been trained before, and its encoder
            need not learn to read. Defaults to `False`.
        workers: int. Processes that make batches; with 0, a thread does.
            Defaults to 0.

    Returns:
        The trained model in float32, so that what is measured is what is
        shipped, and the minutes that it took, all calls together.

    Raises:
        ValueError: The folder is of a training from other weights, of other
            budgets, with another reducer, or with another rate, batch size
            or seed.
    """
    # Not `steps` and what follows from them: a training may be prolonged.
    settings = {
        "budgets": lm.backbone.budgets,
        "reducer": repr(lm.reducer),
        "start": model_digest(lm, with_policy=False) if reads else None,
        "learning_rate": schedule.learning_rate,
        "batch_size": schedule.batch_size,
        "seed": schedule.seed,
    }
    labels = TokenLabels(
        lm.preprocessor.tokenizer,
        lm.backbone.token_embedding,
        dtype=lm.backbone.dtype_policy,
    )
    model = Supervised(lm, labels)
    # Within the decoder, visual tokens are chosen for one question.
    chooses = bool(
        lm.reducer and lm.reducer.rates_after(lm.backbone.num_layers)
    )

    def batches(first, steps, targets):
        return Conversations(
            lm.preprocessor,
            first,
            steps,
            schedule.batch_size,
            targets,
            lm.backbone.budgets,
            draw_budget,
            schedule.seed,
            turns=1 if chooses else TURNS,
        )

    example, _, _ = batches(0, 1, ())[0]
    model(example)  # Builds it.
    run.mkdir(parents=True, exist_ok=True)
    checkpoint, progress = run / "checkpoint.weights.h5", run / "progress.json"
    with making_ahead(workers) as made_ahead:
        done, seconds = 0, 0.0
        if not progress.exists() and not reads:
            began = time.time()
            learn_to_read(lm, labels, schedule, run.parent, made_ahead)
            seconds += time.time() - began
        optimizer = make_optimizer(
            schedule.learning_rate,
            schedule.steps,
            int(schedule.decay * schedule.steps),
        )
        compile_supervised(model, optimizer)
        if progress.exists():
            record = json.loads(progress.read_text())
            if record.get("settings") != settings:
                raise ValueError(
                    f"`run` must be of the same training. Received: {run}, "
                    f"with {record.get('settings')} instead of {settings}"
                )
            model.load_weights(checkpoint)
            done, seconds = record["done"], record["seconds"]
            print(f"going on after step {done}")
        while done < schedule.steps:
            began = time.time()
            steps = min(schedule.steps_per_block, schedule.steps - done)
            print(f"step {done} of {schedule.steps}")
            block = made_ahead(batches(done, steps, model.targets))
            # A stream of fresh pictures needs no shuffling.
            model.fit(block, shuffle=False, verbose=2)
            done += steps
            seconds += time.time() - began
            # Written whole or not at all: an interrupt costs one block at most.
            partial = run / "partial.weights.h5"
            model.save_weights(partial)
            partial.replace(checkpoint)
            record = {"settings": settings, "done": done, "seconds": seconds}
            write_whole(progress, json.dumps(record))
    trained = str(run / "trained")
    lm.save_to_preset(trained)
    lm = keras_visor.VisorCausalLM.from_preset(trained, dtype="float32")
    return lm, seconds / 60


def learn_to_read(lm, labels, schedule, folder, made_ahead):
    """Train the encoder on pages, or take what another run left in `folder`."""
    steps, seed = schedule.vision_steps, schedule.seed
    learned = folder / f"reader_{seed}_{steps}.weights.h5"
    reader = Reader(lm, labels)
    pages = Pages(steps, schedule.batch_size, seed)
    reader(pages[0][0])  # Builds it.
    if not learned.exists():
        compile_supervised(reader, make_optimizer(5e-3, steps, steps // 2))
        reader.fit(made_ahead(pages), shuffle=False, verbose=2)
        partial = folder / "partial.weights.h5"
        reader.save_weights(partial)
        partial.replace(learned)
    reader.load_weights(learned)
