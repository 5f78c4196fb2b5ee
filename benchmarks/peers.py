"""The peer: LLaVA-OneVision of `transformers`, given visual tokens."""

import copy

import torch
import transformers
from device import DEVICE
from prompts import TOKENS_BEFORE
from torch import nn
from transformers.models.llava_onevision import (
    image_processing_pil_llava_onevision as image_processing,
)


class Transformers:
    """`LlavaOnevisionForConditionalGeneration` in float32.

    Args:
        directory: str. The checkpoint.
        attention: str. "sdpa" or "eager".
    """

    def __init__(self, directory: str, attention: str = "sdpa"):
        model = transformers.LlavaOnevisionForConditionalGeneration
        self.model = model.from_pretrained(
            directory, dtype=torch.float32, attn_implementation=attention
        )
        self.model.eval().to(DEVICE)
        self.directory = directory

    def use_attention(self, attention: str) -> None:
        self.model.set_attn_implementation(attention)

    @torch.inference_mode()
    def prefill(self, inputs: dict):
        """Logits of the last position, NumPy (batch, vocabulary), and cache.

        Args:
            inputs: dict, see `prompts.make_prompt`.
        """
        outputs = self.model(
            inputs_embeds=self._embed(inputs), use_cache=True, logits_to_keep=1
        )
        return outputs.logits[:, -1].cpu().numpy(), outputs.past_key_values

    @torch.inference_mode()
    def decode(self, logits, cache, num_tokens: int):
        """Greedy tokens after a prefill; leaves the cache as it was.

        A plain loop, which does less a token than `generate`.
        """
        token = torch.as_tensor(logits, device=DEVICE).argmax(-1, keepdim=True)
        tokens = [token]
        for _ in range(num_tokens):
            outputs = self.model(
                input_ids=token,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = outputs.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(token)
        cache.crop(-num_tokens)
        return torch.cat(tokens, dim=1).cpu().numpy()

    def repeat_cache(self, cache, batch: int):
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(batch)
        return cache

    def make_train_step(self, inputs: dict, labels, rank: int):
        """A step of LoRA on query and value, as `enable_lora` does it."""
        model = self.model.requires_grad_(False)
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            attention.q_proj = _LoRA(attention.q_proj, rank)
            attention.v_proj = _LoRA(attention.v_proj, rank)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained)
        labels = torch.as_tensor(labels, dtype=torch.int64, device=DEVICE)
        labels = labels[:, TOKENS_BEFORE:]

        def step():
            outputs = model(
                inputs_embeds=self._embed(inputs),
                use_cache=False,
                logits_to_keep=labels.shape[1],
            )
            loss = nn.functional.cross_entropy(
                outputs.logits.flatten(0, 1), labels.flatten()
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    def make_first_token(self, picture, prompt: dict):
        """From a picture to the logits of the first token.

        Args:
            picture: uint8 array (height, width, 3).
            prompt: dict. What our preprocessor gives for it: the text's
                tokens and where they and the visual tokens stand.
        """
        processor = image_processing.LlavaOnevisionImageProcessorPil
        processor = processor.from_pretrained(self.directory)
        text = prompt["padding_mask"][0].astype(bool)
        length = int(text.sum() + prompt["vision_mask"][0].sum())
        image_token = self.model.config.image_token_id
        input_ids = torch.full((1, length), image_token)
        positions = torch.as_tensor(prompt["text_positions"][0][text])
        input_ids[0, positions.long()] = torch.as_tensor(
            prompt["token_ids"][0][text], dtype=torch.int64
        )
        input_ids = input_ids.to(DEVICE)

        @torch.inference_mode()
        def first_token():
            pixels = processor([picture], return_tensors="pt")
            outputs = self.model(
                input_ids=input_ids,
                pixel_values=pixels["pixel_values"].to(DEVICE),
                image_sizes=pixels["image_sizes"],
                use_cache=True,
                logits_to_keep=1,
            )
            return int(outputs.logits[0, -1].argmax())

        return first_token

    def _embed(self, inputs):
        """The joint sequence: text, visual tokens, text."""
        token_ids = torch.as_tensor(
            inputs["token_ids"], dtype=torch.int64, device=DEVICE
        )
        text = self.model.get_input_embeddings()(token_ids)
        vision = torch.as_tensor(inputs["vision"], device=DEVICE)
        return torch.cat(
            [text[:, :TOKENS_BEFORE], vision, text[:, TOKENS_BEFORE:]], dim=1
        )


class _LoRA(nn.Module):
    """A linear layer that is left alone, and two narrow ones beside it."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        down = 0.02 * torch.randn(rank, base.in_features, device=DEVICE)
        up = torch.zeros(base.out_features, rank, device=DEVICE)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def cache_bytes(cache) -> int:
    """How large the keys and values of a `transformers` cache are."""
    return sum(
        tensor.nbytes
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    )
