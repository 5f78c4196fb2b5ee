"""Our models, loaded when first asked for, and their prefill."""

from functools import cached_property

import keras
import numpy as np

import keras_visor

POLICY_WIDTH = 256


class Models:
    """A VISOR, its dense self and `transformers`, of one checkpoint."""

    def __init__(self, directory: str, num_layers: int):
        self.directory = directory
        self.num_layers = num_layers

    @cached_property
    def visor(self):
        """The default layout, whose policy always takes the minimal budget.

        An untrained policy would take any one; the work is the same.
        """
        lm = keras_visor.VisorCausalLM.from_preset(
            self.directory,
            dtype="float32",
            policy_hidden_dim=POLICY_WIDTH,
            **keras_visor.uniform_layout(self.num_layers),
        )
        bias = np.zeros(len(self.visor_budgets), "float32")
        bias[0] = 1e3
        lm.backbone.policy.output_dense.bias.assign(bias)
        return lm

    @cached_property
    def dense(self):
        return keras_visor.VisorCausalLM.from_preset(
            self.directory, dtype="float32"
        )

    @cached_property
    def transformers(self):
        # Imported where it is wanted: it takes memory, and seconds.
        from peers import Transformers

        return Transformers(self.directory)

    @property
    def budgets(self) -> dict[str, int]:
        """The named budgets of the VISOR."""
        return {"minimal": 0, "two": 2, "full": len(self.visor_budgets) - 1}

    @property
    def visor_budgets(self) -> list[list[int]]:
        return keras_visor.uniform_layout(self.num_layers)["budgets"]

    def named(self, budget: str):
        """A model and an index into its budgets; "dense" is a budget here."""
        if budget == "dense":
            return self.dense, 0
        return self.visor, self.budgets[budget]

    def flops(
        self, text_length: int, vision_length: int, budget: str, reducer=None
    ) -> int:
        index = None if budget == "dense" else self.budgets[budget]
        return keras_visor.analysis.count_flops(
            self.visor.backbone, text_length, vision_length, index, reducer
        )


def prefill(lm, inputs: dict, budget: int, reducer=None):
    """Logits of the prompts' last position, NumPy (batch, vocabulary), and
    the cache."""
    generator = lm.make_generate_function()
    hidden_states, cache = generator.prefill(inputs, budget, reducer)
    logits = generator.programs.run(last_logits, hidden_states)
    return keras.ops.convert_to_numpy(logits), cache


def last_logits(lm, hidden_states):
    return lm.backbone.token_embedding(hidden_states, reverse=True)[:, -1]
