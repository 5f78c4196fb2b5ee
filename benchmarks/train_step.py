"""A training step of the language model: LoRA, one sample.

One batch, whose lengths are known when it is compiled (`train_on_batch`): in
TensorFlow's `fit` they are not, and what is off is masked instead of left out.
The encoder is the checkpoint's tiny one and is not trained; its patches are
gathered to as many visual tokens as asked for. A universal step costs the mean
over all budgets, drawn alike, as `sample_budgets` does by default.
"""

import keras
import numpy as np
from prompts import TOKENS_BEFORE
from prompts import make_prompt
from timing import interleave
from timing import median
from timing import row

from keras_visor.analysis import count_flops

RANK = 8


def measure(models, sizes, cell: dict, repeats: int):
    """Yield the rows: universal, minimal, full and dense."""
    length = cell["visual_tokens"]
    prompt = make_prompt(sizes, length)
    labels = np.roll(prompt["token_ids"], -1, axis=1)
    number = len(models.visor_budgets)
    for lm in (models.visor, models.dense):
        _prepare(lm)
    steps = {
        budget: _ours(models.visor, prompt, labels, budget)
        for budget in range(number)
    }
    steps["dense"] = _ours(models.dense, prompt, labels, 0)
    steps["transformers"] = models.transformers.make_train_step(
        prompt, labels, RANK
    )
    for step in steps.values():
        step()
    seconds = interleave(steps, repeats)
    medians = {name: median(values) for name, values in seconds.items()}
    universal = [medians[budget] for budget in range(number)]
    values = {
        "universal": (sum(universal) / number, number - 1),
        "minimal": (medians[0], 0),
        "full": (medians[number - 1], number - 1),
        "dense": (medians["dense"], "dense"),
    }
    flops = _flops(models, sizes.text_tokens, length)
    for budget, (value, timed) in values.items():
        yield row(
            "train_step",
            length,
            1,
            budget,
            value,
            medians["transformers"],
            dense=medians["dense"],
            of_dense=value / medians["dense"],
            flops=flops[budget],
            budget_medians=universal,
            # Of the universal step, its dearest budget's.
            seconds=seconds[timed],
        )


def _flops(models, text_length, vision_length):
    """Forward, and as much again for the gradient by the tokens.

    The gradient by the frozen weights is not computed.
    """
    backbone = models.visor.backbone
    *budgets, dense = [
        2 * count_flops(backbone, text_length, vision_length, budget)
        for budget in (*range(len(backbone.budgets)), None)
    ]
    return {
        "universal": sum(budgets) / len(budgets),
        "minimal": budgets[0],
        "full": budgets[-1],
        "dense": dense,
    }


def _prepare(lm):
    # What it would do for `fit` has been done.
    lm.preprocessor = None
    lm.backbone.enable_lora(rank=RANK)
    lm.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )


def _ours(lm, prompt, labels, budget):
    x = _inputs(lm.backbone, prompt, budget)
    after = np.ones(labels.shape, "float32")
    after[:, :TOKENS_BEFORE] = 0
    return lambda: lm.train_on_batch(x, labels, sample_weight=after)


def _inputs(backbone, prompt, budget):
    """The backbone's inputs: one tile, whose patches are gathered over."""
    length = prompt["vision_mask"].shape[1]
    side = backbone.input["images"].shape[-2]
    indices = np.zeros((1, length, 4), "int32")
    indices[..., 0] = 1 + np.arange(length) % backbone.patches_per_tile
    weights = np.zeros((1, length, 4), "float32")
    weights[..., 0] = 1
    rng = np.random.default_rng(0)
    names = set(prompt) - {"vision"}
    return {
        **{name: prompt[name] for name in names},
        "images": rng.standard_normal((1, 1, side, side, 3), "float32"),
        "vision_indices": indices,
        "vision_weights": weights,
        "budget": np.array([budget], "int32"),
    }
