"""The executable specification of VISOR: slow, plain, and independent.

One sample at a time, no batch, no padding, no cache, float32. Every function
of the decoder quotes the lines of the design that it is. transformers is
trusted with what VISOR leaves as it is (tokenizer, image processor, vision
encoder, projector, packing), so the visual tokens come from an independent
source. Nothing here imports keras_visor or keras.

    reference = Reference(directory)
    reference.logits("<image>\\nWhat is this?", [image], budget=0)

`prompt` is always written out, with its `<image>` marks; `images` is a list of
PIL images or of uint8 arrays (height, width, 3), one for each mark.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from made_checkpoints import LlavaOnevisionImageProcessorPil
from made_checkpoints import LlavaOnevisionProcessor
from made_checkpoints import tokenizer_of
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

# Tensors this small gain nothing from threads, and where processes share the
# cores, threads that wait for each other cost a hundredfold.
torch.set_num_threads(1)

TEXT_ONLY = "text-only"
SELF_ATTENTION = "self-attention"
CROSS_ATTENTION = "cross-attention"


@dataclasses.dataclass
class Prepared:
    """One prompt, tokenized, and its images, encoded."""

    input_ids: Tensor  # (length,), each placeholder expanded
    token_ids: Tensor  # (text_length,), `input_ids` without placeholders
    text_positions: Tensor  # (text_length,)
    visual_tokens: Tensor  # (vision_length, hidden_dim), V^(0)
    vision_positions: Tensor  # (vision_length,)
    vision_image_ids: Tensor  # (vision_length,), 0 is the first image
    model_inputs: dict  # what transformers' model is called with


@dataclasses.dataclass
class Streams:
    """T and V between two layers, and where their tokens stand.

    "Both streams stay apart; nothing is interleaved." "Each stream carries
    its positions, so RoPE and causality are those of the joint sequence."
    """

    text: Tensor  # (text_length, hidden_dim)
    visual: Tensor  # (vision_length, hidden_dim)
    text_positions: Tensor
    vision_positions: Tensor
    vision_image_ids: Tensor


@dataclasses.dataclass
class Shape:
    """The numbers that the weights' own shapes don't tell."""

    num_heads: int
    num_key_value_heads: int
    rope_theta: float
    epsilon: float
    cross_attention_num_heads: int | None = None
    cross_attention_num_key_value_heads: int | None = None


# === Parts ===


def linear(x, weights, name):
    """`x W^T + b`, without `b` where the weights have none."""
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def rms_norm(x, scale, epsilon):
    mean_square = x.pow(2).mean(-1, keepdim=True)
    return scale * x / torch.sqrt(mean_square + epsilon)


def split_heads(x, num_heads):
    """(length, heads * width) -> (heads, length, width)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(0, 1)


def rotate(x, positions, theta):
    """RoPE as Qwen2 has it: entries i and width / 2 + i are a pair."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half) / half)
    angles = positions[:, None] * frequencies
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        (
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        ),
        dim=-1,
    )


def attention(query, key, value, seen):
    """Grouped-query attention, of the decoder and of CA_l.

    "scale head_width^-0.5, consecutive query heads share a key/value head".

    Args:
        query: (heads, n, width).
        key: (key/value heads, m, width).
        value: (key/value heads, m, width).
        seen: bool (n, m), whether the query sees the key.

    Returns:
        (n, heads * width); zeros for a query that sees no key.
    """
    share = query.shape[0] // key.shape[0]
    key = key.repeat_interleave(share, dim=0)
    value = value.repeat_interleave(share, dim=0)
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    weights = weights.masked_fill(~seen, 0)  # NaN where nothing is seen
    return (weights @ value).transpose(0, 1).flatten(1)


def position_convolution(visual, vision_image_ids, weight, bias):
    """DWConv(V).

    "depthwise 1-D convolution with bias, kernel 7, zero padding 3, each image
    of a sample apart (nothing leaks from a later image)."

    Args:
        visual: (vision_length, hidden_dim).
        vision_image_ids: (vision_length,).
        weight: (hidden_dim, 1, kernel size).
        bias: (hidden_dim,).
    """
    kernel_size = weight.shape[-1]
    out = torch.empty_like(visual)
    for image_id in vision_image_ids.unique():
        image = visual[vision_image_ids == image_id]
        zeros = torch.zeros(kernel_size // 2, image.shape[1])
        padded = torch.cat((zeros, image, zeros))
        out[vision_image_ids == image_id] = bias + sum(
            weight[:, 0, tap] * padded[tap : tap + len(image)]
            for tap in range(kernel_size)
        )
    return out


def decoder_layer(x, positions, layer, shape):
    """TL_l.

    "TL_l the base model's decoder layer (pre-norm, RoPE by position, causal by
    position, padding masked)"; here nothing is padded.

    Args:
        x: (length, hidden_dim).
        positions: (length,).
        layer: dict. The weights of the base model's layer l.
    """
    h = rms_norm(x, layer["input_layernorm.weight"], shape.epsilon)
    query = split_heads(linear(h, layer, "self_attn.q_proj"), shape.num_heads)
    key, value = (
        split_heads(linear(h, layer, name), shape.num_key_value_heads)
        for name in ("self_attn.k_proj", "self_attn.v_proj")
    )
    query = rotate(query, positions, shape.rope_theta)
    key = rotate(key, positions, shape.rope_theta)
    seen = positions[None, :] <= positions[:, None]
    x = x + linear(
        attention(query, key, value, seen), layer, "self_attn.o_proj"
    )

    h = rms_norm(x, layer["post_attention_layernorm.weight"], shape.epsilon)
    gated = F.silu(linear(h, layer, "mlp.gate_proj")) * linear(
        h, layer, "mlp.up_proj"
    )
    return x + linear(gated, layer, "mlp.down_proj")


def cross_attention_update(streams, weights, shape):
    """CA_l(T, V).

    "queries from `RMSNorm(T)`; keys and values from `RMSNorm(V + DWConv(V))`,
    both norms with their own scale and the base model's epsilon." "biases on
    q, k, v, none on the output; no RoPE. A text token sees the visual tokens
    at smaller positions; one that sees none gets exactly zero."

    Args:
        weights: dict. The tensors `visor.cross_attention.{l}.*`.
    """
    text = rms_norm(streams.text, weights["query_norm.weight"], shape.epsilon)
    visual = streams.visual + position_convolution(
        streams.visual,
        streams.vision_image_ids,
        weights["position.weight"],
        weights["position.bias"],
    )
    visual = rms_norm(visual, weights["key_value_norm.weight"], shape.epsilon)
    query = split_heads(
        linear(text, weights, "q_proj"), shape.cross_attention_num_heads
    )
    key, value = (
        split_heads(
            linear(visual, weights, name),
            shape.cross_attention_num_key_value_heads,
        )
        for name in ("k_proj", "v_proj")
    )
    seen = streams.vision_positions[None, :] < streams.text_positions[:, None]
    return linear(attention(query, key, value, seen), weights, "o_proj")


# === Roles ===


def text_only(streams, layer, shape):
    """The role of most layers.

    "text-only, or a self-attention layer that is off: `T = TL_l(T)`."
    """
    text = decoder_layer(streams.text, streams.text_positions, layer, shape)
    return dataclasses.replace(streams, text=text)


def self_attention(streams, layer, shape):
    """The one role that changes V.

    "self-attention, on: `[V;T] = TL_l([V;T])`."
    """
    joint = decoder_layer(
        torch.cat((streams.visual, streams.text)),
        torch.cat((streams.vision_positions, streams.text_positions)),
        layer,
        shape,
    )
    visual, text = joint.tensor_split([len(streams.visual)])
    return dataclasses.replace(streams, text=text, visual=visual)


def cross_attention(streams, layer, weights, shape):
    """The role that reads V and leaves it as it is.

    "cross-attention: `T = T + CA_l(T, V)`, then `T = TL_l(T)`."
    """
    text = streams.text + cross_attention_update(streams, weights, shape)
    return text_only(dataclasses.replace(streams, text=text), layer, shape)


def routing(routing_token, policy, shape):
    """The policy's head: the routing token's last state to logits.

    "then RMSNorm (the base's epsilon), Dense, exact GELU, Dense: one logit a
    budget."

    Args:
        routing_token: (hidden_dim,). Its state below the first optional layer.
        policy: dict. The tensors `visor.policy.*`.
    """
    h = rms_norm(routing_token, policy["norm.weight"], shape.epsilon)
    h = F.gelu(linear(h, policy, "fc1"), approximate="none")
    return linear(h, policy, "fc2")


# === Model ===


class Reference:
    """A checkpoint directory, plain LLaVA-OneVision or VISOR, computed slowly.

    Args:
        directory: str or Path.
    """

    def __init__(self, directory):
        directory = Path(directory)
        self.model = _transformers_model(directory)
        self.tokenizer = tokenizer_of(directory)
        config = self.model.config
        self.processor = LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessorPil.from_pretrained(
                directory
            ),
            tokenizer=self.tokenizer,
            num_image_tokens=(
                config.vision_config.image_size
                // config.vision_config.patch_size
            )
            ** 2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=config.vision_aspect_ratio,
        )

        # transformers knows every spelling; `visor.*` has only one.
        self.weights = self.model.state_dict()
        for file in directory.glob("*.safetensors"):
            self.weights |= {
                name: tensor.float()
                for name, tensor in load_file(file).items()
                if name.startswith("visor.")
            }

        settings = json.loads((directory / "config.json").read_text("utf-8"))
        # A plain checkpoint is "its dense self (every layer self-attention,
        # one budget)".
        every_layer = list(range(config.text_config.num_hidden_layers))
        self.visor_config = settings.get(
            "visor_config",
            {
                "cross_attention_layers": [],
                "self_attention_layers": every_layer,
                "budgets": [every_layer],
            },
        )
        self.num_layers = len(every_layer)
        self.budgets = self.visor_config["budgets"]
        self.shape = Shape(
            num_heads=config.text_config.num_attention_heads,
            num_key_value_heads=config.text_config.num_key_value_heads,
            rope_theta=config.text_config.rope_parameters["rope_theta"],
            epsilon=config.text_config.rms_norm_eps,
            cross_attention_num_heads=self.visor_config.get(
                "cross_attention_num_heads"
            ),
            cross_attention_num_key_value_heads=self.visor_config.get(
                "cross_attention_num_key_value_heads"
            ),
        )

    # === Inputs ===

    @torch.no_grad()
    def prepare(self, prompt: str, images: list) -> Prepared:
        """Tokenizes, expands the placeholders and encodes the images.

        "an image that is alone in its prompt is tiled; several images of one
        prompt are each one base tile plus newline."
        """
        images = [
            image if isinstance(image, Image.Image) else Image.fromarray(image)
            for image in images
        ]
        # Nested: a flat list is to transformers one prompt for each image.
        model_inputs = self.processor(
            text=[prompt],
            images=[images] if images else None,
            return_tensors="pt",
        )
        input_ids = model_inputs["input_ids"][0]
        features = [torch.zeros(0, self.model.config.text_config.hidden_size)]
        if images:
            features = self.model.model.get_image_features(
                model_inputs["pixel_values"],
                model_inputs["image_sizes"],
                batch_num_images=model_inputs["batch_num_images"],
            ).pooler_output
        is_visual = input_ids == self.model.config.image_token_id
        positions = torch.arange(len(input_ids))
        prepared = Prepared(
            input_ids=input_ids,
            token_ids=input_ids[~is_visual],
            text_positions=positions[~is_visual],
            visual_tokens=torch.cat(list(features)),
            vision_positions=positions[is_visual],
            vision_image_ids=torch.cat(
                [
                    torch.full((len(feature),), image_id)
                    for image_id, feature in enumerate(features)
                ]
            ),
            model_inputs=model_inputs,
        )
        assert len(prepared.visual_tokens) == len(prepared.vision_positions)
        return prepared

    # === Decoder ===

    def roles(self, budget: int) -> list[str]:
        """The role of every layer under a budget.

        "*budget*: a subset of the self-attention layers that is switched on."
        """
        roles = [TEXT_ONLY] * self.num_layers
        for layer in self.visor_config["cross_attention_layers"]:
            roles[layer] = CROSS_ATTENTION
        for layer in self.budgets[budget]:
            roles[layer] = SELF_ATTENTION
        return roles

    def embed(self, prepared: Prepared) -> Streams:
        """T^(0) and V^(0): "V^(0) is the projector's output, packed"."""
        embedding = self.weights["model.language_model.embed_tokens.weight"]
        return Streams(
            text=embedding[prepared.token_ids],
            visual=prepared.visual_tokens,
            text_positions=prepared.text_positions,
            vision_positions=prepared.vision_positions,
            vision_image_ids=prepared.vision_image_ids,
        )

    def decode(self, streams: Streams, roles: list[str]) -> list[Streams]:
        """Runs the lowest layers, one for each role; the streams after each."""
        after = []
        for index, role in enumerate(roles):
            layer = self._scope(f"model.language_model.layers.{index}.")
            if role == SELF_ATTENTION:
                streams = self_attention(streams, layer, self.shape)
            elif role == CROSS_ATTENTION:
                weights = self._scope(f"visor.cross_attention.{index}.")
                streams = cross_attention(streams, layer, weights, self.shape)
            else:
                streams = text_only(streams, layer, self.shape)
            after.append(streams)
        return after

    def read_out(self, text: Tensor) -> Tensor:
        """The base model's last norm and its output embedding."""
        scale = self.weights["model.language_model.norm.weight"]
        h = rms_norm(text, scale, self.shape.epsilon)
        return linear(h, self.weights, "lm_head")

    @torch.no_grad()
    def logits(self, prompt: str, images: list, budget: int) -> np.ndarray:
        """Logits at the text tokens, (text_length, vocabulary)."""
        streams = self.embed(self.prepare(prompt, images))
        streams = self.decode(streams, self.roles(budget))[-1]
        return self.read_out(streams.text).numpy()

    @torch.no_grad()
    def hidden_logits(
        self, prompt: str, images: list, self_attention_layers: list[int]
    ) -> np.ndarray:
        """What a VISOR fresh from this plain checkpoint must give.

        "a fresh VISOR computes what its base computes with the visual tokens
        hidden from every layer that is not self-attention."
        """
        roles = [TEXT_ONLY] * self.num_layers
        for layer in self_attention_layers:
            roles[layer] = SELF_ATTENTION
        streams = self.embed(self.prepare(prompt, images))
        return self.read_out(self.decode(streams, roles)[-1].text).numpy()

    @torch.no_grad()
    def visual_tokens(
        self, prompt: str, images: list, budget: int
    ) -> list[np.ndarray]:
        """V after each layer, (vision_length, hidden_dim) each."""
        streams = self.embed(self.prepare(prompt, images))
        after = self.decode(streams, self.roles(budget))
        return [streams.visual.numpy() for streams in after]

    @torch.no_grad()
    def greedy(
        self,
        prompt: str,
        images: list,
        budget: int,
        max_new_tokens: int,
        stop_ids: list[int] | None = None,
    ) -> list[int]:
        """The new tokens' ids; a stop token ends them and is the last of them.

        Every step computes everything anew. `stop_ids` None stands for those
        of generation_config.json, an empty list for none.
        """
        if stop_ids is None:
            stop_ids = self.model.generation_config.eos_token_id
        prepared = self.prepare(prompt, images)
        new_ids = []
        while len(new_ids) < max_new_tokens:
            streams = self.decode(self.embed(prepared), self.roles(budget))[-1]
            new_id = self.read_out(streams.text[-1]).argmax()
            new_ids.append(new_id.item())
            if new_ids[-1] in stop_ids:
                break
            prepared = _with_token(prepared, new_id)
        return new_ids

    # === Policy ===

    def first_optional_layer(self) -> int:
        """ "the lowest layer on which the budgets differ"."""
        return min(
            layer
            for budget in self.budgets
            for layer in budget
            if any(layer not in other for other in self.budgets)
        )

    @torch.no_grad()
    def route(self, prompt: str, images: list) -> np.ndarray:
        """The policy's logits, (number of budgets,).

        "a learned *routing token* stands after the prompt, at position =
        number of text plus visual tokens". "It runs through the layers below
        the first optional one as a text token, their cross-attention and
        always-on self-attention included".
        """
        policy = self._scope("visor.policy.")
        if not policy or len(self.budgets) == 1:
            raise ValueError("There is nothing to route.")
        streams = self.embed(self.prepare(prompt, images))
        position = len(streams.text) + len(streams.visual)
        streams = dataclasses.replace(
            streams,
            text=torch.cat((streams.text, policy["routing_token"][None])),
            text_positions=torch.cat(
                (streams.text_positions, torch.tensor([position]))
            ),
        )
        # Below the first optional layer all budgets have the same roles.
        roles = self.roles(budget=0)[: self.first_optional_layer()]
        for after in self.decode(streams, roles):
            streams = after
        return routing(streams.text[-1], policy, self.shape).numpy()

    def chosen_budget(self, prompt: str, images: list) -> int:
        """The budget that "auto" runs.

        "The argmax runs, unless `policy_rule` is "tolerance": then
        sigmoid(logit) is the probability that a budget answers right, and the
        cheapest budget whose probability is at least the last (full) budget's
        less `policy_tolerance` runs. With one budget there is nothing to
        route. A model without a policy treats "auto" as "full"".
        """
        full = len(self.budgets) - 1
        if full == 0 or not self._scope("visor.policy."):
            return full
        logits = self.route(prompt, images)
        if self.visor_config.get("policy_rule", "argmax") == "argmax":
            return int(logits.argmax())
        probabilities = 1 / (1 + np.exp(-logits))
        tolerance = self.visor_config.get("policy_tolerance", 0.0)
        least = probabilities[full] - tolerance
        return int(np.flatnonzero(probabilities >= least)[0])

    # === transformers itself ===

    @torch.no_grad()
    def dense_transformers_logits(
        self, prompt: str, images: list
    ) -> np.ndarray:
        """transformers' logits at the text tokens, (text_length, vocabulary).

        Of a VISOR checkpoint they are its base model's.
        """
        prepared = self.prepare(prompt, images)
        logits = self.model(**prepared.model_inputs).logits[0]
        return logits[prepared.text_positions].numpy()

    @torch.no_grad()
    def transformers_greedy(
        self,
        prompt: str,
        images: list,
        max_new_tokens: int,
        stop_ids: list[int] | None = None,
    ) -> list[int]:
        """transformers' `generate`, `stop_ids` as in `greedy`."""
        if stop_ids is None:
            stop_ids = self.model.generation_config.eos_token_id
        prepared = self.prepare(prompt, images)
        ids = self.model.generate(
            **prepared.model_inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            # None would mean the checkpoint's; no token has this id.
            eos_token_id=stop_ids or self.model.config.text_config.vocab_size,
        )[0]
        return ids[len(prepared.input_ids) :].tolist()

    def _scope(self, prefix):
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.weights.items()
            if name.startswith(prefix)
        }


def _transformers_model(directory):
    """Loads transformers' model, and makes sure that it took every tensor."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would list `visor.*`
    try:
        model, info = (
            transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(
                directory, dtype=torch.float32, output_loading_info=True
            )
        )
    finally:
        transformers.logging.set_verbosity(level)
    strangers = [
        name
        for name in info["unexpected_keys"]
        if not name.startswith("visor.")
    ]
    if strangers or info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError(f"transformers misread {directory}: {info}")
    return model.eval()


def _with_token(prepared, new_id):
    """Appends a generated token to the text stream.

    Its position is the number of text plus visual tokens so far.
    """
    position = len(prepared.token_ids) + len(prepared.visual_tokens)
    return dataclasses.replace(
        prepared,
        token_ids=torch.cat((prepared.token_ids, new_id[None])),
        text_positions=torch.cat(
            (prepared.text_positions, torch.tensor([position]))
        ),
    )
