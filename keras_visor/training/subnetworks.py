"""Which subsets of the self-attention layers are worth having."""

import itertools
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_visor.datasets.metrics import exact_match
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.training.budget_scores import score_budgets
from keras_visor.training.checks import check_positive
from keras_visor.training.rebuild import with_budgets

STRATEGIES = ("auto", "exhaustive", "beam")
# More subsets than this are searched, not enumerated.
MAX_EXHAUSTIVE = 64


@dataclass(frozen=True)
class Subnetwork:
    """A subset of the self-attention layers, tried out.

    Attributes:
        layers: tuple of int. The layers that are on, ascending.
        score: float. The mean score of the samples.
        flops: float. The mean FLOPs of the language model's prefill.
    """

    layers: tuple[int, ...]
    score: float
    flops: float


def search_subnetworks(
    lm: VisorCausalLM,
    samples: dict,
    directory: str | os.PathLike | None = None,
    metric: Callable[[Sequence[str], Sequence[Any]], float] = exact_match,
    strategy: str = "auto",
    beam_width: int = 2,
    max_length: int | None = None,
    batch_size: int = 16,
    shard_size: int = 512,
    verbose: bool = True,
) -> list[Subnetwork]:
    """Try out subsets of the self-attention layers on validation data.

    Follows section "Training" of VISOR (arXiv 2603.23495): subsets of the
    trained model's self-attention layers are evaluated, and the good ones
    kept; `viable_budgets` says which. Where the subsets are too many, layers
    are added one by one to the best subsets so far, from none to all.

    Args:
        lm: `VisorCausalLM`, trained at the maximal configuration. Stays as it
            is.
        samples: dict of columns, see `score_budgets`.
        directory: str or path. Where to keep the scores, so that an
            interrupted search goes on. Defaults to `None`: nowhere.
        metric: See `score_budgets`.
        strategy: `"exhaustive"`, `"beam"` or `"auto"`: exhaustive for up to
            64 subsets. Defaults to `"auto"`.
        beam_width: int. How many subsets of a size the beam search goes on
            with; 1 is greedy. Defaults to `2`.
        max_length: int. See `score_budgets`.
        batch_size: int. Defaults to `16`.
        shard_size: int. Samples of a file. Defaults to `512`.
        verbose: bool. Whether to show the progress. Defaults to `True`.

    Returns:
        A list of `Subnetwork`, by their number of layers, then in the order
        in which they were tried.

    Raises:
        ValueError: Bad arguments.

    Example:
    ```python
    picture = keras_visor.datasets.RenderedPictures("validation", 1).example(0)
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    found = keras_visor.training.search_subnetworks(
        lm,
        {
            "prompts": picture["questions"][:2],
            "responses": picture["answers"][:2],
            "images": [picture["image"]] * 2,
        },
        max_length=64,
    )
    budgets = keras_visor.training.viable_budgets(found)
    lm = keras_visor.training.with_budgets(lm, budgets)
    ```
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"`strategy` must be one of {STRATEGIES}. Received: {strategy!r}"
        )
    check_positive(beam_width=beam_width)
    layers = lm.backbone.self_attention_layers

    def evaluate(subsets, name):
        return _evaluate(
            lm,
            subsets,
            samples,
            directory and pathlib.Path(directory) / name,
            metric,
            max_length=max_length,
            batch_size=batch_size,
            shard_size=shard_size,
            verbose=verbose,
        )

    if strategy == "auto":
        few = 2 ** len(layers) <= MAX_EXHAUSTIVE
        strategy = "exhaustive" if few else "beam"
    if strategy == "exhaustive":
        subsets = itertools.chain.from_iterable(
            itertools.combinations(layers, size)
            for size in range(len(layers) + 1)
        )
        return evaluate(list(subsets), "all")
    found = beam = evaluate([()], "0_layers")
    for size in range(1, len(layers) + 1):
        subsets = {
            tuple(sorted({*subnetwork.layers, layer}))
            for subnetwork in beam
            for layer in layers
            if layer not in subnetwork.layers
        }
        tried = evaluate(sorted(subsets), f"{size}_layers")
        beam = sorted(tried, key=_worth)[:beam_width]
        found = found + tried
    return found


def viable_budgets(
    subnetworks: Sequence[Subnetwork], min_gain: float = 0.0
) -> list[list[int]]:
    """The subsets than which none is both cheaper and better.

    They ascend by their number of layers too, as a model's budgets do.

    Args:
        subnetworks: sequence of `Subnetwork`, see `search_subnetworks`.
        min_gain: float. How much better than every cheaper one a subset must
            be, so that noise buys no layers. Defaults to `0.0`.

    Returns:
        The Pareto front, from the cheapest to the dearest and best: budgets
        for `with_budgets`.

    Raises:
        ValueError: No subnetworks, or a gain below 0.
    """
    if not subnetworks:
        raise ValueError("`subnetworks` must not be empty. Received: []")
    if not min_gain >= 0:
        raise ValueError(f"`min_gain` must be 0 or more. Received: {min_gain}")
    fewest_first = sorted(
        subnetworks, key=lambda s: (len(s.layers), s.flops, *_worth(s))
    )
    front = []
    for subnetwork in fewest_first:
        # With a reducer within the decoder, more layers can cost less.
        while front and (
            front[-1].flops >= subnetwork.flops
            and front[-1].score < subnetwork.score
        ):
            front.pop()
        if not front or subnetwork.score > front[-1].score + min_gain:
            front.append(subnetwork)
    return [list(subnetwork.layers) for subnetwork in front]


def _worth(subnetwork):
    """Best first; of equals the one that leaves the lower layers off.

    All budgets then share more layers, and the policy sees more.
    """
    return -subnetwork.score, tuple(-layer for layer in subnetwork.layers)


def _evaluate(lm, subsets, samples, directory, metric, **kwargs):
    candidate = with_budgets(lm, subsets)
    scores = score_budgets(candidate, samples, directory, metric, **kwargs)
    flops = scores.flops(candidate.backbone, candidate.reducer).mean(axis=0)
    return [
        Subnetwork(tuple(layers), float(score), float(cost))
        for layers, score, cost in zip(
            subsets, scores.scores.mean(axis=0), flops, strict=True
        )
    ]
