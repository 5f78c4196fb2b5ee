"""The policy learns, and nothing else does."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops
from model_checks import outputs
from samples import picture
from samples import question

from keras_visor import VisorCausalLM
from keras_visor.reduction import FastV
from keras_visor.reduction import VisionZip
from keras_visor.training import BudgetScores
from keras_visor.training import policy
from keras_visor.training import routing_logits
from keras_visor.training import set_policy_rule
from keras_visor.training import train_policy
from keras_visor.training import with_budgets
from keras_visor.training import with_policy
from keras_visor.training.policy import RoutingModel
from keras_visor.training.policy import class_weights

# The first kind of `samples` is easy, the second needs the full budget.
SCORES = np.array([[1.0, 1.0], [0.0, 1.0]] * 5)
# Eight of ten are easy.
RARE = np.array([[1.0, 1.0]] * 8 + [[0.0, 1.0], [0.5, 0.4]])
RARE_LABELS = [0] * 8 + [1, 0]


@pytest.fixture(scope="module")
def with_untrained(load_small):
    return with_policy(load_small(), hidden_dim=8)


def routed(lm, samples):
    """The policy's logits, as `generate` has them."""
    columns = {name: samples[name] for name in ("prompts", "images")}
    inputs = lm.preprocessor.generate_preprocess(columns)
    return ops.convert_to_numpy(lm.route(inputs))


def train(lm, samples, scores, **arguments):
    arguments = {"num_steps": 40, "save_every": 40, **arguments}
    return train_policy(
        lm, samples, scores, batch_size=10, verbose=0, **arguments
    )


# === What it trains ===


@pytest.mark.parametrize(
    "reducer", [None, VisionZip(0.3), FastV(0.3, layer=0)], ids=str
)
def test_it_is_what_generate_runs(load_small, samples, reducer):
    lm = with_policy(load_small(reducer=reducer), hidden_dim=8)
    columns = {name: samples[name][:3] for name in ("prompts", "images")}
    encoded = {**columns, "images": lm.encode(columns["images"])}
    for given in (columns, encoded):
        np.testing.assert_allclose(
            outputs(RoutingModel(lm), lm.prompt_inputs(given, 64, reducer)),
            routed(lm, columns),
            rtol=0,
            atol=1e-5,  # Other programs, other paddings.
        )
        np.testing.assert_allclose(
            routing_logits(lm, given, verbose=False),
            routed(lm, columns),
            rtol=0,
            atol=1e-5,
        )


def test_encoded_images_train_alike(load_small, samples):
    logits = []
    for encodes in (False, True):
        keras.utils.set_random_seed(0)
        lm = with_policy(load_small(), hidden_dim=8)
        images = samples["images"]
        given = lm.encode(images) if encodes else images
        lm = train(lm, {**samples, "images": given}, SCORES, num_steps=5)
        logits.append(routing_logits(lm, samples, verbose=False))
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)


# Seeds put the batches in another order, elsewhere in the same way.
SEEDS = [0, 1, 2] if keras.config.backend() == "torch" else [0]


@pytest.mark.parametrize("seed", SEEDS)
def test_batches_of_every_kind(load_small, samples, seed):
    """Encoded or not, without an image, longer, larger: one of them ends."""
    lm = with_policy(load_small(), hidden_dim=8)
    first, second, *_ = samples["images"]
    given = {
        "prompts": [
            question("Which one?", 1),
            question("Is (a small) circle here? Or a large one there?", 1),
            question("Which one?"),
            question("Which one?", 2),
            question("Which one?", 1),
        ],
        "images": [
            *lm.encode([first, second]),
            None,
            [picture(160, 150), first],
            second,
        ],
    }
    # As if it had been encoded for a reducer, and elsewhere.
    first, second = given["images"][:2]
    attention = np.zeros(first.tokens.shape[0], "float32")
    given["images"][0] = dataclasses.replace(first, attention=attention)
    given["images"][1] = dataclasses.replace(second, indices=None)
    before = routing_logits(lm, given, verbose=False)
    scores = [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    lm = train_policy(
        lm,
        given,
        scores,
        num_steps=6,
        batch_size=2,
        learning_rate=0.02,
        seed=seed,
        verbose=0,
    )
    assert np.abs(routing_logits(lm, given, verbose=False) - before).max() > 0.1


def test_one_encoding_serves_all_prompts(with_untrained, samples):
    image = samples["images"][0]
    shared, each = (
        routing_logits(
            with_untrained,
            {"prompts": samples["prompts"][:3], "images": images},
            verbose=False,
        )
        for images in (with_untrained.encode(image), [image] * 3)
    )
    np.testing.assert_allclose(shared, each, rtol=0, atol=1e-5)


def test_images_encoded_elsewhere(load_small, samples):
    """Where they came from matters to reducers alone."""
    lm = with_policy(load_small(), hidden_dim=8)
    encoded = [
        dataclasses.replace(image, indices=None, weights=None)
        for image in lm.encode(samples["images"][:2])
    ]
    given = {"prompts": samples["prompts"][:2], "images": encoded}
    np.testing.assert_allclose(
        routing_logits(lm, given, verbose=False),
        routed(lm, {**given, "images": samples["images"][:2]}),
        rtol=0,
        atol=1e-5,
    )
    scores = SCORES[:2]
    train_policy(lm, given, scores, num_steps=1, batch_size=2, verbose=0)
    lm.reducer = VisionZip(0.3)
    for use in (
        lambda: routing_logits(lm, given, verbose=False),
        lambda: train_policy(lm, given, scores, num_steps=1, verbose=0),
    ):
        with pytest.raises(ValueError, match="without `indices`"):
            use()


@pytest.mark.parametrize("rule", ["argmax", "tolerance"])
def test_a_separable_toy_is_learned(load_small, samples, weights_of, rule):
    keras.utils.set_random_seed(0)  # The policy's first weights.
    original = load_small()
    original.backbone.decoder_layers[0].trainable = False
    before = weights_of(original)
    trainable = [weight.trainable for weight in original.weights]

    lm = train(
        original,
        samples,
        SCORES,
        rule=rule,
        learning_rate=0.02,
        hidden_dim=8,
        num_steps=100,
        save_every=100,
    )
    assert (original.backbone.policy, lm.backbone.policy_hidden_dim) == (
        None,
        8,
    )
    assert lm.backbone.policy_rule == lm.backbone.policy.rule == rule
    logits = routed(lm, samples)
    if rule == "tolerance":
        # Probabilities: the full budget is always right.
        right = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(right, SCORES, atol=0.35)
        set_policy_rule(lm, "tolerance", 0.4)
    chosen = ops.convert_to_numpy(lm.backbone.policy.choose(logits))
    assert chosen.tolist() == [0, 1] * 5

    if rule == "argmax":
        _, report = lm.generate(
            {name: samples[name] for name in ("prompts", "images")},
            max_length=24,
            return_report=True,
        )
        assert report["budget"].tolist() == [0, 1] * 5

    # Nothing but the policy is another; the routing token is.
    own = {id(weight) for weight in lm.backbone.policy.weights}
    rest = [w for w in lm.weights if id(w) not in own]
    for weight, old in zip(rest, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), old)
    assert [w.trainable for w in original.weights] == trainable


def test_only_the_policy_moves(load_small, samples, weights_of):
    lm = with_policy(load_small(), hidden_dim=8)
    lm.backbone.decoder_layers[0].trainable = False
    trainable = [weight.trainable for weight in lm.weights]
    before = weights_of(lm)
    assert train(lm, samples, SCORES, num_steps=1) is lm
    own = {id(weight) for weight in lm.backbone.policy.weights}
    assert id(lm.backbone.policy.routing_token) in own
    for weight, old in zip(lm.weights, before, strict=True):
        moved = np.any(ops.convert_to_numpy(weight) != old)
        assert moved == (id(weight) in own), weight.path
    # What was frozen before is so again, and nothing else.
    assert [weight.trainable for weight in lm.weights] == trainable


# === The loss ===


def softmax_losses(logits, labels):
    logits = logits.astype("float64")
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return log_sums - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("balanced", [True, False])
def test_the_loss_of_labels(with_untrained, samples, tmp_path, balanced):
    lm = with_untrained
    losses = softmax_losses(routed(lm, samples), RARE_LABELS)
    # Nine easy ones and a hard one: both kinds weigh the same.
    weights = np.where(RARE_LABELS, 10 / 2 / 1, 10 / 2 / 9)
    expected = np.mean(losses * weights) if balanced else np.mean(losses)
    train(
        lm,
        samples,
        RARE,
        balanced=balanced,
        learning_rate=0.0,
        num_steps=1,
        directory=tmp_path,
    )
    history = json.loads((tmp_path / "progress.json").read_text())["history"]
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-5)


def test_the_loss_of_successes(with_untrained, samples, tmp_path):
    lm = with_untrained
    logits = routed(lm, samples).astype("float64")
    right = np.array([[1.0, 1.0]] * 8 + [[0.0, 1.0], [1.0, 1.0]])
    losses = np.log1p(np.exp(logits)) - right * logits
    train(
        lm,
        samples,
        RARE,
        rule="tolerance",
        learning_rate=0.0,
        num_steps=1,
        directory=tmp_path,
    )
    history = json.loads((tmp_path / "progress.json").read_text())["history"]
    np.testing.assert_allclose(history["loss"], [losses.mean()], rtol=1e-5)


def test_held_out_groups(monkeypatch, with_untrained, samples):
    """Neither their samples nor their labels take part."""
    seen = []
    monkeypatch.setattr(
        policy, "fit", lambda model, columns, **_: seen.append(columns)
    )
    groups = ["a", "b", "c", "b", "b"] * 2
    train(with_untrained, samples, RARE, groups=groups, held_out=["a", "b"])
    (columns,) = seen
    assert columns["prompts"] == [samples["prompts"][row] for row in (2, 7)]
    for row, image in zip((2, 7), columns["images"], strict=True):
        assert image is samples["images"][row]
    assert columns["targets"].tolist() == [0, 0]
    assert columns["weights"].tolist() == [1, 1]
    bad = {
        "`groups` must have one entry": {"held_out": ["a"]},
        "`held_out` must be some": {"held_out": ["d"], "groups": groups},
        "not all": {"held_out": "abc", "groups": groups},
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            train(with_untrained, samples, RARE, **arguments)


def test_class_weights():
    weights = class_weights([0, 0, 0, 2])
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(class_weights([1, 1]), [1, 1])


# === Around it ===


def test_a_complete_training_is_loaded(load_small, samples, tmp_path):
    trained, loaded = (
        train(
            load_small(),
            samples,
            SCORES,
            num_steps=2,
            directory=tmp_path,
            hidden_dim=8,
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(
        routed(loaded, samples), routed(trained, samples)
    )
    # Another rule's, or that of other labels, is another training.
    for scores, rule in ((SCORES, "tolerance"), (1 - SCORES, "argmax")):
        with pytest.raises(ValueError, match="another training.* in settings"):
            train(
                load_small(),
                samples,
                scores,
                rule=rule,
                num_steps=2,
                directory=tmp_path,
                hidden_dim=8,
            )


def test_routing_logits(with_untrained, samples):
    text_only = {"prompts": ["Which one?"] * 3}
    for columns in (samples, text_only):
        logits = routing_logits(
            with_untrained, columns, batch_size=4, verbose=False
        )
        assert logits.dtype == np.float32
        columns = {"images": None, **columns}
        np.testing.assert_allclose(
            logits, routed(with_untrained, columns), rtol=0, atol=1e-5
        )


def test_a_policy_is_saved_with_its_model(with_untrained, samples, tmp_path):
    with_untrained.save_to_preset(str(tmp_path))
    loaded = VisorCausalLM.from_preset(str(tmp_path))
    np.testing.assert_allclose(
        routed(loaded, samples), routed(with_untrained, samples), atol=1e-6
    )


def test_bad_input(load_small, samples, dense_directory):
    lm = load_small()
    bad = {
        "`rule` must be one of.*'best'": {"rule": "best"},
        "`slack` must be": {"slack": -1},
        "`num_steps` must be 1": {"num_steps": 0},
        "`hidden_dim` must be 1": {"hidden_dim": 0},
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            train(lm, samples, SCORES, **arguments)
    with pytest.raises(ValueError, match=r"`scores`.*10 samples.*\(9, 2\)"):
        train(lm, samples, SCORES[:9])
    others = BudgetScores([[], [2]], SCORES, [["", ""]] * 10, None, None)
    with pytest.raises(ValueError, match=r"`scores`.*\[1\]\].*\[2\]\]"):
        train(lm, samples, others)
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more"):
        routing_logits(lm, samples, batch_size=0)
    with pytest.raises(ValueError, match="`samples` must hold a prompt"):
        routing_logits(lm, {"prompts": []})
    with pytest.raises(ValueError, match=r"several budgets.*\[\[1\]\]"):
        train(with_budgets(lm, [[1]]), samples, SCORES[:, 1:])
    lowest = VisorCausalLM.from_preset(
        dense_directory,
        cross_attention_layers=[1],
        self_attention_layers=[0],
        load_weights=False,
    )
    with pytest.raises(ValueError, match=r"nothing to go by.*\[0\]"):
        train(lowest, samples, SCORES)
