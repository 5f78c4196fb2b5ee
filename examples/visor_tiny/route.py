"""Viable budgets and the policy that chooses among them."""

import dataclasses

import numpy as np
from even_samples import BATCH_SIZE
from even_samples import MAX_LENGTH
from even_samples import draw_samples
from even_samples import encoded
from even_samples import rows_of
from even_samples import share_out

from keras_visor.training import calibrate_tolerance
from keras_visor.training import evaluate_routing
from keras_visor.training import label_frequencies
from keras_visor.training import pseudo_labels
from keras_visor.training import routing_logits
from keras_visor.training import score_budgets
from keras_visor.training import search_subnetworks
from keras_visor.training import train_policy
from keras_visor.training import viable_budgets
from keras_visor.training import with_budgets

# A coarse family and two fine ones are left out of a policy's training and
# calibration, to see how it fares on them.
HELD_OUT = ("background", "sum", "word_below")
# What a layer more must gain to be worth a budget of its own.
MIN_GAIN = 0.005
# In each of these groups a policy may lose this share of right answers, and
# its tolerance is calibrated to half of that: validation samples are few.
# Comparisons are left out, since what a layer does for them is lost in noise.
CALIBRATED = ("coarse", "fine")
CLAIMED_LOSS = 0.01
MAX_LOSS = CLAIMED_LOSS / 2
# How often the policy sees each question.
EPOCHS = 6


def route(lm, num_samples, run, seed):
    """Give a trained model its viable budgets and a policy.

    Args:
        lm: `VisorCausalLM`. The viable ones of its budgets are kept.
        num_samples: int. Training questions that every budget answers.
        run: path. Where scores are kept, to go on after an interrupt.
        seed: int. Of the pictures.

    Returns:
        The model that has a policy, and a dict of what was measured on
        validation data.
    """
    validation = encoded(
        lm,
        draw_samples("validation", share_out(max(num_samples // 6, 10)), seed),
    )
    found = search_subnetworks(
        lm, validation, run / "subnetworks", max_length=MAX_LENGTH
    )
    viable = viable_budgets(found, MIN_GAIN)
    if len(viable) == 1:
        # More layers gain nothing, early in training: minimal against full.
        viable = [[], lm.backbone.budgets[-1]]
    lm = with_budgets(lm, viable)
    # Pictures that nothing was trained on.
    samples = draw_samples("train", share_out(num_samples), seed + 1)
    samples = encoded(lm, samples)
    scores = score_budgets(
        lm,
        samples,
        run / "scores",
        max_length=MAX_LENGTH,
        batch_size=BATCH_SIZE,
    )
    validation_scores = score_budgets(
        lm, validation, run / "validation_scores", max_length=MAX_LENGTH
    )
    families = np.array(samples["families"])
    groups = np.array(validation["groups"])

    def trained(rule, held_out=()):
        name = f"policy_{rule}{'_held_out' if held_out else ''}"
        routed = train_policy(
            with_budgets(lm, lm.backbone.budgets),
            samples,
            scores,
            rule=rule,
            groups=samples["families"],
            held_out=held_out,
            num_steps=max(EPOCHS * num_samples // BATCH_SIZE, 1),
            directory=run / name,
            seed=seed,
        )
        logits = routing_logits(routed, validation)
        if rule == "tolerance":
            counting = np.flatnonzero(
                np.isin(groups, CALIBRATED)
                & ~np.isin(validation["families"], held_out)
            )
            calibrate_tolerance(
                routed,
                logits[counting],
                validation_scores.take(counting),
                MAX_LOSS,
                groups[counting],
            )
        return routed, logits

    record = {
        "subnetworks": [dataclasses.asdict(each) for each in found],
        "labels": label_frequencies(
            pseudo_labels(scores), len(lm.backbone.budgets), families
        ),
        "families": {
            family: dict(
                zip(
                    map(str, validation_scores.budgets),
                    validation_scores.scores[rows].mean(axis=0).tolist(),
                    strict=True,
                )
            )
            for family, rows in rows_of(validation["families"])
        },
        "policies": {},
    }
    best = None
    for rule in ("argmax", "tolerance"):
        routed, logits = trained(rule)
        routings = evaluate_routing(
            routed, logits, validation_scores, validation["groups"]
        )
        record["policies"][rule] = [
            dataclasses.asdict(routing) for routing in routings
        ]
        lost = max(each.lost for each in routings if each.group in CALIBRATED)
        # The cheapest of those that lose no more, or the one that loses least.
        rank = (max(lost, CLAIMED_LOSS), routings[0].flops)
        if best is None or rank < best[0]:
            best = rank, routed, rule
    _, routed, rule = best
    record["policy_rule"] = rule
    kept_out, logits = trained(rule, HELD_OUT)
    record["held_out"] = [
        dataclasses.asdict(routing)
        for routing in evaluate_routing(
            kept_out,
            logits,
            validation_scores,
            validation["families"],
            HELD_OUT,
        )
        if routing.held_out
    ]
    return routed, record
