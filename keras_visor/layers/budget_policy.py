"""The policy that chooses a sample's compute budget."""

import keras
from keras import ops

RULES = ("argmax", "tolerance")


@keras.saving.register_keras_serializable("keras_visor")
class BudgetPolicy(keras.layers.Layer):
    """A learned routing token and a small MLP: one logit a budget.

    The routing token stands after the prompt and runs through the decoder
    layers below the first optional self-attention layer as a text token; this
    layer then maps its state to logits: RMSNorm, Dense, exact GELU, Dense.
    Follows section "Training and routing" of VISOR (arXiv 2603.23495).

    Args:
        num_budgets: int. Number of budgets, from cheapest to dearest.
        hidden_dim: int. Width of the MLP's hidden layer.
        rule: `"argmax"`, the budget with the largest logit, or
            `"tolerance"`: `sigmoid(logit)` is the probability that a budget
            answers right, and the cheapest budget whose probability is at
            least the last budget's less `tolerance` is chosen. Defaults to
            `"argmax"`.
        tolerance: float. See `rule`. Defaults to `0.0`.
        layer_norm_epsilon: float. Epsilon of the norm. Defaults to `1e-6`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: No such rule, or a tolerance below 0.

    Call arguments:
        routing_state: Tensor (batch, hidden_dim of the decoder).

    Returns:
        Logits, a tensor (batch, num_budgets).

    Example:
    ```python
    policy = keras_visor.layers.BudgetPolicy(num_budgets=3, hidden_dim=16)
    logits = policy(np.random.uniform(size=(2, 32)))
    budgets = policy.choose(logits)
    ```
    """

    def __init__(
        self,
        num_budgets: int,
        hidden_dim: int,
        rule: str = "argmax",
        tolerance: float = 0.0,
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_rule(rule, tolerance)
        self.num_budgets = num_budgets
        self.hidden_dim = hidden_dim
        self.rule = rule
        self.tolerance = tolerance
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, routing_state_shape):
        width = routing_state_shape[-1]
        self.routing_token = self.add_weight(
            shape=(width,), initializer="random_normal", name="routing_token"
        )
        self.norm = keras.layers.RMSNormalization(
            epsilon=self.layer_norm_epsilon,
            dtype=self.dtype_policy,
            name="norm",
        )
        self.hidden_dense = keras.layers.Dense(
            self.hidden_dim, dtype=self.dtype_policy, name="hidden_dense"
        )
        self.output_dense = keras.layers.Dense(
            self.num_budgets, dtype=self.dtype_policy, name="output_dense"
        )
        self.norm.build((None, width))
        self.hidden_dense.build((None, width))
        self.output_dense.build((None, self.hidden_dim))
        self.built = True

    def call(self, routing_state):
        hidden = self.hidden_dense(self.norm(routing_state))
        return self.output_dense(ops.gelu(hidden, approximate=False))

    def tokens(self, batch_size):
        """The routing token of every sample, (batch, 1, hidden_dim)."""
        token = ops.cast(self.routing_token, self.compute_dtype)
        return ops.tile(token[None, None], (batch_size, 1, 1))

    def choose(self, logits):
        """The budgets, int32 (batch,), that `rule` picks from the logits."""
        if self.rule == "argmax":
            return ops.cast(ops.argmax(logits, axis=-1), "int32")
        right = ops.sigmoid(ops.cast(logits, "float32"))
        good_enough = right >= right[:, -1:] - self.tolerance
        # The first True: argmax of a bool takes the first of equals.
        return ops.cast(
            ops.argmax(ops.cast(good_enough, "int32"), axis=-1), "int32"
        )

    def compute_output_spec(self, routing_state):
        return keras.KerasTensor(
            (routing_state.shape[0], self.num_budgets),
            dtype=self.compute_dtype,
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "num_budgets": self.num_budgets,
                "hidden_dim": self.hidden_dim,
                "rule": self.rule,
                "tolerance": self.tolerance,
                "layer_norm_epsilon": self.layer_norm_epsilon,
            }
        )
        return config


def check_rule(rule: str, tolerance: float = 0.0) -> None:
    """Raise a `ValueError` for no such rule, or a tolerance below 0."""
    if rule not in RULES:
        raise ValueError(
            f"`rule` must be one of {RULES}. Received: rule={rule!r}"
        )
    if not tolerance >= 0:
        raise ValueError(
            f"`tolerance` must be 0 or more. Received: tolerance={tolerance}"
        )
