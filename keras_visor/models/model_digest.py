"""A fingerprint of a model, by which stored answers know it."""

import hashlib
import json

import numpy as np
from keras import ops

from keras_visor.models.visor_causal_lm import VisorCausalLM

# What chooses among answers and does not change any.
_CHOOSING = ("budgets", "policy_hidden_dim", "policy_rule", "policy_tolerance")


def model_digest(lm: VisorCausalLM, with_policy: bool = True) -> str:
    """SHA-256 of what a model's answers depend on.

    Weights, configuration, tokenizer, image converter and reducer.

    Args:
        lm: `VisorCausalLM` with its preprocessor.
        with_policy: bool. Whether budgets and policy count; without them, an
            answer belongs to the layers that were on for it. Defaults to
            `True`.
    """
    backbone = lm.backbone
    config = backbone.get_config()
    policy = None
    if not with_policy:
        policy = backbone.policy
        config = {k: v for k, v in config.items() if k not in _CHOOSING}
    settings = {
        "backbone": config,
        "tokenizer": lm.preprocessor.tokenizer.definition,
        "image_converter": lm.preprocessor.image_converter.get_config(),
        "reducer": repr(lm.reducer),
    }
    text = json.dumps(_nameless(settings), sort_keys=True)
    digest = hashlib.sha256(text.encode())
    apart = {id(w) for w in policy.weights} if policy is not None else set()
    for weight in backbone.weights:
        if id(weight) not in apart:
            value = np.ascontiguousarray(ops.convert_to_numpy(weight))
            digest.update(str(value.shape).encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


def _nameless(value):
    """A configuration without what changes no answer.

    Keras counts names up in a process. A dtype's alone are what it says.
    """
    if isinstance(value, dict) and len(value) > 1:
        apart = ("name", "trainable")
        return {k: _nameless(v) for k, v in value.items() if k not in apart}
    if isinstance(value, dict):
        return {k: _nameless(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_nameless, value))
    return value
