"""From the backbone's inputs to tokens: encode, share, route, group, decode."""

from typing import Any

import numpy as np
from keras import ops
from keras import tree

from keras_visor.generation import stages
from keras_visor.generation.programs import Programs
from keras_visor.layers.streams import Streams
from keras_visor.preprocessing.buckets import bucket_length

# Tiles are encoded in chunks of these sizes, so that none is encoded that
# only pads, and few programs are compiled.
TILE_CHUNKS = (8, 4, 2, 1)

VISION_NAMES = ("vision_positions", "vision_mask", "vision_image_ids")


class Generator:
    """Runs the stages of `keras_visor.generation.stages` on a batch.

    Inputs are the backbone's, as NumPy arrays, padded on the right. A batch
    is encoded and routed once, then runs in groups of equal budget, whose
    sizes are padded to powers of two.

    Args:
        lm: `VisorCausalLM`.
    """

    def __init__(self, lm):
        self.lm = lm
        self.programs = Programs(lm)

    def encode(self, inputs: dict):
        """Visual tokens (batch, vision_length, hidden_dim).

        Only the tiles that the gather refers to are encoded.
        """
        backbone = self.lm.backbone
        images, indices = inputs["images"], inputs["vision_indices"]
        batch, tiles = images.shape[:2]
        used = indices[inputs["vision_weights"] != 0]
        sample = np.broadcast_to(
            np.arange(batch)[:, None, None], indices.shape
        )[inputs["vision_weights"] != 0]
        tile = (used - 1) // backbone.patches_per_tile
        slots = np.unique((sample * tiles + tile)[used > 0])
        patches = ops.zeros(
            (batch * tiles, backbone.patches_per_tile, backbone.hidden_dim),
            dtype=backbone.compute_dtype,
        )
        pixels = images.reshape(batch * tiles, *images.shape[2:])
        while len(slots):
            size = next(size for size in TILE_CHUNKS if size <= len(slots))
            chunk, slots = slots[:size], slots[size:]
            patches = self.programs.run(
                stages.encode_tiles,
                patches,
                pixels[chunk],
                chunk.astype("int32"),
            )
        return self.programs.run(
            stages.pack_tokens, patches, indices, inputs["vision_weights"]
        )

    def route(self, inputs: dict):
        """The policy's logits (batch, number of budgets)."""
        _, _, logits = self._share(self._pad_batch(inputs), route=True)
        return logits[: len(inputs["token_ids"])]

    def generate(
        self,
        inputs: dict,
        max_length: int,
        budgets: np.ndarray | None,
        stop_token_ids: tuple[int, ...] | None,
    ) -> tuple[list[list[int]], np.ndarray]:
        """New token ids of each sample, and the budget that it ran at.

        Args:
            inputs: dict, the backbone's inputs. Instead of `images`,
                `vision_indices` and `vision_weights` it may hold `vision`,
                the visual tokens.
            max_length: int. Text tokens of prompt and answer together.
            budgets: int array (batch,), or `None` to let the policy choose.
            stop_token_ids: tuple of int, or `None`.
        """
        batch = len(inputs["token_ids"])
        lengths = inputs["padding_mask"].sum(axis=1)
        inputs = self._pad_batch(_right_align(inputs))
        streams, cache, logits = self._share(inputs, route=budgets is None)
        if budgets is None:
            choice = self.lm.backbone.policy.choose(logits)
            budgets = ops.convert_to_numpy(choice)[:batch]
        answers: list[Any] = [None] * batch
        for budget in np.unique(budgets):
            rows = np.flatnonzero(budgets == budget)
            group = _pad_rows(rows)
            hidden_states, group_cache = self.programs.run(
                stages.run_budget_layers,
                _take(streams, group, len(inputs["token_ids"])),
                _take(cache, group, len(inputs["token_ids"])),
                budget=int(budget),
            )
            new = self._decode(
                {name: inputs[name][group] for name in _slot_names(inputs)},
                hidden_states,
                group_cache,
                max_length,
                stop_token_ids,
            )
            for row, ids in zip(rows, new, strict=False):
                answers[row] = ids[: max_length - lengths[row]]
        return [_until_stop(a, stop_token_ids) for a in answers], budgets

    def _share(self, inputs, route):
        has_images = inputs["vision_mask"].any()
        vision = {}
        if has_images:
            tokens = inputs.get("vision")
            vision = {name: inputs[name] for name in VISION_NAMES}
            vision["vision"] = self.encode(inputs) if tokens is None else tokens
        streams = Streams(
            text=None,
            text_positions=inputs["text_positions"],
            text_mask=inputs["padding_mask"],
            **vision,
        )
        return self.programs.run(
            stages.run_shared_layers, inputs["token_ids"], streams, route=route
        )

    def _decode(self, prompt, hidden_states, cache, max_length, stop_token_ids):
        """The slots from the first written one on, int32 (group, steps)."""
        lengths = prompt["padding_mask"].sum(axis=1)
        group, prompt_length = prompt["token_ids"].shape
        steps = int(max_length - lengths.min())
        if steps <= 0:
            return np.zeros((group, 0), "int32")
        num_slots = bucket_length(prompt_length + steps)
        first = num_slots - steps
        stop = np.arange(num_slots) - first
        next_position = lengths[:, None]
        if "vision_mask" in prompt:
            next_position = next_position + prompt["vision_mask"].sum(
                axis=1, keepdims=True
            )

        def into_slots(prompt_values, after):
            values = np.broadcast_to(after, (group, num_slots)).copy()
            values[:, first - prompt_length : first] = prompt_values
            values[:, : first - prompt_length] = 0
            return values

        slots = {
            # -1 is no stop token, as the id 0 can be.
            "token_ids": into_slots(prompt["token_ids"], -1).astype("int32"),
            "positions": into_slots(
                prompt["text_positions"], next_position + stop
            ).astype("int32"),
            "mask": into_slots(prompt["padding_mask"], 1).astype(bool),
            "end": (first + max_length - lengths).astype("int32"),
        }
        if "vision_mask" in prompt:
            slots["vision_positions"] = prompt["vision_positions"]
            slots["vision_mask"] = prompt["vision_mask"]
        token_ids = self.programs.run(
            stages.decode,
            slots,
            hidden_states,
            cache,
            np.int32(first),
            stop_token_ids=stop_token_ids,
        )
        return ops.convert_to_numpy(token_ids)[:, first:]

    def _pad_batch(self, inputs):
        """Pad the batch to a power of two with image-less copies."""
        rows = _pad_rows(np.arange(len(inputs["token_ids"])))
        added = len(rows) - len(inputs["token_ids"])
        if not added:
            return inputs
        padded = {
            name: ops.take(values, rows, axis=0)
            if name == "vision"
            else values[rows]
            for name, values in inputs.items()
        }
        for name in ("vision_mask", "vision_weights"):
            if name in padded:
                padded[name][-added:] = 0
        return padded


def _slot_names(inputs):
    names = ["token_ids", "text_positions", "padding_mask"]
    if inputs["vision_mask"].any():
        names += ["vision_positions", "vision_mask"]
    return names


def _pad_rows(rows: np.ndarray) -> np.ndarray:
    """Repeat the last row until their number is a power of two."""
    size = 1 << (len(rows) - 1).bit_length()
    return np.pad(rows, (0, size - len(rows)), mode="edge")


def _take(tensors, rows, batch):
    if len(rows) == batch and np.array_equal(rows, np.arange(batch)):
        return tensors
    rows = ops.convert_to_tensor(rows.astype("int32"))
    return tree.map_structure(
        lambda t: ops.take(t, rows, axis=0), tensors, none_is_leaf=False
    )


def _right_align(inputs):
    """Move the padding of the text from the right to the left."""
    length = inputs["token_ids"].shape[1]
    shift = inputs["padding_mask"].sum(axis=1)
    columns = (np.arange(length) + shift[:, None]) % length
    aligned = {
        name: np.take_along_axis(inputs[name], columns, axis=1)
        for name in ("token_ids", "padding_mask", "text_positions")
    }
    return {**inputs, **aligned}


def _until_stop(ids, stop_token_ids):
    ids = ids.tolist()
    if stop_token_ids:
        stops = [at for at, i in enumerate(ids) if i in stop_token_ids]
        ids = ids[: min(stops, default=len(ids))]
    return ids
