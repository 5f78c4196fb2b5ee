"""What a policy's choices cost and are worth, and tuning them."""

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops
from rich.progress import track

from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.training.budget_scores import BudgetScores
from keras_visor.training.checks import check_positive
from keras_visor.training.columns import image_column
from keras_visor.training.rebuild import set_policy_rule


@dataclass(frozen=True)
class Routing:
    """How a group of samples fares when the policy chooses.

    Attributes:
        group: string.
        count: int. Its samples.
        score: float. The mean score at the budgets chosen.
        full_score: float. The mean score at the full budget.
        minimal_score: float. The mean score at the minimal budget.
        flops: float. The mean FLOPs at the budgets chosen.
        full_flops: float. The mean FLOPs at the full budget.
        layers_on: float. The mean number of self-attention layers chosen.
        held_out: bool. Whether the policy never trained on the group.
    """

    group: str
    count: int
    score: float
    full_score: float
    minimal_score: float
    flops: float
    full_flops: float
    layers_on: float
    held_out: bool

    @property
    def lost(self) -> float:
        """Which share of the full budget's score the choices lose."""
        if self.full_score == 0:
            return 0.0
        # Rounded: 1 - 0.99 is a little more than 0.01.
        return round(1 - self.score / self.full_score, 9)


def routing_logits(
    lm: VisorCausalLM,
    samples: dict,
    batch_size: int = 32,
    verbose: bool = True,
) -> np.ndarray:
    """The policy's logits of samples, float32 (samples, budgets).

    Args:
        lm: `VisorCausalLM` with a policy and its preprocessor.
        samples: dict of columns `prompts` and, if wanted, `images` or what
            `lm.encode` gave for them.
        batch_size: int. Defaults to `32`.
        verbose: bool. Whether to show the progress. Defaults to `True`.

    Raises:
        ValueError: No samples, or a count below 1.
    """
    check_positive(batch_size=batch_size)
    if not len(samples["prompts"]):
        raise ValueError("`samples` must hold a prompt. Received: none")
    prompts, images = samples["prompts"], image_column(samples)
    starts = range(0, len(prompts), batch_size)
    logits = []
    for start in track(starts, "Routing", disable=not verbose):
        rows = slice(start, start + batch_size)
        inputs = lm.prompt_inputs(
            {"prompts": prompts[rows], "images": images[rows]}
        )
        logits.append(
            ops.convert_to_numpy(ops.cast(lm.route(inputs), "float32"))
        )
    return np.concatenate(logits)


def choose_budgets(lm: VisorCausalLM, logits: np.ndarray) -> np.ndarray:
    """The budgets that the policy chooses, by its rule and its tolerance.

    Args:
        lm: `VisorCausalLM` with a policy.
        logits: float array (samples, budgets), see `routing_logits`.

    Returns:
        An int array (samples,), indices into the model's budgets.

    Raises:
        ValueError: The model has no policy.
    """
    _check_policy(lm)
    choice = lm.backbone.policy.choose(ops.convert_to_tensor(logits))
    return ops.convert_to_numpy(choice)


def evaluate_routing(
    lm: VisorCausalLM,
    logits: np.ndarray,
    scores: BudgetScores,
    groups: Sequence[str] | None = None,
    held_out: Iterable[str] = (),
) -> list[Routing]:
    """Score and cost of the budgets that the policy chooses.

    Nothing is generated: the scores of every budget are known.

    Args:
        lm: `VisorCausalLM` with a policy.
        logits: float array (samples, budgets), see `routing_logits`.
        scores: `BudgetScores` of the same samples.
        groups: sequence of strings, one a sample: its data set, say. Defaults
            to `None`: no groups.
        held_out: iterable of strings. The groups on which the policy did not
            train.

    Returns:
        A list of `Routing`: of all samples, then of each group by name.

    Raises:
        ValueError: Arguments of different samples or budgets, or an unknown
            group.
    """
    _check_policy(lm)
    scores.check_budgets(lm)
    count = len(scores.scores)
    groups = np.asarray(["all"] * count if groups is None else groups)
    if np.shape(logits) != scores.scores.shape or len(groups) != count:
        raise ValueError(
            "`logits` must be of the samples and budgets of `scores`, "
            f"{scores.scores.shape}, and `groups` of its samples. Received: "
            f"{np.shape(logits)} and {len(groups)}"
        )
    held_out = set(held_out)
    unknown = sorted(held_out - set(groups.tolist()))
    if unknown:
        raise ValueError(
            f"`held_out` must be among `groups`. Received: {unknown}"
        )
    chosen = choose_budgets(lm, logits)
    flops = scores.flops(lm.backbone, lm.reducer)
    layers = np.array([len(budget) for budget in scores.budgets])

    def routing(name, rows):
        picked = rows, chosen[rows]
        return Routing(
            group=name,
            count=len(rows),
            score=float(scores.scores[picked].mean()),
            full_score=float(scores.scores[rows, -1].mean()),
            minimal_score=float(scores.scores[rows, 0].mean()),
            flops=float(flops[picked].mean()),
            full_flops=float(flops[rows, -1].mean()),
            layers_on=float(layers[chosen[rows]].mean()),
            held_out=name in held_out,
        )

    names = np.unique(groups).tolist()
    if names == ["all"]:
        names = []
    return [
        routing("all", np.arange(count)),
        *(routing(name, np.flatnonzero(groups == name)) for name in names),
    ]


def calibrate_tolerance(
    lm: VisorCausalLM,
    logits: np.ndarray,
    scores: BudgetScores,
    max_loss: float = 0.01,
    groups: Sequence[str] | None = None,
) -> list[tuple[float, Routing]]:
    """Choose the tolerance of a policy on validation data.

    The model's tolerance becomes the one of 0.00, 0.01, ... 1.00 that costs
    least and keeps at least `1 - max_loss` of the full budget's score, in
    every group. Where none does, it is the one whose worst group loses least.
    It can be changed at any time, see `set_policy_rule`, to trade FLOPs for
    accuracy without training.

    Args:
        lm: `VisorCausalLM` whose policy was trained with the rule
            "tolerance".
        logits: float array (samples, budgets), see `routing_logits`, of
            samples on which the policy did not train.
        scores: `BudgetScores` of the same samples.
        max_loss: float. Defaults to `0.01`.
        groups: sequence of strings, one a sample, so that none of them pays
            for the others. Defaults to `None`: one group.

    Returns:
        A list of `(tolerance, Routing)`, for every tolerance tried.

    Raises:
        ValueError: A policy of another rule, or a loss that is no share.
    """
    if lm.backbone.policy is None or lm.backbone.policy_rule != "tolerance":
        raise ValueError(
            '`lm` must have a policy with rule="tolerance". Received: '
            f"policy_hidden_dim={lm.backbone.policy_hidden_dim}, "
            f"policy_rule={lm.backbone.policy_rule!r}"
        )
    if not 0 <= max_loss <= 1:
        raise ValueError(
            f"`max_loss` must be from 0 to 1. Received: {max_loss}"
        )
    curve, ranks = [], []
    for tolerance in np.linspace(0, 1, 101).round(2).tolist():
        set_policy_rule(lm, "tolerance", tolerance)
        routings = evaluate_routing(lm, logits, scores, groups)
        curve.append((tolerance, routings[0]))
        # What loses little enough is alike but for its cost.
        lost = max(routing.lost for routing in routings)
        ranks.append((max(lost, max_loss), routings[0].flops))
    best, _ = curve[ranks.index(min(ranks))]
    set_policy_rule(lm, "tolerance", best)
    return curve


def _check_policy(lm):
    if lm.backbone.policy is None:
        raise ValueError(
            "`lm` must have a policy, see `train_policy`. Received a model "
            "with policy_hidden_dim=None."
        )
