"""Prefill of the language model, up to the logits of the last position."""

import numpy as np
from models import prefill
from prompts import make_prompt
from timing import interleave
from timing import median
from timing import row

BUDGETS = ("minimal", "two", "full", "dense")
TOLERANCE = 1e-3


def measure(models, sizes, cell: dict, repeats: int):
    """Yield the rows of one length."""
    length = cell["visual_tokens"]
    inputs = make_prompt(sizes, length)
    alone = length in sizes.longer
    budgets = BUDGETS[:1] if alone else BUDGETS
    functions = {
        budget: _ours(*models.named(budget), inputs) for budget in budgets
    }
    with_eager = length == min(sizes.visual_tokens)
    if not alone:
        theirs = models.transformers
        functions["sdpa"] = lambda: theirs.prefill(inputs)
    if with_eager:
        functions["eager"] = lambda: _eager(theirs, inputs)
    logits = {name: function()[0] for name, function in functions.items()}
    error = None if alone else difference(logits)
    seconds = interleave(functions, repeats)
    medians = {name: median(values) for name, values in seconds.items()}
    for budget in budgets:
        flops = models.flops(sizes.text_tokens, length, budget)
        more = {}
        if budget == "minimal":
            # Of decoder layers over the text alone: matrices of few rows.
            more["text_flops"] = models.flops(sizes.text_tokens, 0, budget)
        if not alone:
            dense_flops = models.flops(sizes.text_tokens, length, "dense")
            dense_ratio = medians["dense"] / medians[budget]
            more |= {
                "dense": medians["dense"],
                "dense_ratio": dense_ratio,
                "flops_ratio": dense_flops / flops,
                "of_flops_ratio": dense_ratio * flops / dense_flops,
                "logits_difference": error,
                "transformers_seconds": seconds["sdpa"],
            }
        if with_eager:
            more["transformers_eager"] = medians["eager"]
            more["eager_ratio"] = medians["eager"] / medians[budget]
        yield row(
            "prefill",
            length,
            1,
            budget,
            medians[budget],
            medians.get("sdpa"),
            seconds=seconds[budget],
            flops=flops,
            **more,
        )


def difference(logits: dict) -> float:
    """How far our dense self's logits are from the peer's."""
    error = float(np.abs(logits["dense"] - logits["sdpa"]).max())
    if not error <= TOLERANCE:
        raise RuntimeError(
            "Our dense self and transformers must do the same work. Their "
            f"last logits differ by {error}"
        )
    return error


def _ours(lm, budget, inputs):
    return lambda: prefill(lm, inputs, budget)


def _eager(theirs, inputs):
    theirs.use_attention("eager")
    try:
        return theirs.prefill(inputs)
    finally:
        theirs.use_attention("sdpa")
