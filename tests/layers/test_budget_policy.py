import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import randomize
from layer_checks import to_numpy
from reference import Shape
from reference import routing
from torch import tensor

from keras_visor import BudgetPolicy

EPSILON = 1e-3
STATES = np.random.default_rng(0).normal(size=(5, 16)).astype("float32")


def make_policy(**arguments):
    policy = BudgetPolicy(
        num_budgets=3,
        hidden_dim=8,
        layer_norm_epsilon=EPSILON,
        **arguments,
    )
    policy.build(STATES.shape)
    randomize(policy)
    return policy


def test_logits_equal_the_reference():
    policy = make_policy()

    def weights(dense, name):
        return {
            f"{name}.weight": tensor(to_numpy(dense.kernel)).T,
            f"{name}.bias": tensor(to_numpy(dense.bias)),
        }

    expected = routing(
        tensor(STATES),
        {
            "norm.weight": tensor(to_numpy(policy.norm.scale)),
            **weights(policy.hidden_dense, "fc1"),
            **weights(policy.output_dense, "fc2"),
        },
        Shape(1, 1, rope_theta=1.0, epsilon=EPSILON),
    )
    np.testing.assert_allclose(
        to_numpy(policy(STATES)), expected.numpy(), atol=1e-5
    )


def test_every_sample_gets_the_same_routing_token():
    policy = make_policy()
    tokens = to_numpy(policy.tokens(4))
    assert tokens.shape == (4, 1, 16)
    for row in range(4):
        np.testing.assert_array_equal(
            tokens[row, 0], to_numpy(policy.routing_token)
        )


def logit(probability):
    return np.log(probability / (1 - probability))


@pytest.mark.parametrize(
    "rule, tolerance, probabilities, chosen",
    [
        ("argmax", 0.0, [0.2, 0.9, 0.8], 1),
        ("argmax", 0.5, [0.2, 0.9, 0.8], 1),
        ("argmax", 0.0, [0.1, 0.2, 0.8], 2),
        # The cheapest that is as good as the last, not the best.
        ("tolerance", 0.0, [0.7, 0.9, 0.6], 0),
        ("tolerance", 0.0, [0.5, 0.9, 0.6], 1),
        ("tolerance", 0.15, [0.5, 0.9, 0.6], 0),
        ("tolerance", 0.15, [0.5, 0.4, 0.7], 2),
        ("tolerance", 0.0, [0.6, 0.6, 0.6], 0),
        ("tolerance", 1.0, [0.01, 0.5, 0.99], 0),
    ],
)
def test_rules_by_hand(rule, tolerance, probabilities, chosen):
    policy = make_policy(rule=rule, tolerance=tolerance)
    logits = ops.convert_to_tensor(
        np.array([logit(np.array(probabilities)), [0.0, 0.0, 9.0]], "float32")
    )
    budgets = policy.choose(logits)
    assert keras.backend.standardize_dtype(budgets.dtype) == "int32"
    # The second sample is its own: 0.5, 0.5 and 0.9999.
    other = 0 if tolerance == 1.0 else 2
    assert ops.convert_to_numpy(budgets).tolist() == [chosen, other]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_spec_without_running(dtype):
    policy = make_policy(dtype=dtype)
    spec = policy.compute_output_spec(keras.KerasTensor(STATES.shape))
    logits = policy(STATES)
    assert tuple(spec.shape) == tuple(logits.shape) == (5, 3)
    assert spec.dtype == keras.backend.standardize_dtype(logits.dtype) == dtype
    np.testing.assert_allclose(
        to_numpy(logits), to_numpy(make_policy()(STATES)), rtol=0.05, atol=0.05
    )


def test_saves_within_a_model(tmp_path):
    policy = make_policy(rule="tolerance", tolerance=0.25)
    states = keras.Input((16,))
    model = keras.Model(states, policy(states))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        to_numpy(loaded(STATES)), to_numpy(policy(STATES))
    )
    np.testing.assert_array_equal(
        to_numpy(loaded.layers[-1].routing_token),
        to_numpy(policy.routing_token),
    )
    copy = BudgetPolicy.from_config(policy.get_config())
    assert copy.get_config() == policy.get_config()
    assert (copy.rule, copy.tolerance) == ("tolerance", 0.25)


def test_unknown_rule():
    with pytest.raises(ValueError, match="`rule`.*'tolerance'.*rule='best'"):
        BudgetPolicy(num_budgets=3, hidden_dim=8, rule="best")


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match="`tolerance` must be 0 or more"):
        BudgetPolicy(num_budgets=3, hidden_dim=8, tolerance=tolerance)
