"""Tiny random Hugging Face LLaVA-OneVision directories, plain and VISOR.

Every tensor is drawn from its own seed, made of `seed` and its name. So two
checkpoints of one seed agree on every tensor that both have: a VISOR
checkpoint and its plain twin have the same base model, whatever the spelling
or the number of shards.
"""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers
from transformers import AutoTokenizer
from transformers import LlavaOnevisionConfig
from transformers import LlavaOnevisionForConditionalGeneration
from transformers import Qwen2Tokenizer
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (  # noqa: E501
    LlavaOnevisionImageProcessorPil,
)

SPELLINGS = ("hub", "new", "mixed")
DTYPES = ("float32", "float16", "bfloat16")

# In the order, and therefore with the ids, that the hub's tokenizer has them
# in: right after the vocabulary of the byte pairs.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<video>",
)
BYTE_PAIR_VOCABULARY_SIZE = 400
# As on the hub, the embedding has a few more rows than there are tokens.
VOCABULARY_SIZE = 416

# Away from the libraries' defaults, and large enough that a loader that
# doesn't read them is off by more than a test's tolerance.
RMS_NORM_EPSILON = 1e-3
LAYER_NORM_EPSILON = 1e-3

# The hub's template: the role, a space, the images, a line break, the text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] "
    "| selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] "
    "| selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# The merges are learned from this. The questions' ends, brackets, digits,
# contractions and blanks are where byte-level pre-tokenizers disagree.
CORPUS = (
    "user \nWhat is the colour of the largest shape in the image?\n",
    "assistant \nThe largest shape is a red circle. It's near the table.\n",
    "user \nHow many bars are there (and which is the longest one)?\n",
    "There are 12 bars; the longest is number 27, isn't it?\n",
    "Read the value in the second row of the table (a small one)!\n",
    "the value is 42.  The other   values are 17, 35 and 1024.\n\n",
    "max(a, b) is the larger, min(a, b) the smaller of (a, b).\n",
    "Is the blue square above the green triangle? yes, no, maybe\n",
    "Describe this picture. What's written on the sign, and where?\n",
    "图片里有什么? 图片里有一个红色的圆。 Où est la fenêtre? À gauche.\n",
)


class LlavaOnevisionProcessor(transformers.LlavaOnevisionProcessor):
    """transformers' own without its video processor, which needs torchvision.

    It keeps the name, which is written into the checkpoint.
    """

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]

    def check_argument_for_proper_class(self, name, value):
        pass


def default_visor_config(num_layers: int = 6, **overrides) -> dict:
    """Returns design.md's default layout as a `visor_config` dictionary.

    Cross-attention stands at 0, 3, 6 ..., self-attention at 1, 4, 7 ...; each
    budget adds one self-attention layer to the one before it, from above, so
    six layers have the budgets `[[], [4], [1, 4]]`. The heads are those of
    `make_checkpoint`'s defaults.

    Args:
        num_layers: int. Number of decoder layers. Defaults to `6`.
        **overrides: Entries that replace or join the default ones, such as
            `policy_rule="tolerance", policy_tolerance=0.1`.
    """
    self_attention_layers = list(range(1, num_layers, 3))
    return {
        "cross_attention_layers": list(range(0, num_layers, 3)),
        "self_attention_layers": self_attention_layers,
        "budgets": [
            self_attention_layers[count:]
            for count in range(len(self_attention_layers), -1, -1)
        ],
        "cross_attention_num_heads": 4,
        "cross_attention_num_key_value_heads": 2,
        "position_kernel_size": 7,
        "policy_hidden_dim": 16,
        **overrides,
    }


def make_checkpoint(
    directory,
    *,
    seed: int = 0,
    num_layers: int = 6,
    hidden_size: int = 32,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int = 48,
    tie_word_embeddings: bool = True,
    tile_size: int = 28,
    patch_size: int = 7,
    vision_hidden: int = 24,
    vision_layers: int = 2,
    grid_pinpoints: list | None = None,
    visor_config: dict | None = None,
    spelling: str = "hub",
    dtype: str = "float32",
    num_shards: int = 1,
    rope_theta: float = 1e6,
) -> Path:
    """Writes a random LLaVA-OneVision checkpoint and returns its directory.

    Args:
        directory: str or Path. Is created if need be.
        seed: int. Names the weights, see the module's docstring.
        grid_pinpoints: list of `[height, width]`, or None for the hub's grid:
            one to six tiles each way. Defaults to `None`.
        visor_config: dict or None. What config.json's `visor_config` will be;
            the `visor.*` tensors are drawn to suit. None leaves a plain
            LLaVA-OneVision. Defaults to `None`.
        spelling: str. How tensors, config keys and the preprocessor's files
            are written: `"hub"` as on the hub, `"new"` as a model of
            transformers 5 names its own, `"mixed"` both by turns. Defaults to
            `"hub"`.
        dtype: str. One of `"float32"`, `"float16"`, `"bfloat16"`. Defaults to
            `"float32"`.
        num_shards: int. More than 1 writes shards and their index. Defaults
            to `1`.
    """
    if spelling not in SPELLINGS:
        raise ValueError(f"spelling={spelling!r}: expected one of {SPELLINGS}.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {DTYPES}.")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if grid_pinpoints is None:
        sides = [tile_size * count for count in range(1, 7)]
        grid_pinpoints = [
            [height, width] for height in sides for width in sides
        ]

    tokenizer = _tokenizer()
    token_ids = {
        token: tokenizer.convert_tokens_to_ids(token)
        for token in SPECIAL_TOKENS
    }
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "ignore_index": -100,
        "image_grid_pinpoints": grid_pinpoints,
        "image_token_index": token_ids["<image>"],
        "model_type": "llava_onevision",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "bos_token_id": token_ids["<|endoftext|>"],
            "eos_token_id": token_ids["<|im_end|>"],
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "max_window_layers": num_layers,
            "model_type": "qwen2",
            "num_attention_heads": num_heads,
            "num_hidden_layers": num_layers,
            "num_key_value_heads": num_kv_heads,
            "rms_norm_eps": RMS_NORM_EPSILON,
            "rope_theta": rope_theta,
            "tie_word_embeddings": tie_word_embeddings,
            "torch_dtype": dtype,
            "use_sliding_window": False,
            "vocab_size": VOCABULARY_SIZE,
        },
        # The hub's 0.5B says false here, and true in its text_config.
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_image_newline_parameter": True,
        "video_token_index": token_ids["<video>"],
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {
            "hidden_size": vision_hidden,
            "image_size": tile_size,
            "intermediate_size": 2 * vision_hidden,
            "layer_norm_eps": LAYER_NORM_EPSILON,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": vision_layers,
            "patch_size": patch_size,
            "vision_use_head": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }

    # Its own copy: transformers changes the dictionaries it is handed.
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(**json.loads(json.dumps(config)))
    )
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if tie_word_embeddings:
        del shapes["lm_head.weight"]
    tensors = {
        spelled: _draw(name, shapes[name], seed)
        for name, spelled in _spell(sorted(shapes), spelling).items()
    }
    if visor_config is not None:
        for name, shape in _visor_shapes(visor_config, hidden_size).items():
            tensors[name] = _draw(name, shape, seed)
        config["visor_config"] = visor_config
    _write_tensors(directory, tensors, dtype, num_shards)

    _write_json(directory / "config.json", _respell_config(config, spelling))
    _write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": token_ids["<|endoftext|>"],
            "eos_token_id": [
                token_ids["<|im_end|>"],
                token_ids["<|endoftext|>"],
            ],
            "pad_token_id": token_ids["<|endoftext|>"],
        },
    )
    _write_tokenizer(directory, tokenizer, spelling)
    _write_preprocessor(directory, tokenizer, config, spelling)
    return directory


def tokenizer_of(directory):
    """Returns transformers' tokenizer of a checkpoint directory."""
    return AutoTokenizer.from_pretrained(directory)


# === Weights ===


def _draw(name, shape, seed):
    """Draws one tensor, at a scale at which every part of the model matters."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    normal = rng.standard_normal(shape).astype("float32")
    if name.endswith("bias"):
        scale = 0.3
    elif "norm" in name:
        return torch.from_numpy(1.0 + 0.3 * normal)
    elif "embed_tokens" in name or "lm_head" in name:
        # A greedy answer must not run into placeholders, nor into rows that
        # are no token: trained models do neither.
        normal[BYTE_PAIR_VOCABULARY_SIZE + 3 :] *= 0.05
        # Small beside what the layers add, which is large: else every token
        # of a model with tied embeddings predicts itself.
        scale = 0.2
    elif len(shape) == 1 or "position_embedding" in name:
        scale = 1.0
    else:
        large = (".q_proj", ".k_proj", ".o_proj", ".down_proj")
        gain = 2.0 if any(part in name for part in large) else 1.0
        scale = gain / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(scale * normal)


def _visor_shapes(visor_config, hidden_size):
    """Names and shapes of the `visor.*` tensors, as design.md lists them."""
    heads = visor_config["cross_attention_num_heads"]
    kv_heads = visor_config["cross_attention_num_key_value_heads"]
    kv_size = hidden_size // heads * kv_heads
    shapes = {}
    for layer in visor_config["cross_attention_layers"]:
        shapes |= {
            f"visor.cross_attention.{layer}.{name}": shape
            for name, shape in {
                "query_norm.weight": (hidden_size,),
                "key_value_norm.weight": (hidden_size,),
                "q_proj.weight": (hidden_size, hidden_size),
                "q_proj.bias": (hidden_size,),
                "k_proj.weight": (kv_size, hidden_size),
                "k_proj.bias": (kv_size,),
                "v_proj.weight": (kv_size, hidden_size),
                "v_proj.bias": (kv_size,),
                "o_proj.weight": (hidden_size, hidden_size),
                "position.weight": (
                    hidden_size,
                    1,
                    visor_config["position_kernel_size"],
                ),
                "position.bias": (hidden_size,),
            }.items()
        }
    policy_size = visor_config.get("policy_hidden_dim")
    if policy_size is not None:
        num_budgets = len(visor_config["budgets"])
        shapes |= {
            "visor.policy.routing_token": (hidden_size,),
            "visor.policy.norm.weight": (hidden_size,),
            "visor.policy.fc1.weight": (policy_size, hidden_size),
            "visor.policy.fc1.bias": (policy_size,),
            "visor.policy.fc2.weight": (num_budgets, policy_size),
            "visor.policy.fc2.bias": (num_budgets,),
        }
    return shapes


def _write_tensors(directory, tensors, dtype, num_shards):
    tensors = {
        name: tensor.to(getattr(torch, dtype)).contiguous()
        for name, tensor in sorted(tensors.items())
    }
    if num_shards == 1:
        path = directory / "model.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        return
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        # By turns, so that one layer's tensors lie in several shards.
        names = list(tensors)[shard::num_shards]
        weight_map |= dict.fromkeys(names, file)
        save_file(
            {name: tensors[name] for name in names},
            directory / file,
            metadata={"format": "pt"},
        )
    total_size = sum(t.numel() * t.element_size() for t in tensors.values())
    _write_json(
        directory / "model.safetensors.index.json",
        {
            "metadata": {"total_size": total_size},
            "weight_map": dict(sorted(weight_map.items())),
        },
    )


# === Spellings ===


def _spell(names, spelling):
    """Maps transformers' present names to a checkpoint's."""
    hub = {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.image_newline": "image_newline",
        "lm_head.": "language_model.lm_head.",
    }
    spelled = {}
    for index, name in enumerate(names):
        prefix = next(prefix for prefix in hub if name.startswith(prefix))
        as_on_hub = name.replace(prefix, hub[prefix], 1)
        if spelling == "hub":
            spelled[name] = as_on_hub
        elif spelling == "new":
            spelled[name] = name
        else:
            # The vision encoder has four spellings, the others two; the head
            # is one tensor, and the hub's spelling has it already.
            bare = name.removeprefix("model.")
            turns = (as_on_hub, name)
            if prefix == "model.vision_tower.":
                deep = name.replace("tower.", "tower.vision_model.", 1)
                turns = (as_on_hub, name, bare, deep)
            elif prefix == "lm_head.":
                turns = (name,)
            spelled[name] = turns[index % len(turns)]
    return spelled


def _respell_config(config, spelling):
    config = json.loads(json.dumps(config))
    text_config = config["text_config"]
    if spelling in ("new", "mixed"):
        text_config["rope_parameters"] = {
            "rope_theta": text_config.pop("rope_theta"),
            "rope_type": "default",
        }
    if spelling == "new":
        config["image_token_id"] = config.pop("image_token_index")
        config["video_token_id"] = config.pop("video_token_index")
        config["tie_word_embeddings"] = text_config["tie_word_embeddings"]
        config["dtype"] = config.pop("torch_dtype")
        text_config["dtype"] = text_config.pop("torch_dtype")
    return config


# === Tokenizer and preprocessor ===


@functools.cache
def _byte_pairs():
    """Learns the byte pairs: the vocabulary and the merges."""
    pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=BYTE_PAIR_VOCABULARY_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return learned["vocab"], [tuple(merge) for merge in learned["merges"]]


def _tokenizer():
    vocabulary, merges = _byte_pairs()
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary), merges=list(merges), model_max_length=32768
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(SPECIAL_TOKENS)}
    )
    # Not when it is made: it would come first, and move all ids by one.
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def _write_tokenizer(directory, tokenizer, spelling):
    vocabulary, merges = _byte_pairs()
    tokenizer.save_pretrained(directory)
    _write_json(directory / "vocab.json", vocabulary, indent=None)
    lines = ["#version: 0.2"] + [" ".join(merge) for merge in merges]
    path = directory / "merges.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if spelling == "new":
        return
    # What older versions of transformers, and so the hub, have besides.
    ids = {
        token: tokenizer.convert_tokens_to_ids(token)
        for token in SPECIAL_TOKENS
    }
    turn_tokens = ["<|im_start|>", "<|im_end|>"]
    _write_json(directory / "added_tokens.json", ids)
    _write_json(
        directory / "special_tokens_map.json",
        {
            "additional_special_tokens": turn_tokens,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
        },
    )
    if spelling == "hub":
        _write_json(
            directory / "tokenizer_config.json",
            {
                "add_prefix_space": False,
                "added_tokens_decoder": {
                    str(id): {
                        "content": token,
                        "lstrip": False,
                        "normalized": False,
                        "rstrip": False,
                        "single_word": False,
                        "special": True,
                    }
                    for token, id in ids.items()
                },
                "additional_special_tokens": turn_tokens,
                "bos_token": None,
                "clean_up_tokenization_spaces": False,
                "eos_token": "<|im_end|>",
                "errors": "replace",
                "model_max_length": 32768,
                "pad_token": "<|endoftext|>",
                "processor_class": "LlavaOnevisionProcessor",
                "split_special_tokens": False,
                "tokenizer_class": "Qwen2Tokenizer",
                "unk_token": None,
            },
        )


def _write_preprocessor(directory, tokenizer, config, spelling):
    """Writes the processor's files.

    The hub has its settings in two flat files and the template in a JSON
    file; transformers 5 saves one nested file and a Jinja file. `"mixed"`
    writes them all, the nested `processor_config.json` among them.
    """
    tile_size = config["vision_config"]["image_size"]
    patch_size = config["vision_config"]["patch_size"]
    image_settings = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": config["image_grid_pinpoints"],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": tile_size, "width": tile_size},
    }
    token_settings = {
        "num_image_tokens": (tile_size // patch_size) ** 2,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }
    if spelling in ("hub", "mixed"):
        _write_json(
            directory / "preprocessor_config.json",
            {
                **image_settings,
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "processor_class": "LlavaOnevisionProcessor",
            },
        )
        _write_json(
            directory / "chat_template.json", {"chat_template": CHAT_TEMPLATE}
        )
    if spelling == "hub":
        _write_json(
            directory / "processor_config.json",
            {
                "image_token": "<image>",
                **token_settings,
                "processor_class": "LlavaOnevisionProcessor",
                "video_token": "<video>",
            },
        )
    else:
        processor = LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessorPil(**image_settings),
            tokenizer=tokenizer,
            chat_template=CHAT_TEMPLATE,
            **token_settings,
        )
        processor.save_pretrained(directory)


def _write_json(path, value, indent=2):
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
