"""From the backbone's inputs to tokens: encode, share, route, group, decode."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from keras import tree

from keras_visor.generation import decoding
from keras_visor.generation import stages
from keras_visor.generation.programs import Programs
from keras_visor.layers.streams import Streams
from keras_visor.preprocessing.buckets import bucket_length
from keras_visor.preprocessing.buckets import chunks
from keras_visor.reduction.reducer import Reducer
from keras_visor.reduction.vision_sources import VisionSources

TEXT_NAMES = ("token_ids", "text_positions", "padding_mask")
VISION_NAMES = ("vision_positions", "vision_mask", "vision_image_ids")
PACKING_NAMES = ("vision_indices", "vision_weights")
ENCODED_NAMES = ("vision", "vision_attention")


@dataclass
class _Group:
    """Samples of one budget whose answers are being written.

    `token_ids` and `slots` are as in `keras_visor.generation.decoding`.
    """

    rows: np.ndarray  # Which samples of the batch they are.
    limits: np.ndarray  # How many tokens each of them may get.
    first: int  # The slot of the first new token.
    token_ids: Any
    slots: dict
    hidden_states: Any
    cache: dict


class Generator:
    """Runs the stages of a prefill and the decoding on a batch.

    Inputs are the backbone's, as NumPy arrays, padded on the right. A batch
    is encoded and routed once, then runs in groups of equal budget. Where
    programs are compiled, group sizes and lengths are padded to few shapes.

    Args:
        lm: `VisorCausalLM`.
    """

    def __init__(self, lm):
        self.lm = lm
        self.programs = Programs(lm)

    def encode(self, inputs: dict, with_attention: bool = False):
        """Visual tokens, and the encoder's attention on each if wanted.

        Only the tiles that the gather refers to are encoded.

        Args:
            inputs: dict, the backbone's inputs.
            with_attention: bool. Defaults to `False`.

        Returns:
            `(tokens, attention)`: tensors (batch, vision_length, hidden_dim)
            and (batch, vision_length), the latter `None` if not wanted.
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
        shape = (batch * tiles, backbone.patches_per_tile)
        patches = ops.zeros(
            (*shape, backbone.hidden_dim), dtype=backbone.compute_dtype
        )
        attention = ops.zeros((*shape, 1)) if with_attention else None
        pixels = images.reshape(batch * tiles, *images.shape[2:])
        for chunk in chunks(slots):
            places = chunk.astype("int32")
            if with_attention:
                encoded, received = self.programs.run(
                    stages.encode_tiles_with_attention, pixels[chunk]
                )
                attention = self.programs.run(
                    stages.place_tiles, attention, received, places
                )
            else:
                encoded = self.programs.run(stages.encode_tiles, pixels[chunk])
            patches = self.programs.run(
                stages.place_tiles, patches, encoded, places
            )
        packing = indices, inputs["vision_weights"]
        tokens = self.programs.run(stages.pack_tokens, patches, *packing)
        if with_attention:
            attention = self.programs.run(
                stages.pack_attention, attention, *packing
            )
        return tokens, attention

    def route(self, inputs: dict, reducer: Reducer | None = None):
        """The policy's logits (batch, number of budgets)."""
        batch = len(inputs["token_ids"])
        inputs = self._fit(_right_align(inputs))
        num_shared = self.lm.backbone.first_optional_layer
        _, _, logits = self._share(inputs, num_shared, True, reducer)
        return logits[:batch]

    def prefill(
        self, inputs: dict, budget: int, reducer: Reducer | None = None
    ):
        """The final state of each prompt's last token, and the cache.

        Args:
            inputs: dict, see `generate`.
            budget: int. One budget for all samples.
            reducer: `keras_visor.reduction.Reducer`. Defaults to `None`.
        """
        longest = inputs["padding_mask"].sum(axis=1).max()
        budgets = np.full(len(inputs["token_ids"]), budget)
        (group,), _ = self._prefill(inputs, longest + 1, budgets, reducer)
        return group.hidden_states, group.cache

    def generate(
        self,
        inputs: dict,
        max_length: int,
        budgets: np.ndarray | None,
        stop_token_ids: tuple[int, ...] | None,
        reducer: Reducer | None = None,
    ) -> tuple[list[list[int]], np.ndarray]:
        """New token ids of each sample, and the budget that it ran at.

        Args:
            inputs: dict, the backbone's inputs. Instead of `images`,
                `vision_indices` and `vision_weights` it may hold `vision`,
                the visual tokens; with a reducer, then, those two as well
                and, if it goes by it, `vision_attention`.
            max_length: int. Text tokens of prompt and answer together.
            budgets: int array (batch,), or `None` to let the policy choose.
            stop_token_ids: tuple of int, or `None`.
            reducer: `keras_visor.reduction.Reducer`. Leaves visual tokens
                out. Defaults to `None`.
        """
        batch = len(inputs["token_ids"])
        answers: list[list[int]] = [[]] * batch
        groups, budgets = self._prefill(inputs, max_length, budgets, reducer)
        for group in groups:
            if decoding.writes_token_by_token(self.lm.sampler):
                self._begin(group, stop_token_ids)
                self._extend(group, group.limits.max(), stop_token_ids)
            else:
                group.token_ids = self.programs.run(
                    decoding.search,
                    group.token_ids,
                    group.slots,
                    group.hidden_states,
                    group.cache,
                    stop_token_ids=stop_token_ids,
                )
            for row, ids in _answers(group, stop_token_ids):
                answers[row] = ids
        return answers, budgets

    def stream(
        self,
        inputs: dict,
        max_length: int,
        budgets: np.ndarray | None,
        stop_token_ids: tuple[int, ...] | None,
        reducer: Reducer | None = None,
    ) -> Iterator[list[list[int]]]:
        """`generate` that stops after every token.

        Yields:
            The new token ids of each sample so far.
        """
        batch = len(inputs["token_ids"])
        answers: list[list[int]] = [[]] * batch
        groups, _ = self._prefill(inputs, max_length, budgets, reducer)
        for group in groups:
            self._begin(group, stop_token_ids)
        length = 1
        while groups:
            unfinished = []
            for group in groups:
                for row, ids in _answers(group, stop_token_ids, length):
                    answers[row] = ids
                # A stop token is cut off: who has one is shorter.
                if any(
                    len(answers[row]) == length < limit
                    for row, limit in zip(group.rows, group.limits, strict=True)
                ):
                    unfinished.append(group)
            yield list(answers)
            groups, length = unfinished, length + 1
            for group in groups:
                self._extend(group, length, stop_token_ids, length - 1)

    def _num_shared(self):
        """How many layers run before the batch is cut into groups.

        The last layer is left over even where all budgets agree on it, since
        it may have less to do.
        """
        backbone = self.lm.backbone
        return min(backbone.first_optional_layer, backbone.num_layers - 1)

    def _share(self, inputs, num_layers, route, reducer):
        vision, sources = {}, None
        if inputs["vision_mask"].any():
            vision = {name: inputs[name] for name in VISION_NAMES}
            if "vision" in inputs:
                tokens = inputs["vision"]
                attention = inputs.get("vision_attention")
            else:
                tokens, attention = self.encode(
                    inputs, reducer is not None and reducer.needs_attention
                )
            vision["vision"] = tokens
            if reducer is not None:
                sources = VisionSources(
                    inputs["vision_indices"],
                    inputs["vision_weights"],
                    attention=attention,
                )
            if not self.programs.compiles:
                # One image a sample has a faster convolution, even more so
                # without padding. A reducer wants to know the mask.
                if vision["vision_image_ids"].max() < 1:
                    vision["vision_image_ids"] = None
                if vision["vision_mask"].all() and reducer is None:
                    vision["vision_mask"] = None
        streams = Streams(
            text=None,
            text_positions=inputs["text_positions"],
            text_mask=inputs["padding_mask"],
            **vision,
        )
        return self.programs.run(
            stages.run_shared_layers,
            inputs["token_ids"],
            streams,
            sources,
            num_layers=num_layers,
            route=route,
            reducer=reducer,
        )

    def _prefill(self, inputs, max_length, budgets, reducer=None):
        """The groups, ready to be decoded, and the budgets (batch,)."""
        backbone = self.lm.backbone
        batch = len(inputs["token_ids"])
        limits = max_length - inputs["padding_mask"].sum(axis=1)
        inputs = self._fit(_right_align(inputs))
        route = budgets is None
        num_shared = self._num_shared()
        streams, cache, logits = self._share(inputs, num_shared, route, reducer)
        if route:
            budgets = backbone.policy.choose(logits)
            budgets = ops.convert_to_numpy(budgets)[:batch]
        num_rows = len(inputs["token_ids"])
        # Rows that pad the batch are finished from the start.
        limits = np.pad(limits, (0, num_rows - batch))
        groups = []
        for budget in np.unique(budgets):
            rows = np.flatnonzero(budgets == budget)
            rows = rows[limits[rows] > 0]
            if not len(rows):
                continue
            whole = len(rows) == batch
            padded_rows = np.arange(num_rows) if whole else self._pad_rows(rows)
            group_inputs = {
                name: inputs[name][padded_rows]
                for name in (*TEXT_NAMES, "vision_positions", "vision_mask")
            }
            vision_length = self._vision_length(
                streams, group_inputs["vision_mask"], reducer
            )
            hidden_states, group_cache = self.programs.run(
                stages.run_budget_layers,
                *_cut_vision(
                    _take(streams, padded_rows, whole),
                    _take(cache, padded_rows, whole),
                    vision_length,
                ),
                budget=int(budget),
                first_layer=num_shared,
                last_only=decoding.writes_token_by_token(self.lm.sampler),
                reducer=reducer,
            )
            token_ids, slots = self._slots(
                group_inputs, limits[padded_rows], vision_length
            )
            groups.append(
                _Group(
                    rows,
                    limits[rows],
                    int(slots["first"]),
                    token_ids,
                    slots,
                    hidden_states,
                    group_cache,
                )
            )
        return groups, budgets

    def _vision_length(self, streams, mask, reducer):
        """How many visual tokens a group carries, given its `vision_mask`.

        Where programs are compiled it keeps its batch's length, for which
        they are. A reducer has its own idea of which tokens are left.
        """
        if streams.vision is None:
            return 0
        if self.programs.compiles or reducer is not None:
            return mask.shape[1]
        return int(mask.sum(axis=1).max())

    def _slots(self, prompt, limits, vision_length):
        """Token ids and slots of `keras_visor.generation.decoding`."""
        first = prompt["token_ids"].shape[1]
        num_slots = first + int(limits.max())
        if self.programs.compiles:
            num_slots = bucket_length(num_slots)
        num_new = num_slots - first
        lengths = prompt["padding_mask"].sum(axis=1, keepdims=True)
        next_position = lengths + prompt["vision_mask"].sum(
            axis=1, keepdims=True
        )

        def with_room(prompt_values, after):
            after = np.broadcast_to(after, (len(prompt_values), num_new))
            return np.concatenate([prompt_values, after], axis=1)

        slots = {
            "positions": with_room(
                prompt["text_positions"], next_position + np.arange(num_new)
            ).astype("int32"),
            "mask": with_room(prompt["padding_mask"], True).astype(bool),
            "first": np.int32(first),
            "end": (first + limits).astype("int32"),
        }
        if vision_length:
            for name in ("vision_positions", "vision_mask"):
                slots[name] = prompt[name][:, :vision_length]
        # -1 is no stop token, as the id 0 can be.
        return with_room(prompt["token_ids"], -1).astype("int32"), slots

    def _begin(self, group, stop_token_ids):
        group.token_ids, group.cache["text"] = self.programs.run(
            decoding.begin,
            group.token_ids,
            group.slots,
            group.hidden_states,
            group.cache["text"],
            stop_token_ids=stop_token_ids,
        )

    def _extend(self, group, length, stop_token_ids, written=1):
        """Go on until there are `length` new tokens."""
        group.token_ids, group.cache["text"] = self.programs.run(
            decoding.extend,
            group.token_ids,
            group.slots,
            group.cache,
            np.int32(group.first + written),
            np.int32(group.first + length),
            stop_token_ids=stop_token_ids,
        )

    def _fit(self, inputs):
        """Pad the batch to a power of two, with image-less copies.

        Where nothing is compiled, cut the padding off instead.
        """
        if not self.programs.compiles:
            return _cut(inputs)
        rows = self._pad_rows(np.arange(len(inputs["token_ids"])))
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

    def _pad_rows(self, rows: np.ndarray) -> np.ndarray:
        """Repeat the last row until their number is a power of two."""
        if not self.programs.compiles:
            return rows
        size = 1 << (len(rows) - 1).bit_length()
        return np.pad(rows, (0, size - len(rows)), mode="edge")


def _cut(inputs):
    """Cut the padding off: the text's on the left, the image's on the right."""
    text_length = inputs["padding_mask"].sum(axis=1).max()
    vision_length = inputs["vision_mask"].sum(axis=1).max()
    cut = dict(inputs)
    for name in TEXT_NAMES:
        cut[name] = inputs[name][:, -text_length:]
    for name in (*VISION_NAMES, *PACKING_NAMES, *ENCODED_NAMES):
        if name in inputs:
            cut[name] = inputs[name][:, :vision_length]
    return cut


def _cut_vision(streams, cache, length):
    """Cut the visual tokens to what a group has; leave them out if none."""
    if streams.vision is None or streams.vision.shape[1] == length:
        return streams, cache
    if not length:
        streams = Streams(*streams[:3])
        return streams, {**cache, "vision": {}, "cross": {}}

    def cut(tensors):
        return tree.map_structure(
            lambda t: t[:, :length], tensors, none_is_leaf=False
        )

    names = ("vision", *VISION_NAMES)
    streams = streams._replace(
        **{name: cut(getattr(streams, name)) for name in names}
    )
    cut_cache = {kind: cut(cache[kind]) for kind in ("vision", "cross")}
    return streams, {**cache, **cut_cache}


def _take(tensors, rows, whole):
    if whole:
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
        for name in TEXT_NAMES
    }
    return {**inputs, **aligned}


def _answers(group, stop_token_ids, length=None):
    """Each sample's row in the batch and its new tokens, up to `length`."""
    token_ids = ops.convert_to_numpy(group.token_ids)[:, group.first :]
    for row, ids, limit in zip(
        group.rows, token_ids.tolist(), group.limits, strict=False
    ):
        ids = ids[:limit] if length is None else ids[: min(limit, length)]
        stops = [at for at, i in enumerate(ids) if i in (stop_token_ids or ())]
        yield row, ids[: min(stops, default=len(ids))]
