"""What it costs to choose a budget, and to serve several in one batch."""

import numpy as np
from prompts import make_prompt
from prompts import repeat
from timing import interleave
from timing import median
from timing import row

# A fraction of a fast prefill is to be seen: more rounds than elsewhere.
ROUNDS = 3


def measure(models, sizes, cell: dict, repeats: int):
    """Yield the row of one batch size: routing alone, or mixed budgets."""
    inputs = make_prompt(sizes, cell["visual_tokens"])
    if cell["batch"] == 1:
        yield _routing(models, inputs, cell, ROUNDS * repeats)
    else:
        yield _mixed(models, inputs, cell, repeats)


def _routing(models, inputs, cell, repeats):
    """The routing token, the policy and the grouping.

    All of it is what a prefill up to the first token takes longer when the
    policy chooses the minimal budget than when the caller does.
    """
    functions = {
        "routed": lambda: _first_token(models.visor, inputs, None),
        "given": lambda: _first_token(models.visor, inputs, np.array([0])),
    }
    chosen = [function() for function in functions.values()]
    assert np.all(np.concatenate(chosen) == 0), chosen
    seconds = interleave(functions, repeats)
    # By rounds, of which a function that is called slow has fewer.
    rounds = zip(seconds["routed"], seconds["given"], strict=False)
    value = median([routed - given for routed, given in rounds])
    given = median(seconds["given"])
    return row(
        "routing",
        cell["visual_tokens"],
        1,
        "minimal",
        value,
        prefill=given,
        of_prefill=value / given,
        seconds=seconds["routed"],
        given_seconds=seconds["given"],
    )


def _mixed(models, inputs, cell, repeats):
    """Half of the batch minimal, a quarter at two layers and at the full."""
    batch = cell["batch"]
    named = models.budgets
    names = ["minimal"] * (batch // 2) + ["two", "full"] * (batch // 4)
    budgets = np.array([named[name] for name in names])
    whole = repeat(inputs, batch)
    functions = {"mixed": lambda: _first_token(models.visor, whole, budgets)}
    for budget in np.unique(budgets):
        group = budgets[budgets == budget]
        functions[f"apart {budget}"] = _group(models.visor, inputs, group)
    for function in functions.values():
        function()
    seconds = interleave(functions, repeats)
    medians = {name: median(values) for name, values in seconds.items()}
    value = medians.pop("mixed")
    return row(
        "routing",
        cell["visual_tokens"],
        batch,
        "mixed",
        value,
        apart=sum(medians.values()),
        of_apart=value / sum(medians.values()),
        budgets=budgets.tolist(),
        seconds=seconds["mixed"],
    )


def _group(lm, inputs, budgets):
    inputs = repeat(inputs, len(budgets))
    return lambda: _first_token(lm, inputs, budgets)


def _first_token(lm, inputs, budgets):
    """Write one token; the budgets that ran."""
    max_length = inputs["token_ids"].shape[1] + 1
    generator = lm.make_generate_function()
    return generator.generate(inputs, max_length, budgets, None)[1]
