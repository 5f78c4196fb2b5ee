"""A checkpoint of LLaVA-OneVision 0.5B's real shape, with random weights."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers

TILE_SIZE = 384
TEXT = {
    "model_type": "qwen2",
    "vocab_size": 152_000,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "image_size": TILE_SIZE,
    "patch_size": 14,
    "vision_use_head": False,
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")


def write_checkpoint(
    directory: Path, text: dict = TEXT, vision: dict = VISION
) -> None:
    """Write a checkpoint that `from_preset` and `transformers` load.

    Args:
        directory: Path. An empty directory.
        text: dict. The config of the language model. Defaults to the real
            one.
        vision: dict. The config of the vision encoder. Defaults to the real
            one.
    """
    tokenizer = byte_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    tile_size = vision["image_size"]
    sides = range(tile_size, 6 * tile_size + 1, tile_size)
    pinpoints = [[height, width] for height in sides for width in sides]
    config = {
        "model_type": "llava_onevision",
        "image_token_index": tokenizer.token_to_id("<image>"),
        "image_grid_pinpoints": pinpoints,
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "text_config": text,
        "vision_config": vision,
    }
    processor = {
        "image_grid_pinpoints": pinpoints,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": tile_size, "width": tile_size},
    }
    write_json(directory / "config.json", config)
    write_json(directory / "preprocessor_config.json", processor)

    rng = np.random.default_rng(0)
    shard_of = {}
    all_shapes = (text_shapes(text), vision_shapes(text, vision))
    for number, shapes in enumerate(all_shapes, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        tensors = {name: draw(rng, name, shapes[name]) for name in shapes}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        shard_of |= dict.fromkeys(shapes, file)
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": shard_of},
    )


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def draw(rng, name, shape):
    if "norm" in name and name.endswith("weight"):
        return np.ones(shape, ml_dtypes.bfloat16)
    values = rng.standard_normal(shape, "float32")
    values *= 0.02
    return values.astype(ml_dtypes.bfloat16)


def text_shapes(text) -> dict[str, tuple[int, ...]]:
    width, wide = text["hidden_size"], text["intermediate_size"]
    narrow = width // text["num_attention_heads"] * text["num_key_value_heads"]
    model = "language_model.model"
    shapes = {f"{model}.embed_tokens.weight": (text["vocab_size"], width)}
    for index in range(text["num_hidden_layers"]):
        layer = f"{model}.layers.{index}"
        attention = f"{layer}.self_attn"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            **linear(f"{attention}.q_proj", width, width),
            **linear(f"{attention}.k_proj", narrow, width),
            **linear(f"{attention}.v_proj", narrow, width),
            f"{attention}.o_proj.weight": (width, width),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.mlp.gate_proj.weight": (wide, width),
            f"{layer}.mlp.up_proj.weight": (wide, width),
            f"{layer}.mlp.down_proj.weight": (width, wide),
        }
    return shapes | {f"{model}.norm.weight": (width,)}


def vision_shapes(text, vision) -> dict[str, tuple[int, ...]]:
    """The vision encoder, the projector and the newline."""
    width, wide = vision["hidden_size"], vision["intermediate_size"]
    patch, text_width = vision["patch_size"], text["hidden_size"]
    model = "vision_tower.vision_model"
    shapes = {
        f"{model}.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{model}.embeddings.patch_embedding.bias": (width,),
        f"{model}.embeddings.position_embedding.weight": (
            (vision["image_size"] // patch) ** 2,
            width,
        ),
        **norm(f"{model}.post_layernorm", width),
        **linear("multi_modal_projector.linear_1", text_width, width),
        **linear("multi_modal_projector.linear_2", text_width, text_width),
        "image_newline": (text_width,),
    }
    for index in range(vision["num_hidden_layers"]):
        layer = f"{model}.encoder.layers.{index}"
        shapes |= {
            **norm(f"{layer}.layer_norm1", width),
            **norm(f"{layer}.layer_norm2", width),
            **linear(f"{layer}.mlp.fc1", wide, width),
            **linear(f"{layer}.mlp.fc2", width, wide),
        }
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}", width, width)
    return shapes


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
