"""LLaVA-OneVision's configuration files, as keyword arguments.

A key that a hub file leaves out has the default of the `transformers` class
that reads it: `LlavaOnevisionConfig`, `Qwen2Config`, `SiglipVisionConfig` and
`LlavaOnevisionImageProcessor`, whose defaults are repeated here. Whatever the
model cannot compute is refused by name.
"""

import math
import re

from keras_visor.layers.budget_policy import RULES
from keras_visor.layers.layout import check_layout
from keras_visor.layers.layout import complete_layout

# `LlavaOnevisionConfig`.
DEFAULT_IMAGE_TOKEN_ID = 151646
DEFAULT_ASPECT_RATIO = "anyres_max_9"
DEFAULT_GRID_PINPOINTS = [
    [height, width]
    for height in range(384, 2305, 384)
    for width in range(384, 2305, 384)
]
# The vision encoder of a config without `vision_config`.
DEFAULT_VISION_CONFIG = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 14,
    "image_size": 384,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
}
# `LlavaOnevisionImageProcessor`; 3 is Pillow's bicubic filter.
DEFAULT_IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
DEFAULT_IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]
DEFAULT_RESAMPLE = 3

# Keyword arguments of `from_preset` that lay out a VISOR.
LAYOUT_KEYS = (
    "cross_attention_layers",
    "self_attention_layers",
    "budgets",
    "cross_attention_num_heads",
    "cross_attention_num_key_value_heads",
    "position_kernel_size",
    "policy_hidden_dim",
    "policy_rule",
    "policy_tolerance",
)
# Of these, what the shapes and places of a VISOR's weights depend on.
FIXED_KEYS = {
    "cross_attention_layers",
    "self_attention_layers",
    "cross_attention_num_heads",
    "cross_attention_num_key_value_heads",
    "position_kernel_size",
}


def backbone_kwargs(config: dict, **layout) -> dict:
    """The keyword arguments of `VisorBackbone`, but for encoder and dtype.

    Args:
        config: dict. The config.json of a LLaVA-OneVision or VISOR
            checkpoint. Without a "visor_config" it gives its dense self:
            every layer self-attention, one budget.
        **layout: Any of `LAYOUT_KEYS`. On a base checkpoint they turn it into
            a VISOR. On a VISOR checkpoint `budgets` and the policy may be
            replaced; the layers, which have weights, may not.

    Returns:
        A dict of keyword arguments.

    Raises:
        ValueError: The config describes another model, or the layout does not
            fit it. The message names the key, its value, and what is
            accepted.

    Example:
    ```python
    kwargs = backbone_kwargs(config, **uniform_layout(24))
    kwargs["num_query_heads"]  # 14
    ```
    """
    _check_top(config)
    layout = _as_lists(layout)
    text = _text_config(config)
    kwargs = {
        "vocabulary_size": _size(text, "vocab_size", 151936),
        "num_layers": _size(text, "num_hidden_layers", 32),
        "num_query_heads": _size(text, "num_attention_heads", 32),
        "hidden_dim": _size(text, "hidden_size", 4096),
        "intermediate_dim": _size(text, "intermediate_size", 22016),
        "rope_max_wavelength": _rope_theta(text),
        "layer_norm_epsilon": _positive(text, "rms_norm_eps", 1e-6),
        # `transformers` ties where either config says so.
        "tie_word_embeddings": bool(
            config.get("tie_word_embeddings", False)
            or text.get("tie_word_embeddings", False)
        ),
    }
    heads = kwargs["num_query_heads"]
    # An explicit null means as many as query heads; absent means 32.
    key_value_heads = text.get("num_key_value_heads", 32)
    kwargs["num_key_value_heads"] = (
        heads if key_value_heads is None else key_value_heads
    )
    _check_heads(text, kwargs)
    if "visor_config" in config:
        kwargs.update(_visor_layout(config["visor_config"], kwargs, layout))
    else:
        kwargs.update(_base_layout(kwargs, layout))
    return kwargs


def starts_new_policy(config: dict, **layout) -> bool:
    """Whether the policy starts at random instead of from the checkpoint.

    It does on a base checkpoint, and where `policy_hidden_dim` is given for
    other budgets, or for another width, than the checkpoint's policy has.
    """
    if "visor_config" not in config:
        return True
    saved, layout = config["visor_config"], _as_lists(layout)
    return "policy_hidden_dim" in layout and (
        layout["policy_hidden_dim"] != saved["policy_hidden_dim"]
        or layout.get("budgets", saved["budgets"]) != saved["budgets"]
    )


def vision_encoder_kwargs(config: dict) -> dict:
    """The keyword arguments of `keras_hub.models.SigLIPVisionEncoder`.

    Args:
        config: dict. The config.json of a LLaVA-OneVision checkpoint.

    Returns:
        A dict of keyword arguments, without the dtype.
    """
    _check_top(config)
    vision = _vision_config(config)
    _require(vision, "vision_config.hidden_act", "gelu_pytorch_tanh")
    _require(vision, "vision_config.num_channels", 3)
    image_size = _square(vision, "image_size", 224)
    patch_size = _square(vision, "patch_size", 16)
    if image_size < patch_size:
        raise ValueError(
            "`vision_config.image_size` must be at least "
            f"`vision_config.patch_size`. Received: {image_size} and "
            f"{patch_size}"
        )
    hidden_dim = _size(vision, "hidden_size", 768)
    num_heads = _size(vision, "num_attention_heads", 12)
    if hidden_dim % num_heads:
        raise ValueError(
            "`vision_config.hidden_size` must be a multiple of "
            f"`vision_config.num_attention_heads`. Received: {hidden_dim} and "
            f"{num_heads}"
        )
    return {
        "patch_size": patch_size,
        "hidden_dim": hidden_dim,
        "num_layers": _size(vision, "num_hidden_layers", 12),
        "num_heads": num_heads,
        "intermediate_dim": _size(vision, "intermediate_size", 3072),
        "layer_norm_epsilon": _positive(vision, "layer_norm_eps", 1e-6),
        "image_shape": (image_size, image_size, 3),
    }


def image_converter_kwargs(
    config: dict, preprocessor_config: dict | None = None
) -> dict:
    """The keyword arguments of `VisorImageConverter`.

    Args:
        config: dict. The config.json of a LLaVA-OneVision checkpoint.
        preprocessor_config: dict. Its preprocessor_config.json, or the
            "image_processor" of its processor_config.json. Defaults to
            `None`, all defaults of `LlavaOnevisionImageProcessor`.

    Returns:
        A dict of keyword arguments.

    Raises:
        ValueError: The two files disagree, or ask for what the converter
            does not do.
    """
    encoder = vision_encoder_kwargs(config)
    processor = preprocessor_config or {}
    tile_size = encoder["image_shape"][0]
    for key in ("do_resize", "do_rescale", "do_normalize"):
        _require(processor, f"preprocessor_config.{key}", True)
    if processor.get("do_center_crop"):
        raise ValueError(
            "`preprocessor_config.do_center_crop` must be false. Received: "
            f"{processor['do_center_crop']}"
        )
    size = processor.get("size", {"height": 384, "width": 384})
    if _tile_side(size) != tile_size:
        raise ValueError(
            "`preprocessor_config.size` must be a square of the vision "
            f"encoder's image size, {tile_size}. Received: {size}"
        )
    pinpoints = config.get("image_grid_pinpoints") or DEFAULT_GRID_PINPOINTS
    processor_pinpoints = (
        processor.get("image_grid_pinpoints") or DEFAULT_GRID_PINPOINTS
    )
    if _pairs(pinpoints) != _pairs(processor_pinpoints):
        raise ValueError(
            "`image_grid_pinpoints` must be the same in config.json and in "
            f"the image processor's file. Received: {pinpoints} and "
            f"{processor_pinpoints}"
        )
    return {
        "tile_size": tile_size,
        "patches_per_side": tile_size // encoder["patch_size"],
        "grid_pinpoints": _pairs(pinpoints),
        "max_tiles": _max_tiles(config),
        "image_mean": processor.get("image_mean", DEFAULT_IMAGE_MEAN),
        "image_std": processor.get("image_std", DEFAULT_IMAGE_STD),
        "rescale_factor": processor.get("rescale_factor", 1 / 255),
        "resample": processor.get("resample", DEFAULT_RESAMPLE),
    }


def image_token_id(config: dict) -> int:
    """The id of `<image>`, under either of the key's two spellings."""
    ids = {
        config[key]
        for key in ("image_token_index", "image_token_id")
        if config.get(key) is not None
    }
    if len(ids) > 1:
        raise ValueError(
            "`image_token_index` and `image_token_id` of config.json must "
            f"agree. Received: {sorted(ids, key=repr)}"
        )
    token_id = ids.pop() if ids else DEFAULT_IMAGE_TOKEN_ID
    if not _is_size(token_id):
        raise ValueError(
            "`image_token_index` must be a positive integer. Received: "
            f"{token_id!r}"
        )
    return token_id


# === The base model ===


def _check_top(config):
    _require(config, "model_type", "llava_onevision")
    _require(config, "projector_hidden_act", "gelu")
    _require(config, "multimodal_projector_bias", True)
    _require(config, "vision_feature_select_strategy", "full")
    layer = config.get("vision_feature_layer", -1)
    if layer not in (-1, [-1]):
        raise ValueError(
            "`vision_feature_layer` must be -1, the vision encoder's last "
            f"layer. Received: {layer}"
        )
    _max_tiles(config)


def _max_tiles(config):
    ratio = config.get("vision_aspect_ratio", DEFAULT_ASPECT_RATIO)
    match = re.fullmatch(r"anyres_max_([1-9]\d*)", str(ratio))
    if match is None:
        raise ValueError(
            "`vision_aspect_ratio` must be 'anyres_max_' and a number of "
            f"tiles. Received: {ratio!r}"
        )
    return int(match[1])


def _text_config(config):
    text = _object(config, "text_config")
    _require(text, "text_config.model_type", "qwen2")
    _require(text, "text_config.hidden_act", "silu")
    layer_types = text.get("layer_types") or ["full_attention"]
    if text.get("use_sliding_window") or not (
        isinstance(layer_types, list)
        and all(kind == "full_attention" for kind in layer_types)
    ):
        raise ValueError(
            "`text_config` must not use sliding-window attention. Received: "
            f"use_sliding_window={text.get('use_sliding_window')}, "
            f"layer_types={layer_types}"
        )
    return text


def _vision_config(config):
    if config.get("vision_config") is None:
        return DEFAULT_VISION_CONFIG
    vision = _object(config, "vision_config")
    _require(vision, "vision_config.model_type", "siglip_vision_model")
    return vision


def _check_heads(text, kwargs):
    hidden_dim, heads = kwargs["hidden_dim"], kwargs["num_query_heads"]
    key_value_heads = kwargs["num_key_value_heads"]
    if hidden_dim % heads or hidden_dim // heads % 2:
        raise ValueError(
            "`text_config.hidden_size` must be a multiple of "
            "`text_config.num_attention_heads`, and a head's width even. "
            f"Received: {hidden_dim} and {heads}"
        )
    if not _is_size(key_value_heads) or heads % key_value_heads:
        raise ValueError(
            "`text_config.num_key_value_heads` must divide "
            f"`text_config.num_attention_heads`. Received: {key_value_heads} "
            f"and {heads}"
        )
    head_dim = text.get("head_dim")
    if head_dim not in (None, hidden_dim // heads):
        raise ValueError(
            "`text_config.head_dim` must be `hidden_size` over "
            f"`num_attention_heads`, {hidden_dim // heads}. Received: "
            f"{head_dim}"
        )


def _rope_theta(text):
    # `transformers` reads an old file's `rope_scaling` as `rope_parameters`.
    rope = _object(text, "rope_scaling") or _object(text, "rope_parameters")
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    nested = any(isinstance(value, dict) for value in rope.values())
    if rope_type != "default" or nested:
        raise ValueError(
            "`text_config.rope_scaling` and `text_config.rope_parameters` "
            "must describe the default rotary embedding, without scaling. "
            f"Received: {rope}"
        )
    section = text if rope.get("rope_theta") is None else rope
    return float(_positive(section, "rope_theta", 10_000.0))


# === The VISOR layout ===


def _base_layout(kwargs, given):
    """A base checkpoint's layout: dense, but for what the caller gave."""
    _check_lists(given)
    layout = {
        **complete_layout(
            kwargs["num_layers"], *(given.get(key) for key in LAYOUT_KEYS[:3])
        ),
        "cross_attention_num_heads": kwargs["num_query_heads"],
        "cross_attention_num_key_value_heads": kwargs["num_key_value_heads"],
        "position_kernel_size": 7,
        "policy_hidden_dim": None,
        "policy_rule": "argmax",
        "policy_tolerance": 0.0,
    }
    for key in (
        "cross_attention_num_heads",
        "cross_attention_num_key_value_heads",
    ):
        if given.get(key, layout[key]) != layout[key]:
            raise ValueError(
                f"`{key}` must be the base model's own, {layout[key]}: a new "
                "cross-attention starts from the weights of the base model's "
                f"self-attention. Received: {given[key]}"
            )
    layout.update(given)
    _check_visor(layout, kwargs)
    return layout


def _visor_layout(saved, kwargs, given):
    """A VISOR checkpoint's layout, with the caller's budgets and policy."""
    optional = {"policy_rule": "argmax", "policy_tolerance": 0.0}
    if not isinstance(saved, dict):
        raise ValueError(
            f"`visor_config` must be a JSON object. Received: {saved!r}"
        )
    unknown = sorted(saved.keys() - set(LAYOUT_KEYS))
    missing = sorted(set(LAYOUT_KEYS) - saved.keys() - optional.keys())
    if unknown or missing:
        raise ValueError(
            f"`visor_config` must have the keys {list(LAYOUT_KEYS)}, where "
            f"{list(optional)} may be absent. Unknown: {unknown}; missing: "
            f"{missing}"
        )
    layout = {**optional, **saved}
    _check_visor(layout, kwargs)
    for key in FIXED_KEYS & given.keys():
        if given[key] != saved[key]:
            raise ValueError(
                f"`{key}` must be what the checkpoint's weights were made "
                f"for, {saved[key]}. Received: {given[key]}"
            )
    if (
        layout["policy_hidden_dim"] is not None
        and given.get("budgets", saved["budgets"]) != saved["budgets"]
        and "policy_hidden_dim" not in given
    ):
        raise ValueError(
            "The checkpoint's policy chooses among its own budgets, "
            f"{saved['budgets']}. With other `budgets`, pass "
            "`policy_hidden_dim` too: a width to start a new policy, or None "
            f"to go without. Received: budgets={given['budgets']}"
        )
    layout.update(given)
    _check_visor(layout, kwargs)
    return layout


def _check_lists(layout):
    for key in LAYOUT_KEYS[:3]:
        value = layout.get(key, [])
        lists = value if key == "budgets" else [value]
        if not isinstance(lists, list) or not all(
            isinstance(layers, list) for layers in lists
        ):
            kind = "a list of lists" if key == "budgets" else "a list"
            raise ValueError(
                f"`{key}` must be {kind} of layer indices. Received: {value!r}"
            )


def _check_visor(layout, kwargs):
    _check_lists(layout)
    check_layout(
        kwargs["num_layers"], *(layout[key] for key in LAYOUT_KEYS[:3])
    )
    heads = layout["cross_attention_num_heads"]
    key_value_heads = layout["cross_attention_num_key_value_heads"]
    if not _is_size(heads) or kwargs["hidden_dim"] % heads:
        raise ValueError(
            "`cross_attention_num_heads` must divide the hidden size, "
            f"{kwargs['hidden_dim']}. Received: {heads}"
        )
    if not _is_size(key_value_heads) or heads % key_value_heads:
        raise ValueError(
            "`cross_attention_num_key_value_heads` must divide "
            f"`cross_attention_num_heads`, {heads}. Received: "
            f"{key_value_heads}"
        )
    kernel = layout["position_kernel_size"]
    if not _is_size(kernel) or kernel % 2 == 0:
        raise ValueError(
            "`position_kernel_size` must be an odd positive integer. "
            f"Received: {kernel}"
        )
    width = layout["policy_hidden_dim"]
    if width is not None and not _is_size(width):
        raise ValueError(
            "`policy_hidden_dim` must be a positive integer, or null for no "
            f"policy. Received: {width}"
        )
    if layout["policy_rule"] not in RULES:
        raise ValueError(
            f"`policy_rule` must be one of {RULES}. Received: "
            f"{layout['policy_rule']!r}"
        )
    tolerance = layout["policy_tolerance"]
    if not (_is_number(tolerance) and tolerance >= 0):
        raise ValueError(
            "`policy_tolerance` must be a number that is not negative. "
            f"Received: {tolerance!r}"
        )


# === Values ===


def _require(section, key, value):
    """`key` may be dotted; its last part is looked up in `section`."""
    received = section.get(key.rpartition(".")[2], value)
    if received != value:
        raise ValueError(f"`{key}` must be {value!r}. Received: {received!r}")


def _object(section, key):
    """What `key` holds, empty where it is absent or null."""
    value = section.get(key)
    if not isinstance(value, (dict, type(None))):
        raise ValueError(f"`{key}` must be a JSON object. Received: {value!r}")
    return value or {}


def _is_number(value):
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _positive(section, key, default):
    value = section.get(key, default)
    if not (_is_number(value) and value > 0):
        raise ValueError(
            f"`{key}` must be a positive number. Received: {value!r}"
        )
    return value


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(section, key, default):
    value = section.get(key, default)
    if not _is_size(value):
        raise ValueError(
            f"`{key}` must be a positive integer. Received: {value!r}"
        )
    return value


def _square(section, key, default):
    """A side; the file may hold the side or both."""
    value = section.get(key, default)
    sides = value if isinstance(value, (list, tuple)) else [value]
    if not all(map(_is_size, sides)) or len(set(sides)) != 1:
        raise ValueError(
            f"`vision_config.{key}` must be one positive integer, or two "
            f"equal ones. Received: {value!r}"
        )
    return sides[0]


def _tile_side(size):
    """The side of a square `size` of the image processor, or None."""
    if not isinstance(size, dict):
        return size
    if "height" in size or "width" in size:
        height, width = size.get("height"), size.get("width")
        return height if height == width else None
    return size.get("shortest_edge")


def _pairs(pinpoints):
    return [list(pair) for pair in pinpoints]


def _as_lists(value):
    """Tuples as lists, so that a caller's layout compares with a file's."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    return value
