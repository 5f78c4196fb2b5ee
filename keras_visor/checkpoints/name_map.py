"""Where each tensor of a checkpoint belongs in the backbone.

Canonical names are those of the hub's LLaVA-OneVision files; `visor.*` names
stand as they are. Kernels are stored transposed by PyTorch, and attention
heads folded into one axis.
"""

import re
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_visor._compat import SigLIPEncoderLayer
from keras_visor._compat import SigLIPVisionEmbedding

EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
CROSS_ATTENTION = "visor.cross_attention."
POLICY = "visor.policy."

# Tensors that hub files hold and the model has no use for, and why.
SPARE_TENSORS = {
    r"vision_tower\.vision_model\.post_layernorm\.(weight|bias)": (
        "LLaVA-OneVision takes the last layer's output before this norm"
    ),
    r"vision_tower\.vision_model\.head\..+": (
        "the pooling head, and LLaVA-OneVision does not pool"
    ),
    r"vision_tower\.vision_model\.embeddings\.position_ids": (
        "the numbers 0, 1, 2, ..."
    ),
    r"language_model\.model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": (
        "computed from rope_theta"
    ),
}


def canonical_name(name: str) -> str:
    """The hub's spelling of a tensor name.

    Args:
        name: str. The name in any spelling in use: with or without a leading
            `model.`, `language_model.layers` or `language_model.model.layers`,
            `vision_tower.` with or without `vision_model.`, `lm_head` with or
            without `language_model.`.

    Returns:
        A str. A name that is none of these comes back as it is.

    Example:
    ```python
    canonical_name("model.language_model.layers.0.mlp.up_proj.weight")
    # "language_model.model.layers.0.mlp.up_proj.weight"
    ```
    """
    bare = name.removeprefix("model.")
    part, _, rest = bare.partition(".")
    if part == "language_model":
        if rest.startswith(("model.", "lm_head.")):
            return bare
        return f"language_model.model.{rest}"
    if part == "vision_tower":
        return f"vision_tower.vision_model.{rest.removeprefix('vision_model.')}"
    if part == "lm_head":
        return f"language_model.{bare}"
    if part in ("multi_modal_projector", "image_newline"):
        return bare
    return name


def spare_reason(name: str) -> str | None:
    """Why the model has no use for a tensor, or None where it is not spare.

    Args:
        name: str. A canonical tensor name.
    """
    for pattern, reason in SPARE_TENSORS.items():
        if re.fullmatch(pattern, name):
            return reason
    return None


class Weight(NamedTuple):
    """One tensor of a checkpoint and its variable.

    The tensor, of `shape`, becomes the variable's value when its axes are
    split (heads from head width) and then permuted by `axes`.
    """

    name: str
    variable: Any
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def to_keras(self, tensor: np.ndarray) -> np.ndarray:
        """The variable's value; a view of `tensor`, nothing copied.

        A block of rows, with all rows of a head, gives a block of the value.
        """
        split = [0] * len(self.axes)
        for size, axis in zip(self.variable.shape, self.axes, strict=True):
            split[axis] = size
        split[0] = -1
        return tensor.reshape(split).transpose(self.axes)

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `to_keras`."""
        return value.transpose(np.argsort(self.axes)).reshape(self.shape)


def weight_map(backbone: Any) -> list[Weight]:
    """Every weight of a backbone, with its name in a checkpoint.

    Args:
        backbone: A built `VisorBackbone`.

    Returns:
        A list of `Weight`.

    Raises:
        ValueError: The vision encoder is not SigLIP, which is the only one
            that the format knows.
    """
    embedding = backbone.token_embedding
    weights = [_vector(EMBEDDING, embedding.embeddings)]
    if not embedding.tie_weights:
        weights.append(_kernel(HEAD, embedding.reverse_embeddings))
    for index, layer in enumerate(backbone.decoder_layers):
        weights += _decoder_layer(f"language_model.model.layers.{index}", layer)
    weights.append(
        _vector("language_model.model.norm.weight", backbone.final_norm.scale)
    )
    tower = backbone.vision_tower
    weights += _vision_encoder(tower.encoder)
    weights += _dense("multi_modal_projector.linear_1", tower.projector_in)
    weights += _dense("multi_modal_projector.linear_2", tower.projector_out)
    weights.append(_vector("image_newline", tower.image_newline))
    for index, layer in zip(
        backbone.cross_attention_layers, backbone.cross_attentions, strict=True
    ):
        weights += _cross_attention(f"{CROSS_ATTENTION}{index}", layer)
    if backbone.policy is not None:
        weights += _policy(backbone.policy)
    return weights


def base_name(name: str) -> str | None:
    """The base tensor that a new cross-attention's tensor starts from.

    Args:
        name: str. A name under `visor.cross_attention.`.

    Returns:
        A canonical name, or None for a tensor that starts from zero.
    """
    index, part = name.removeprefix(CROSS_ATTENTION).split(".", 1)
    layer = f"language_model.model.layers.{index}"
    if part in ("query_norm.weight", "key_value_norm.weight"):
        return f"{layer}.input_layernorm.weight"
    if part.startswith(("q_proj.", "k_proj.", "v_proj.")):
        return f"{layer}.self_attn.{part}"
    return None


def siglip_layers(encoder: Any) -> tuple[Any, list]:
    """The embedding and the blocks of a SigLIP encoder, in order.

    Args:
        encoder: `keras.Model`. The encoder of the vision tower.

    Returns:
        A tuple of the `SigLIPVisionEmbedding` and the list of
        `SigLIPEncoderLayer`.
    """
    embeddings = [
        layer
        for layer in encoder.layers
        if isinstance(layer, SigLIPVisionEmbedding)
    ]
    blocks = [
        layer
        for layer in encoder.layers
        if isinstance(layer, SigLIPEncoderLayer)
    ]
    others = sorted(
        type(layer).__name__
        for layer in encoder.layers
        if layer.weights and layer not in embeddings + blocks
    )
    if len(embeddings) != 1 or not blocks or others:
        raise ValueError(
            "LLaVA-OneVision checkpoints hold a SigLIP vision encoder, "
            "`keras_hub.models.SigLIPVisionEncoder`. Received an encoder with "
            f"the layers: {[type(layer).__name__ for layer in encoder.layers]}"
        )
    return embeddings[0], blocks


def _decoder_layer(name, layer):
    attention, mlp = f"{name}.self_attn", f"{name}.mlp"
    return [
        _vector(f"{name}.input_layernorm.weight", layer.input_norm.scale),
        *_to_heads(f"{attention}.q_proj", layer.query_dense),
        *_to_heads(f"{attention}.k_proj", layer.key_dense),
        *_to_heads(f"{attention}.v_proj", layer.value_dense),
        _from_heads(f"{attention}.o_proj", layer.output_dense),
        _vector(
            f"{name}.post_attention_layernorm.weight",
            layer.post_attention_norm.scale,
        ),
        _kernel(f"{mlp}.gate_proj.weight", layer.gate_dense.kernel),
        _kernel(f"{mlp}.up_proj.weight", layer.up_dense.kernel),
        _kernel(f"{mlp}.down_proj.weight", layer.down_dense.kernel),
    ]


def _vision_encoder(encoder):
    name = "vision_tower.vision_model"
    embedding, blocks = siglip_layers(encoder)
    patches = embedding.patch_embedding
    weights = [
        _convolution(f"{name}.embeddings.patch_embedding.weight", patches),
        _vector(f"{name}.embeddings.patch_embedding.bias", patches.bias),
        _vector(
            f"{name}.embeddings.position_embedding.weight",
            embedding.position_embedding.embeddings,
        ),
    ]
    for index, block in enumerate(blocks):
        layer = f"{name}.encoder.layers.{index}"
        attention = block.self_attn
        weights += [
            *_layer_norm(f"{layer}.layer_norm1", block.layer_norm1),
            *_to_heads(f"{layer}.self_attn.q_proj", attention.query_dense),
            *_to_heads(f"{layer}.self_attn.k_proj", attention.key_dense),
            *_to_heads(f"{layer}.self_attn.v_proj", attention.value_dense),
            _from_heads(f"{layer}.self_attn.out_proj", attention.output_dense),
            _vector(
                f"{layer}.self_attn.out_proj.bias", attention.output_dense.bias
            ),
            *_layer_norm(f"{layer}.layer_norm2", block.layer_norm2),
            *_dense(f"{layer}.mlp.fc1", block.mlp.fc1),
            *_dense(f"{layer}.mlp.fc2", block.mlp.fc2),
        ]
    return weights


def _cross_attention(name, layer):
    width, channels = layer.position_kernel.shape
    return [
        _vector(f"{name}.query_norm.weight", layer.query_norm.scale),
        _vector(f"{name}.key_value_norm.weight", layer.key_value_norm.scale),
        *_to_heads(f"{name}.q_proj", layer.query_dense),
        *_to_heads(f"{name}.k_proj", layer.key_dense),
        *_to_heads(f"{name}.v_proj", layer.value_dense),
        _from_heads(f"{name}.o_proj", layer.output_dense),
        Weight(
            f"{name}.position.weight",
            layer.position_kernel,
            (channels, 1, width),
            (1, 0),
        ),
        _vector(f"{name}.position.bias", layer.position_bias),
    ]


def _policy(policy):
    return [
        _vector(f"{POLICY}routing_token", policy.routing_token),
        _vector(f"{POLICY}norm.weight", policy.norm.scale),
        *_dense(f"{POLICY}fc1", policy.hidden_dense),
        *_dense(f"{POLICY}fc2", policy.output_dense),
    ]


def _vector(name, variable):
    """A norm's scale, a bias or an embedding: as it stands."""
    shape = tuple(variable.shape)
    return Weight(name, variable, shape, tuple(range(len(shape))))


def _kernel(name, variable):
    return Weight(name, variable, tuple(variable.shape[::-1]), (1, 0))


def _dense(name, layer):
    return [
        _kernel(f"{name}.weight", layer.kernel),
        _vector(f"{name}.bias", layer.bias),
    ]


def _layer_norm(name, layer):
    return [
        _vector(f"{name}.weight", layer.gamma),
        _vector(f"{name}.bias", layer.beta),
    ]


def _to_heads(name, layer):
    """Kernel (width, heads, head width) and bias (heads, head width)."""
    width, heads, head_width = layer.kernel.shape
    return [
        Weight(
            f"{name}.weight",
            layer.kernel,
            (heads * head_width, width),
            (2, 0, 1),
        ),
        Weight(f"{name}.bias", layer.bias, (heads * head_width,), (0, 1)),
    ]


def _from_heads(name, layer):
    """Kernel (heads, head width, width)."""
    heads, head_width, width = layer.kernel.shape
    return Weight(
        f"{name}.weight", layer.kernel, (width, heads * head_width), (1, 2, 0)
    )


def _convolution(name, layer):
    """Kernel (height, width, channels, filters)."""
    height, width, channels, filters = layer.kernel.shape
    return Weight(
        name,
        layer.kernel,
        (filters, channels, height, width),
        (2, 3, 1, 0),
    )
