"""The same weights in another layout, with other budgets or a policy."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_visor.layers.budget_policy import check_rule
from keras_visor.layers.layout import complete_layout
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.training.checks import check_positive

NO_POLICY = {
    "policy_hidden_dim": None,
    "policy_rule": "argmax",
    "policy_tolerance": 0.0,
}


def with_budgets(
    lm: VisorCausalLM, budgets: Sequence[Sequence[int]]
) -> VisorCausalLM:
    """A copy of a model whose viable budgets are others.

    They are in the backbone's config, so that presets and exports hold them.
    A policy chose among the old ones, and is left behind.

    Args:
        lm: `VisorCausalLM`.
        budgets: list of lists of int. Subsets of the self-attention layers
            from the cheapest to the dearest.

    Returns:
        A `VisorCausalLM` with weights of its own, compiled afresh.

    Raises:
        ValueError: Budgets that the model cannot have.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm = keras_visor.training.with_budgets(lm, [[], [2, 6]])
    lm.backbone.budgets
    ```
    """
    return _rebuild(
        lm,
        budgets=[list(budget) for budget in budgets],
        **NO_POLICY,
    )


def with_layout(
    lm: VisorCausalLM,
    cross_attention_layers: Sequence[int],
    self_attention_layers: Sequence[int],
    budgets: Sequence[Sequence[int]] | None = None,
) -> VisorCausalLM:
    """A copy of a model in which other layers look at the image.

    A cross-attention that the model has not starts, as one of a checkpoint
    does, from the layer's own norm, queries, keys and values, where it has as
    many heads, and adds nothing until it is trained. A policy is left behind.

    Args:
        lm: `VisorCausalLM`, dense or a VISOR.
        cross_attention_layers: list of int. See `VisorBackbone`.
        self_attention_layers: list of int. See `VisorBackbone`.
        budgets: list of lists of int. Defaults to `None`: nested sets, see
            `VisorBackbone`.

    Returns:
        A `VisorCausalLM` with weights of its own, compiled afresh.

    Raises:
        ValueError: A layout that the model cannot have.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm = keras_visor.training.with_layout(
        lm, cross_attention_layers=[0, 3, 5, 7], self_attention_layers=[4, 6]
    )
    lm.backbone.budgets  # [[], [6], [4, 6]]
    ```
    """
    layout = complete_layout(
        lm.backbone.num_layers,
        cross_attention_layers,
        self_attention_layers,
        budgets,
    )
    return _rebuild(lm, **layout, **NO_POLICY)


def with_policy(
    lm: VisorCausalLM, hidden_dim: int | None = None
) -> VisorCausalLM:
    """A copy of a model with a new, untrained policy.

    Args:
        lm: `VisorCausalLM`. If it has a policy, the copy's replaces it.
        hidden_dim: int. Width of the policy's hidden layer. Defaults to
            `None`: a quarter of the decoder's.

    Returns:
        A `VisorCausalLM` with weights of its own, compiled afresh.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm = keras_visor.training.with_policy(lm, hidden_dim=32)
    lm.backbone.policy
    ```
    """
    if hidden_dim is None:
        hidden_dim = max(1, lm.backbone.hidden_dim // 4)
    check_positive(hidden_dim=hidden_dim)
    return _rebuild(
        lm,
        **(NO_POLICY | {"policy_hidden_dim": hidden_dim}),
    )


def set_policy_rule(
    lm: VisorCausalLM, rule: str, tolerance: float = 0.0
) -> None:
    """Change how a policy's logits choose a budget; nothing is trained.

    Args:
        lm: `VisorCausalLM` with a policy.
        rule: `"argmax"` or `"tolerance"`, see `BudgetPolicy`.
        tolerance: float. How much less likely than the full budget a cheaper
            one may be to answer right. The larger, the cheaper. Defaults to
            `0.0`.

    Raises:
        ValueError: No policy, no such rule, or a tolerance below 0.
    """
    backbone = lm.backbone
    if backbone.policy is None:
        raise ValueError(
            "`lm` must have a policy, see `train_policy`. Received a model "
            "with policy_hidden_dim=None."
        )
    check_rule(rule, tolerance)
    backbone.policy_rule = backbone.policy.rule = rule
    backbone.policy_tolerance = backbone.policy.tolerance = float(tolerance)


def _rebuild(lm, **changes):
    old = lm.backbone
    config = {**old.get_config(), **changes}
    # As an object it keeps its dtype; `from_config` may hand it ours.
    config["vision_encoder"] = keras.saving.deserialize_keras_object(
        config["vision_encoder"]
    )
    new = type(old).from_config(config)
    known = {layer.name: layer for layer in old.layers}
    for layer in new.layers:
        if layer is not new.policy and layer.name in known:
            _copy_weights(known[layer.name], layer)
    for index in new.cross_attention_layers:
        if index not in old.cross_attention_layers:
            _start_cross_attention(
                new.cross_attention_at(index), new.decoder_layers[index]
            )
    preprocessor = lm.preprocessor
    if preprocessor is not None:
        # One of its own: the number of budgets is kept there too.
        preprocessor = type(preprocessor)(
            tokenizer=preprocessor.tokenizer,
            image_converter=preprocessor.image_converter,
            sequence_length=preprocessor.sequence_length,
        )
    return type(lm)(new, preprocessor, reducer=lm.reducer)


def _start_cross_attention(attention, layer):
    """What a checkpoint's base gives it too: what the layer itself has."""
    heads = attention.num_heads, attention.num_key_value_heads
    if heads != (layer.num_query_heads, layer.num_key_value_heads):
        return
    for norm in (attention.query_norm, attention.key_value_norm):
        _copy_weights(layer.input_norm, norm)
    for name in ("query_dense", "key_dense", "value_dense"):
        _copy_weights(getattr(layer, name), getattr(attention, name))


def _copy_weights(old, new):
    if [w.shape for w in new.weights] != [w.shape for w in old.weights]:
        raise ValueError(
            "`lm` must have the weights that its config says. Received "
            f"{len(old.weights)} weights in {old.name} where "
            f"{len(new.weights)} belong: merge LoRA first, by saving the model "
            "and loading it."
        )
    for weight, value in zip(new.weights, old.weights, strict=True):
        # A copy: on JAX training gives up the buffers it starts from.
        weight.assign(np.array(ops.convert_to_numpy(value)))
