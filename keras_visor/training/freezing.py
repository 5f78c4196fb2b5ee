"""Which parts of a model train, and how fast: the stages of VISOR."""

import contextlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras

from keras_visor.models.visor_causal_lm import VisorCausalLM

PARTS = (
    "projector",
    "vision_encoder",
    "token_embedding",
    "cross_attention",
    "decoder",
    "policy",
)


def train_only(lm: VisorCausalLM, parts: Iterable[str]) -> None:
    """Freeze a model but for some of its parts.

    Compile the model afterwards: an optimizer holds the state of what was
    trainable when it was built.

    Args:
        lm: `VisorCausalLM`.
        parts: iterable of strings among `"vision_encoder"`, `"projector"`
            (with the image newline), `"token_embedding"` (with the head),
            `"cross_attention"`, `"decoder"` (with the final norm) and
            `"policy"`.

    Raises:
        ValueError: An unknown part.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    keras_visor.training.train_only(lm, ["decoder", "cross_attention"])
    lm.compile(keras.optimizers.AdamW(1e-5, weight_decay=0.0))
    ```
    """
    parts = [parts] if isinstance(parts, str) else list(parts)
    _check_parts("parts", parts)
    for name, layers in _layers_by_part(lm).items():
        for layer in layers:
            layer.trainable = name in parts


@contextlib.contextmanager
def training_only(lm: VisorCausalLM, parts: Iterable[str]) -> Iterator[None]:
    """`train_only` for a while; what was frozen before is so again after."""
    layers = [layer for each in _layers_by_part(lm).values() for layer in each]
    # LoRA freezes single variables of a layer that trains.
    before = [(one, one.trainable) for one in (*layers, *lm.variables)]
    train_only(lm, parts)
    try:
        yield
    finally:
        for one, trainable in before:
            one.trainable = trainable


def freeze_base(lm: VisorCausalLM) -> None:
    """Stage 1: freeze all but the new cross-attention.

    Follows section "Training" of VISOR (arXiv 2603.23495): the first stage
    freezes the base model and trains the cross-attention at the maximal
    configuration, which is the budget of samples without a `budget` column.

    Args:
        lm: `VisorCausalLM`.

    Raises:
        ValueError: The model has no cross-attention.
    """
    if not lm.backbone.cross_attention_layers:
        raise ValueError(
            "`lm` must have cross-attention to train. Received a model with "
            "cross_attention_layers=[]; see `keras_visor.uniform_layout`."
        )
    train_only(lm, ["cross_attention"])


def unfreeze(lm: VisorCausalLM) -> None:
    """Stage 2: train everything but the policy, which has a loss of its own.

    Follows section "Training" of VISOR (arXiv 2603.23495).

    Args:
        lm: `VisorCausalLM`.
    """
    train_only(lm, [part for part in PARTS if part != "policy"])


def adamw(
    lm: VisorCausalLM,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    part_learning_rates: dict[str, Any] | None = None,
    **kwargs,
) -> keras.optimizers.Optimizer:
    """AdamW without weight decay, with learning rates of parts.

    Follows section "Training" of VISOR (arXiv 2603.23495).

    Args:
        lm: `VisorCausalLM`. Its variables are told apart by part.
        learning_rate: float or `LearningRateSchedule`.
        part_learning_rates: dict from a part, see `train_only`, to its
            learning rate or schedule. Defaults to `None`: one for all.
        **kwargs: Other arguments of `keras.optimizers.AdamW`. A norm to clip
            at is each part's own.

    Returns:
        `keras.optimizers.AdamW`, or a `keras.optimizers.MultiOptimizer` of
        several.

    Raises:
        ValueError: An unknown part.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    keras_visor.training.unfreeze(lm)
    lm.compile(
        keras_visor.training.adamw(lm, 1e-5, {"vision_encoder": 2e-6})
    )
    ```
    """
    part_learning_rates = part_learning_rates or {}
    _check_parts("part_learning_rates", part_learning_rates)
    kwargs = {"weight_decay": 0.0, **kwargs}

    def make(rate):
        return keras.optimizers.AdamW(rate, **kwargs)

    rest = make(learning_rate)
    if not part_learning_rates:
        return rest
    by_part = {part: make(rate) for part, rate in part_learning_rates.items()}
    # The later part wins: the encoder is within the vision tower.
    by_variable = {
        id(variable): by_part.get(part, rest)
        for part, layers in _layers_by_part(lm).items()
        for layer in layers
        for variable in layer.variables
    }
    return keras.optimizers.MultiOptimizer(lambda v: by_variable[id(v)])


def _layers_by_part(lm):
    """All layers that have weights, from the outermost inwards."""
    backbone = lm.backbone
    return {
        # Has the encoder within it, which therefore comes after it.
        "projector": [backbone.vision_tower],
        "vision_encoder": [backbone.vision_tower.encoder],
        "token_embedding": [backbone.token_embedding],
        "cross_attention": backbone.cross_attentions,
        "decoder": [*backbone.decoder_layers, backbone.final_norm],
        "policy": [backbone.policy] if backbone.policy else [],
    }


def _check_parts(name, parts):
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"`{name}` must be among {PARTS}. Received: {unknown}")
