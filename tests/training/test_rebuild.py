"""The same weights in another layout, with other budgets or a policy."""

import copy

import keras
import numpy as np
import pytest
from keras import ops
from model_checks import batch
from model_checks import check_rows
from model_checks import outputs
from model_checks import preprocess

from keras_visor import VisorCausalLM
from keras_visor.checkpoints import export
from keras_visor.reduction import UniformChoice
from keras_visor.training import set_policy_rule
from keras_visor.training import with_budgets
from keras_visor.training import with_layout
from keras_visor.training import with_policy

NAMES = ("strip", "text only")
# Of the fixture they are `[[], [4], [1, 4]]`.
BUDGETS = [[], [1], [1, 4]]


def logits(lm, budget):
    samples = batch(NAMES, budget=[budget] * 2)
    return outputs(lm, preprocess(lm, samples))


@pytest.fixture(scope="module")
def rebudgeted(visor):
    return with_budgets(visor, BUDGETS)


@pytest.mark.parametrize("budget", [0, 1, 2])
def test_each_budget_against_the_reference(visor_reference, rebudgeted, budget):
    assert rebudgeted.backbone.budgets == BUDGETS
    assert rebudgeted.backbone.policy is None
    reference = copy.copy(visor_reference)
    reference.budgets = BUDGETS
    samples = batch(NAMES)
    expected = [
        reference.logits(prompt, images, budget)
        for prompt, images in zip(
            samples["prompts"], samples["images"], strict=True
        )
    ]
    check_rows(logits(rebudgeted, budget), expected)


def test_the_old_model_stays_as_it_is(visor, rebudgeted):
    assert visor.backbone.budgets == [[], [4], [1, 4]]
    assert visor.preprocessor.num_budgets == 3
    fewer = with_budgets(visor, [[1, 4]])
    assert fewer.preprocessor.num_budgets == 1
    assert visor.preprocessor.num_budgets == 3
    assert fewer.preprocessor.tokenizer is visor.preprocessor.tokenizer


def test_training_the_copy_leaves_the_original(load_small, samples, weights_of):
    lm = load_small()
    before = weights_of(lm)
    copy = with_budgets(lm, [[1]])
    copy.compile(optimizer=keras.optimizers.SGD(0.1))
    copy.fit(samples, batch_size=10, verbose=0)
    for weight, old in zip(weights_of(lm), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    moved = [
        np.any(weight != old)
        for weight, old in zip(weights_of(copy), before, strict=True)
    ]
    assert sum(moved) > len(moved) / 2


def test_presets_and_exports_hold_the_budgets(rebudgeted, weights_of, tmp_path):
    rebudgeted.save_to_preset(str(tmp_path / "preset"))
    export(rebudgeted, tmp_path / "export")
    for directory in ("preset", "export"):
        lm = VisorCausalLM.from_preset(str(tmp_path / directory))
        assert lm.backbone.budgets == BUDGETS
        assert lm.preprocessor.num_budgets == 3
        for weight, expected in zip(
            weights_of(lm), weights_of(rebudgeted), strict=True
        ):
            np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    "layout, budgets",
    [
        # Fewer layers, and what the original says at its budgets without them.
        (([0, 3], [4]), {0: 0, 1: 1}),
        # One cross-attention more changes nothing before it is trained.
        (([0, 2, 3], [1, 4]), {0: 0, 1: 1, 2: 2}),
    ],
    ids=["fewer", "more"],
)
def test_another_layout(visor, layout, budgets):
    lm = with_layout(visor, *layout)
    backbone = lm.backbone
    assert (
        backbone.cross_attention_layers,
        backbone.self_attention_layers,
    ) == layout
    assert lm.preprocessor.num_budgets == len(budgets)
    for ours, theirs in budgets.items():
        mask = preprocess(lm, batch(NAMES))["padding_mask"]
        np.testing.assert_allclose(
            logits(lm, ours)[mask], logits(visor, theirs)[mask], atol=1e-5
        )


def test_a_dense_model_becomes_a_visor(load_small):
    lm = load_small()
    dense = with_layout(lm, [], [0, 1, 2], [[0, 1, 2]])
    again = with_layout(dense, [0], [1])
    assert again.backbone.budgets == [[], [1]]
    weights, expected = (
        {
            weight.path: np.array(ops.convert_to_numpy(weight))
            for layer in model.backbone.decoder_layers
            for weight in layer.weights
        }
        for model in (again, lm)
    )
    assert len(weights) > 20
    for path, values in expected.items():
        np.testing.assert_array_equal(weights[path], values)


def test_it_starts_as_a_checkpoint_does(dense_directory, weights_of):
    layout = {"cross_attention_layers": [0, 3], "self_attention_layers": [4]}
    loaded = VisorCausalLM.from_preset(dense_directory, **layout)
    made = with_layout(VisorCausalLM.from_preset(dense_directory), **layout)
    for weight, expected in zip(
        weights_of(made), weights_of(loaded), strict=True
    ):
        np.testing.assert_array_equal(weight, expected)


def test_a_policy_for_a_model_without(load_small, weights_of):
    lm = load_small()
    assert lm.backbone.policy is None
    routed = with_policy(lm)
    assert routed.backbone.policy_hidden_dim == 4  # a quarter of 16
    assert routed.backbone.policy.num_budgets == 2
    # The policy's come last.
    for weight, expected in zip(
        weights_of(routed), weights_of(lm), strict=False
    ):
        np.testing.assert_array_equal(weight, expected)
    assert routed.route(preprocess(routed, batch(NAMES))).shape == (2, 2)
    assert with_policy(routed, 7).backbone.policy_hidden_dim == 7


def test_the_rule_changes_without_training(load_small, tmp_path):
    lm = with_policy(load_small())
    x = np.array([[0.5, 0.0, 1.0]], "float32")
    policy = lm.backbone.policy
    assert policy.choose(x)[0] == 2
    # sigmoid: 0.622, 0.5, 0.731
    set_policy_rule(lm, "tolerance", 0.12)
    assert policy.choose(x)[0] == 0
    set_policy_rule(lm, "tolerance", 0.1)
    assert policy.choose(x)[0] == 2
    lm.save_to_preset(str(tmp_path / "preset"))
    loaded = VisorCausalLM.from_preset(str(tmp_path / "preset")).backbone
    assert (loaded.policy.rule, loaded.policy.tolerance) == ("tolerance", 0.1)


def test_bad_input(visor, load_small):
    with pytest.raises(ValueError, match="`budgets`.*cheapest"):
        with_budgets(visor, [[1, 4], []])
    with pytest.raises(ValueError, match="cross_attention_layers.*6"):
        with_layout(visor, [0, 6], [1])
    with pytest.raises(ValueError, match="`hidden_dim` must be 1 or more"):
        with_policy(visor, 0)
    with pytest.raises(ValueError, match="`rule` must be one of.*'best'"):
        set_policy_rule(visor, "best")
    with pytest.raises(ValueError, match="`tolerance` must be 0 or more"):
        set_policy_rule(visor, "tolerance", float("nan"))
    lm = load_small()
    with pytest.raises(ValueError, match="`lm` must have a policy"):
        set_policy_rule(lm, "argmax")
    lm.backbone.enable_lora(2)
    with pytest.raises(ValueError, match="merge LoRA first"):
        with_budgets(lm, [[]])


def test_a_reducer_stays(load_small):
    lm = load_small(reducer=UniformChoice(0.5))
    assert with_budgets(lm, [[], [1]]).reducer == UniformChoice(0.5)
    assert with_policy(lm).reducer == UniformChoice(0.5)
