"""Decoding after a prefill: so many greedy tokens, no stop token."""

import dataclasses

import keras
import numpy as np
from prompts import make_prompt
from timing import interleave
from timing import median
from timing import row

BUDGETS = ("minimal", "two", "full", "dense")
# Random weights have close calls, after which answers part.
SAME_TOKENS = 0.5


def measure(models, sizes, cell: dict, repeats: int):
    """Yield the rows of one batch size.

    The prompt is prefilled once and its cache repeated: all samples of the
    batch are alike, which costs decoding as much as if they were not.
    """
    length, batch = cell["visual_tokens"], cell["batch"]
    inputs = make_prompt(sizes, length)
    theirs = models.transformers
    logits, cache = theirs.prefill(inputs)
    logits = np.repeat(logits, batch, axis=0)
    cache = theirs.repeat_cache(cache, batch)
    functions = {
        budget: _ours(*models.named(budget), inputs, batch, sizes.new_tokens)
        for budget in BUDGETS
    }
    functions["transformers"] = lambda: theirs.decode(
        logits, cache, sizes.new_tokens
    )
    tokens = {name: function() for name, function in functions.items()}
    same = np.mean(tokens["dense"] == tokens["transformers"])
    if same < SAME_TOKENS:
        raise RuntimeError(
            "Our dense self and transformers must write the same answer. They "
            f"agree in {same:.0%} of the tokens"
        )
    seconds = interleave(functions, repeats)
    medians = {name: median(values) for name, values in seconds.items()}
    for budget in BUDGETS:
        yield row(
            "decode",
            length,
            batch,
            budget,
            medians[budget],
            medians["transformers"],
            seconds=seconds[budget],
            transformers_seconds=seconds["transformers"],
            new_tokens=sizes.new_tokens,
            dense=medians["dense"],
            dense_ratio=medians["dense"] / medians[budget],
            same_tokens_dense=float(same),
            bytes=sizes.new_tokens
            * _read_bytes(models, sizes, length, batch, budget),
        )


def _ours(lm, budget, inputs, batch, new_tokens):
    """The decoding of a group that has its first token."""
    generator = lm.make_generate_function()
    # The first token is the prefill's.
    max_length = inputs["token_ids"].shape[1] + new_tokens + 1
    groups, _ = generator._prefill(inputs, max_length, np.array([budget]))
    group = _repeat(groups[0], batch)
    generator._begin(group, None)

    def decode():
        # Over again, it writes the same tokens into the same slots.
        generator._extend(group, new_tokens + 1, None)
        tokens = keras.ops.convert_to_numpy(group.token_ids)
        return tokens[:, group.first : group.first + new_tokens + 1]

    return decode


def _repeat(group, batch):
    def repeat(values):
        if not np.ndim(values):
            return values
        if isinstance(values, np.ndarray):
            return np.repeat(values, batch, axis=0)
        return keras.ops.repeat(values, batch, axis=0)

    return dataclasses.replace(
        group,
        rows=np.arange(batch),
        limits=np.repeat(group.limits, batch),
        **{
            name: keras.tree.map_structure(repeat, getattr(group, name))
            for name in ("token_ids", "slots", "hidden_states", "cache")
        },
    )


def _read_bytes(models, sizes, length, batch, budget):
    """What a step must at least read: all weights, and the cache."""
    text = sizes.text
    width, wide = text["hidden_size"], text["intermediate_size"]
    narrow = width // text["num_attention_heads"] * text["num_key_value_heads"]
    layers = text["num_hidden_layers"]
    weights = layers * (2 * width * (width + narrow) + 3 * width * wide)
    weights += width * text["vocab_size"]
    if budget == "dense":
        looking = layers
    else:
        crossing = len(models.visor.backbone.cross_attention_layers)
        weights += crossing * 2 * width * width
        on = models.visor_budgets[models.budgets[budget]]
        looking = crossing + len(on)
    cache = 2 * narrow * (looking * length + layers * sizes.text_tokens)
    return 4 * (weights + batch * cache)
