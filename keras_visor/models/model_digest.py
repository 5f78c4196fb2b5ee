"""A fingerprint of a model's weights, by which stored answers know it."""

import hashlib

import numpy as np
from keras import ops

from keras_visor.models.visor_backbone import VisorBackbone


def weights_digest(backbone: VisorBackbone, with_policy: bool = True) -> str:
    """SHA-256 of the shapes and values of all weights.

    Args:
        backbone: `VisorBackbone`.
        with_policy: bool. Whether the policy's weights count. Defaults to
            `True`.
    """
    digest = hashlib.sha256()
    policy = None if with_policy else backbone.policy
    apart = {id(w) for w in policy.weights} if policy is not None else set()
    for weight in backbone.weights:
        if id(weight) not in apart:
            value = np.ascontiguousarray(ops.convert_to_numpy(weight))
            digest.update(str(value.shape).encode())
            digest.update(value.tobytes())
    return digest.hexdigest()
