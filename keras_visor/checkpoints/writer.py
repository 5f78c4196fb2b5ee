"""Writing a model as a LLaVA-OneVision directory, in the hub's spelling."""

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from keras_visor.checkpoints.json_files import read_json
from keras_visor.checkpoints.llava_onevision import LAYOUT_KEYS
from keras_visor.checkpoints.name_map import siglip_layers
from keras_visor.checkpoints.name_map import weight_map
from keras_visor.checkpoints.reader import INDEX_FILE
from keras_visor.checkpoints.reader import WEIGHTS_FILE
from keras_visor.checkpoints.safetensors_file import DTYPES
from keras_visor.preprocessing.chat_template import JINJA_TEMPLATE

POST_NORM = "vision_tower.vision_model.post_layernorm"


def export(
    lm: Any, directory: str | os.PathLike, max_shard_size: float = 5
) -> None:
    """Write a VISOR as a checkpoint that `transformers` loads as its base.

    The directory holds config.json (with a "visor_config", unless the model
    is dense), the weights, tokenizer and preprocessor files. `transformers`
    ignores the "visor_config" and the `visor.*` tensors and loads the plain
    base model. Weights keep the type of their variables; LoRA is merged in.

    Everything is written to a temporary directory beside it and moved into
    place at the end, config.json last, so that an export that breaks off
    leaves nothing that loads.

    Args:
        lm: `VisorCausalLM`. The model, with its preprocessor.
        directory: str or path. Where to write. A checkpoint that is there is
            overwritten; other files stay.
        max_shard_size: int or float. Gigabytes of weights above which they
            are split over several files. Memory holds a copy of one file's
            weights at a time. Defaults to `5`.

    Raises:
        ValueError: The vision encoder is not SigLIP, the model is quantized
            or has no preprocessor, or the directory holds another model.

    Example:
    ```python
    import transformers

    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    keras_visor.checkpoints.export(lm, "visor_tiny")
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        "visor_tiny"
    )
    ```
    """
    directory = os.path.abspath(os.fspath(directory))
    _check(lm, directory)
    backbone = lm.backbone
    converter = lm.preprocessor.image_converter
    definition = lm.preprocessor.tokenizer.definition
    tensors = _tensors(backbone)
    token_ids = _token_ids(definition)

    os.makedirs(os.path.dirname(directory), exist_ok=True)
    staging = tempfile.mkdtemp(
        prefix=f".{os.path.basename(directory)}-",
        dir=os.path.dirname(directory),
    )
    try:
        _write_weights(staging, tensors, max_shard_size)
        _write_text(staging, "tokenizer.json", definition)
        _write_text(staging, "chat_template.jinja", JINJA_TEMPLATE)
        for name, content in {
            # Older versions of `transformers` look for the template here.
            "chat_template.json": {"chat_template": JINJA_TEMPLATE},
            "tokenizer_config.json": _tokenizer_config(token_ids),
            "generation_config.json": _generation_config(token_ids),
            "preprocessor_config.json": _preprocessor_config(converter),
            "processor_config.json": _processor_config(converter),
            "config.json": _config(backbone, converter, token_ids),
        }.items():
            _write_text(staging, name, json.dumps(content, indent=2))
        _move(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(lm, directory):
    if lm.preprocessor is None:
        raise ValueError(
            "`lm` must have a preprocessor, whose tokenizer and image "
            "converter a checkpoint holds. Received: lm.preprocessor=None"
        )
    _, blocks = siglip_layers(lm.backbone.vision_tower.encoder)
    if blocks[0].intermediate_activation != "gelu_approximate":
        raise ValueError(
            "`lm` must have a vision encoder with "
            'intermediate_activation="gelu_approximate", as SigLIP has. '
            f"Received: {blocks[0].intermediate_activation!r}"
        )
    quantized = [
        layer.path
        for layer in lm.backbone._flatten_layers()
        if getattr(layer, "quantization_mode", None) is not None
    ]
    if quantized:
        raise ValueError(
            "`lm` must not be quantized: the format holds floating-point "
            f"weights. Received quantized layers: {quantized}"
        )
    if not os.path.isdir(directory):
        return
    config = read_json(directory, "config.json") or {}
    if config.get("model_type", "llava_onevision") != "llava_onevision" or (
        "registered_name" in config
    ):
        raise ValueError(
            "`directory` must not hold another kind of model. Received: "
            f"{directory!r}, whose config.json has model_type="
            f"{config.get('model_type')!r}"
        )


def _move(staging, directory):
    """Move the files into place, last config.json, without which none loads."""
    names = sorted(os.listdir(staging), key=lambda name: name == "config.json")
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        if name == "config.json" or _is_weights(name):
            os.remove(os.path.join(directory, name))
    for name in names:
        os.replace(os.path.join(staging, name), os.path.join(directory, name))


def _is_weights(name):
    """A weight file of an export, which may have had more shards."""
    return name == INDEX_FILE or bool(
        re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", name)
    )


def _write_text(directory, name, text):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(text)


# === Weights ===


class _Tensor(NamedTuple):
    """A tensor to write: `load` gives its array when its file's turn comes."""

    name: str
    nbytes: int
    load: Callable[[], np.ndarray]


def _tensors(backbone) -> list[_Tensor]:
    tensors = [
        _Tensor(
            weight.name,
            math.prod(weight.shape) * _item_size(weight.variable.dtype),
            lambda weight=weight: weight.to_torch(
                keras.ops.convert_to_numpy(weight.variable)
            ),
        )
        for weight in weight_map(backbone)
    ]
    width = siglip_layers(backbone.vision_tower.encoder)[0].hidden_dim
    # `transformers` wants the norm, though LLaVA-OneVision never applies it.
    spare = {
        f"{POST_NORM}.weight": np.ones(width, "float32"),
        f"{POST_NORM}.bias": np.zeros(width, "float32"),
        **getattr(backbone, "spare_tensors", {}),
    }
    tensors += [
        _Tensor(name, array.nbytes, lambda array=array: array)
        for name, array in spare.items()
    ]
    return sorted(tensors, key=lambda tensor: tensor.name)


def _item_size(dtype):
    name = keras.backend.standardize_dtype(dtype)
    if name not in DTYPES.values():
        raise ValueError(
            "The weights of `lm` must be float32, float16 or bfloat16. "
            f"Received: {name}"
        )
    return np.dtype(name).itemsize


def _write_weights(directory, tensors, max_shard_size):
    shards = [[]]
    for tensor in tensors:
        size = sum(other.nbytes for other in shards[-1]) + tensor.nbytes
        if shards[-1] and size > max_shard_size * 10**9:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write_shard(os.path.join(directory, WEIGHTS_FILE), tensors)
        return
    shard_of = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(os.path.join(directory, name), shard)
        shard_of.update((tensor.name, name) for tensor in shard)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
        "weight_map": shard_of,
    }
    _write_text(directory, INDEX_FILE, json.dumps(index, indent=2))


def _write_shard(path, tensors):
    # What is transposed would be written as it lies in memory.
    arrays = {
        tensor.name: np.ascontiguousarray(tensor.load()) for tensor in tensors
    }
    # The format is what `transformers` looks for before it reads a tensor.
    save_file(arrays, path, metadata={"format": "pt"})


# === Configuration ===


def _config(backbone, converter, token_ids):
    dtype = keras.backend.standardize_dtype(
        backbone.token_embedding.embeddings.dtype
    )
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "dtype": dtype,
        "image_token_index": token_ids["<image>"],
        "image_grid_pinpoints": _pairs(converter),
        "vision_aspect_ratio": f"anyres_max_{converter.max_tiles}",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": backbone.tie_word_embeddings,
        "text_config": {
            "model_type": "qwen2",
            "dtype": dtype,
            "vocab_size": backbone.vocabulary_size,
            "hidden_size": backbone.hidden_dim,
            "intermediate_size": backbone.intermediate_dim,
            "num_hidden_layers": backbone.num_layers,
            "num_attention_heads": backbone.num_query_heads,
            "num_key_value_heads": backbone.num_key_value_heads,
            "hidden_act": "silu",
            "rms_norm_eps": backbone.layer_norm_epsilon,
            # Both spellings, for older versions and newer ones.
            "rope_theta": backbone.rope_max_wavelength,
            "rope_parameters": {
                "rope_theta": backbone.rope_max_wavelength,
                "rope_type": "default",
            },
            "tie_word_embeddings": backbone.tie_word_embeddings,
            "use_sliding_window": False,
            **_generation_config(token_ids),
        },
        "vision_config": _vision_config(backbone, dtype),
    }
    if "<video>" in token_ids:
        config["video_token_index"] = token_ids["<video>"]
    every_layer = list(range(backbone.num_layers))
    if (
        backbone.cross_attention_layers
        or backbone.budgets != [every_layer]
        or backbone.policy is not None
    ):
        config["visor_config"] = {
            key: getattr(backbone, key) for key in LAYOUT_KEYS
        }
    return config


def _vision_config(backbone, dtype):
    embedding, blocks = siglip_layers(backbone.vision_tower.encoder)
    spare = getattr(backbone, "spare_tensors", {})
    return {
        "model_type": "siglip_vision_model",
        "dtype": dtype,
        "hidden_size": embedding.hidden_dim,
        "image_size": embedding.image_size,
        "patch_size": embedding.patch_size,
        "num_channels": 3,
        "intermediate_size": blocks[0].intermediate_dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].num_heads,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": blocks[0].layer_norm_epsilon,
        "vision_use_head": any(
            name.startswith("vision_tower.vision_model.head.") for name in spare
        ),
    }


def _token_ids(definition):
    tokenizer = Tokenizer.from_str(definition)
    names = ("<image>", "<video>", "<|im_end|>", "<|endoftext|>")
    token_ids = {name: tokenizer.token_to_id(name) for name in names}
    if token_ids["<image>"] is None:
        raise ValueError("The tokenizer of `lm` must have the token `<image>`.")
    return {name: i for name, i in token_ids.items() if i is not None}


def _generation_config(token_ids):
    config = {}
    if "<|im_end|>" in token_ids:
        config["eos_token_id"] = token_ids["<|im_end|>"]
    if "<|endoftext|>" in token_ids:
        config["pad_token_id"] = token_ids["<|endoftext|>"]
    return config


def _tokenizer_config(token_ids):
    config = {
        # Takes tokenizer.json as it stands; `Qwen2Tokenizer` would put its
        # own splitting in place of the file's.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "processor_class": "LlavaOnevisionProcessor",
    }
    if "<|im_end|>" in token_ids:
        config["eos_token"] = "<|im_end|>"
    if "<|endoftext|>" in token_ids:
        config["pad_token"] = "<|endoftext|>"
    return config


def _preprocessor_config(converter):
    return {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": _pairs(converter),
        "image_mean": list(converter.image_mean),
        "image_std": list(converter.image_std),
        "resample": converter.resample,
        "rescale_factor": converter.rescale_factor,
        "size": {"height": converter.tile_size, "width": converter.tile_size},
    }


def _processor_config(converter):
    return {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": converter.patches_per_side**2,
        "vision_aspect_ratio": f"anyres_max_{converter.max_tiles}",
        "vision_feature_select_strategy": "full",
    }


def _pairs(converter):
    return [list(pair) for pair in converter.grid_pinpoints]
