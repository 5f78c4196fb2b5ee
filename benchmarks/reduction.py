"""What token reducers save of a prefill, beside what budgets save.

Visual tokens and the encoder's attention on them are given; where they come
from is that of a picture of three by three tiles, which reducers go by.
"""

import numpy as np
from models import prefill
from prompts import make_prompt
from timing import interleave
from timing import median
from timing import row

from keras_visor.reduction import reducer_from_text

# What each reducer keeps as its paper has it, or a quarter of the tokens.
OF_DENSE = (
    "average_pooling:0.5",
    "average_pooling:0.25",
    "random_choice:0.25",
    "uniform_choice:0.25",
    "vision_zip:0.25",
    "vis_pruner:0.25",
    "hired:0.25",
    "fast_v:0.5",
    "pyramid_drop:0.5",
)
OF_VISOR = ("average_pooling:0.5",)
BUDGETS = ("minimal", "two", "full")


def measure(models, sizes, cell: dict, repeats: int):
    """Yield a row for each budget, alone and with reducers."""
    inputs = _prompt(models, sizes)
    length = inputs["vision"].shape[1]
    pairs = [
        *((budget, None) for budget in (*BUDGETS, "dense")),
        *((budget, text) for budget in BUDGETS for text in OF_VISOR),
        *(("dense", text) for text in OF_DENSE),
    ]
    functions = {pair: _prefill(models, inputs, *pair) for pair in pairs}
    for function in functions.values():
        function()
    seconds = interleave(functions, repeats)
    medians = {pair: median(values) for pair, values in seconds.items()}
    for budget, text in pairs:
        value = medians[budget, text]
        reducer = reducer_from_text(text) if text else None
        yield row(
            "reduction",
            length,
            cell["batch"],
            f"{budget} {text}" if text else budget,
            value,
            seconds=seconds[budget, text],
            flops=models.flops(sizes.text_tokens, length, budget, reducer),
            unreduced=medians[budget, None],
            unreduced_ratio=medians[budget, None] / value,
            dense=medians["dense", None],
            dense_ratio=medians["dense", None] / value,
        )


def _prompt(models, sizes):
    """A prompt whose visual tokens are placed as a picture's are."""
    side = 3 * sizes.vision["image_size"]
    picture = np.zeros((side, side, 3), "uint8")
    packed = models.visor.preprocessor.generate_preprocess(
        {"prompts": ["?"], "images": [picture]}
    )
    rows = np.flatnonzero(packed["vision_mask"][0])
    inputs = make_prompt(sizes, len(rows))
    attention = np.random.default_rng(0).uniform(size=(1, len(rows)))
    return {
        **inputs,
        "vision_indices": packed["vision_indices"][:, rows],
        "vision_weights": packed["vision_weights"][:, rows],
        "vision_attention": attention.astype("float32"),
    }


def _prefill(models, inputs, budget, text):
    lm, index = models.named(budget)
    reducer = reducer_from_text(text) if text else None
    return lambda: prefill(lm, inputs, index, reducer)
