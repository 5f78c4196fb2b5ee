"""What each stage trains, and how fast."""

import keras
import numpy as np
import pytest

from keras_visor.training import adamw
from keras_visor.training import freeze_base
from keras_visor.training import train_only
from keras_visor.training import unfreeze


def changes(lm, samples, weights_of):
    """How far each weight moves in one step, by the weight's identity."""
    before = weights_of(lm)
    lm.fit(samples, batch_size=10, verbose=0)
    return {
        id(weight): np.abs(after - old).max()
        for weight, old, after in zip(
            lm.weights, before, weights_of(lm), strict=True
        )
    }


def floats(weights):
    """All but the numbers 0, 1, 2, ... of the encoder's positions."""
    return [w for w in weights if "int" not in str(w.dtype)]


def test_stage_1_moves_the_cross_attention_alone(
    load_small, samples, weights_of
):
    lm = load_small()
    freeze_base(lm)
    expected = {id(w) for w in lm.backbone.cross_attentions[0].weights}
    assert {id(w) for w in lm.trainable_weights} == expected
    lm.compile(optimizer=adamw(lm, 1e-3))
    assert lm.optimizer.weight_decay == 0
    moved = changes(lm, samples, weights_of)
    assert {weight for weight, far in moved.items() if far} == expected


def test_stage_2_with_learning_rates_of_parts(load_small, samples, weights_of):
    """Adam's first step moves a weight by the learning rate."""
    lm = load_small()
    freeze_base(lm)
    unfreeze(lm)
    assert len(lm.trainable_weights) == len(floats(lm.weights))
    rates = {"vision_encoder": 1e-4, "cross_attention": 1e-2, "projector": 0.0}
    lm.compile(optimizer=adamw(lm, 1e-3, rates, epsilon=1e-12))
    assert all(one.weight_decay == 0 for one in lm.optimizer.optimizers)
    moved = changes(lm, samples, weights_of)
    backbone = lm.backbone
    encoder = backbone.vision_tower.encoder.weights
    within = {id(w) for w in encoder}
    parts = {
        1e-4: floats(encoder),
        1e-2: backbone.cross_attentions[0].weights,
        0.0: [w for w in backbone.vision_tower.weights if id(w) not in within],
        1e-3: [
            *backbone.token_embedding.weights,
            *(w for layer in backbone.decoder_layers for w in layer.weights),
            *backbone.final_norm.weights,
        ],
    }
    assert sum(map(len, parts.values())) == len(floats(lm.weights))
    for rate, weights in parts.items():
        assert weights
        for weight in weights:
            # A bias that all keys share has a gradient of about zero.
            np.testing.assert_allclose(
                moved[id(weight)], rate, rtol=0.02, err_msg=weight.path
            )


def test_the_policy_is_left_out_of_stage_2(visor):
    trainable = [(w, w.trainable) for w in visor.weights]
    try:
        unfreeze(visor)
        expected = {id(w) for w in visor.backbone.policy.weights}
        frozen = {id(w) for w in floats(visor.weights) if not w.trainable}
        assert frozen == expected
        train_only(visor, ["policy"])
        assert {id(w) for w in visor.trainable_weights} == expected
    finally:
        for weight, value in trainable:
            weight.trainable = value


def test_bad_input(visor, dense):
    with pytest.raises(ValueError, match="`parts`.*'vision'"):
        train_only(visor, ["vision", "decoder"])
    with pytest.raises(ValueError, match="`part_learning_rates`.*'head'"):
        adamw(visor, 1e-3, {"head": 1e-4})
    with pytest.raises(ValueError, match="`lm` must have cross-attention"):
        freeze_base(dense)
    assert isinstance(adamw(visor, 1e-3), keras.optimizers.AdamW)
