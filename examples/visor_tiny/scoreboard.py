"""How a model fares, on the test questions of `make claims` or others."""

from even_samples import BATCH_SIZE
from even_samples import GROUPS
from even_samples import MAX_LENGTH
from even_samples import draw_samples
from even_samples import rows_of
from even_samples import share_out

from keras_visor import training

SAMPLES = 5000


def measure(lm, folder):
    """Exact match by group and family, and FLOPs, at each budget.

    Args:
        lm: `VisorCausalLM`, with its reducer.
        folder: path. Where scores are kept, to go on after an interrupt.

    Returns:
        A dict by budget of dicts: `"flops_vs_dense"` and groups and families.
    """
    samples, scores = _score(lm, folder)
    flops = scores.flops(lm.backbone, lm.reducer).mean(axis=0)
    dense_flops = scores.dense_flops(lm.backbone).mean()
    return {
        str(budget): {
            "flops_vs_dense": flops[index] / dense_flops,
            **{
                name: float(scores.scores[rows, index].mean())
                for column in ("groups", "families")
                for name, rows in rows_of(samples[column])
            },
        }
        for index, budget in enumerate(scores.budgets)
    }


def measure_auto(lm, folder):
    """The same where the policy chooses, without families.

    FLOPs are those of coarse and fine questions, one of each: "auto" spends
    more on comparisons.
    """
    samples, scores = _score(lm, folder)
    routings = training.evaluate_routing(
        lm, training.routing_logits(lm, samples), scores, samples["groups"]
    )
    dense_flops = scores.dense_flops(lm.backbone)
    rows = dict(rows_of(samples["groups"]))
    by_group = {routing.group: routing for routing in routings[1:]}
    return {
        "flops_vs_dense": sum(by_group[g].flops for g in GROUPS[:2])
        / sum(dense_flops[rows[g]].mean() for g in GROUPS[:2]),
        **{group: routing.score for group, routing in by_group.items()},
    }


def _score(lm, folder):
    samples = draw_samples("test", share_out(SAMPLES))
    return samples, training.score_budgets(
        lm, samples, folder, max_length=MAX_LENGTH, batch_size=BATCH_SIZE
    )
