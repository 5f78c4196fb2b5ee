"""The stages of an answer, each a pure function of model and tensors.

Encode the tiles, pack the visual tokens, run the layers that all budgets
share (and route), run a budget's own layers, decode.
"""

from keras import ops

from keras_visor.layers.attention import Segment
from keras_visor.layers.streams import Streams


def encode_tiles(lm, patches, tiles, slots):
    """Encode tiles and write their projected patches where they belong.

    Args:
        lm: `VisorCausalLM`.
        patches: Tensor (all slots, patches a tile, hidden_dim).
        tiles: float32 tensor (tiles, height, width, 3).
        slots: int32 tensor (tiles,), where in `patches` each tile goes.

    Returns:
        `patches`, updated.
    """
    encoded = lm.backbone.vision_tower.encode(tiles)
    return ops.scatter_update(
        patches, slots[:, None], ops.cast(encoded, patches.dtype)
    )


def pack_tokens(lm, patches, vision_indices, vision_weights):
    """Visual tokens (batch, vision_length, hidden_dim) from the patches.

    Args:
        lm: `VisorCausalLM`.
        patches: Tensor (batch * tiles, patches a tile, hidden_dim).
        vision_indices: int32 tensor (batch, vision_length, 4).
        vision_weights: float32 tensor (batch, vision_length, 4).
    """
    batch = vision_indices.shape[0]
    patches = ops.reshape(patches, (batch, -1, patches.shape[-1]))
    return lm.backbone.vision_tower.pack(
        patches, vision_indices, vision_weights
    )


def run_shared_layers(lm, token_ids, streams: Streams, route: bool):
    """Run the layers below the first optional one, once for all budgets.

    Args:
        lm: `VisorCausalLM`.
        token_ids: int32 tensor (batch, text_length).
        streams: `Streams` whose text is still to be embedded (`None`).
        route: bool. Whether the routing token comes along.

    Returns:
        `(streams, cache, logits)`: the streams after those layers, the keys
        and values of the prompt in them, and the policy's logits (batch,
        number of budgets), `None` without `route`. The routing token has left
        both: it is never cached.
    """
    backbone = lm.backbone
    streams = streams._replace(text=backbone.token_embedding(token_ids))
    if route:
        streams = _append_routing_token(backbone.policy, streams)
    cache = {"text": {}, "vision": {}, "cross": {}}
    streams = backbone.run_layers(
        streams,
        backbone.switches(0),
        range(backbone.first_optional_layer),
        cache,
    )
    if not route:
        return streams, cache, None
    logits = backbone.policy(streams.text[:, -1])
    streams = streams._replace(
        text=streams.text[:, :-1],
        text_positions=streams.text_positions[:, :-1],
        text_mask=streams.text_mask[:, :-1],
    )
    cache["text"] = {
        layer: (keys[:, :-1], values[:, :-1])
        for layer, (keys, values) in cache["text"].items()
    }
    return streams, cache, logits


def _append_routing_token(policy, streams):
    """Put the routing token after the prompt's last token, text or visual."""
    length = ops.sum(ops.cast(streams.text_mask, "int32"), axis=1)
    if streams.vision is not None:
        length = length + ops.sum(
            ops.cast(streams.vision_mask, "int32"), axis=1
        )
    token = policy.tokens(ops.shape(streams.text)[0])
    return streams._replace(
        text=ops.concatenate([streams.text, token], axis=1),
        text_positions=ops.concatenate(
            [streams.text_positions, length[:, None]], axis=1
        ),
        text_mask=ops.concatenate(
            [streams.text_mask, ops.ones_like(length[:, None], dtype="bool")],
            axis=1,
        ),
    )


def run_budget_layers(lm, streams: Streams, cache: dict, budget: int):
    """Run the remaining layers, those that `budget` has off as text only.

    Returns:
        `(hidden_states, cache)`: the final hidden states of the prompt's text
        (batch, text_length, hidden_dim) and the cache of all layers.
    """
    backbone = lm.backbone
    cache = {kind: dict(layers) for kind, layers in cache.items()}
    streams = backbone.run_layers(
        streams,
        backbone.switches(budget),
        range(backbone.first_optional_layer, backbone.num_layers),
        cache,
    )
    return backbone.final_norm(streams.text), cache


def decode(
    lm,
    slots: dict,
    hidden_states,
    cache: dict,
    index,
    stop_token_ids: tuple[int, ...] | None,
):
    """Let the sampler write tokens into the slots from `index` on.

    Prompts stand right-aligned before `index`, so that all samples of a
    mixed-length batch take their first step together; explicit positions make
    that free. KerasHub's samplers feed the token before `index` once more,
    which rewrites its cache slot with what is there.

    Args:
        lm: `VisorCausalLM`.
        slots: dict of `token_ids` int32, `positions` int32 and `mask` bool,
            each (batch, num_slots); `end` int32 (batch,), the slot at which a
            sample has reached its length; and, where there are images,
            `vision_positions` and `vision_mask`.
        hidden_states: Tensor (batch, prompt_length, hidden_dim).
        cache: dict, the prompt's keys and values.
        index: int32 scalar, the first slot to write.
        stop_token_ids: tuple of int, or `None`.

    Returns:
        The token ids, int32 (batch, num_slots).
    """
    slots = dict(slots)
    prompt = slots.pop("token_ids")
    num_slots = prompt.shape[1]
    start = index - hidden_states.shape[1]

    def into_slots(tokens):
        shape = (tokens.shape[0], num_slots, *tokens.shape[2:])
        origin = (0, start) + (0,) * (len(shape) - 2)
        return ops.slice_update(
            ops.zeros(shape, dtype=tokens.dtype), origin, tokens
        )

    cache = {
        **slots,
        "vision": cache["vision"],
        "cross": cache["cross"],
        "text": {
            layer: tuple(map(into_slots, pair))
            for layer, pair in cache["text"].items()
        },
    }
    # Contrastive search compares with every slot before the current one:
    # where there is no token, the prompt's last one stands in.
    hidden_states = ops.where(
        slots["mask"][:, :, None],
        into_slots(hidden_states),
        hidden_states[:, -1:],
    )

    first = index

    def next(prompt, cache, index):
        token = ops.slice(prompt, (0, index - 1), (prompt.shape[0], 1))
        hidden, cache = _step(lm.backbone, token, cache, index - 1)
        logits = lm.backbone.token_embedding(hidden, reverse=True)[:, 0]
        logits = _hold_finished(
            ops.cast(logits, "float32"),
            prompt,
            written=ops.arange(num_slots) >= first,
            full=index >= cache["end"],
            stop_token_ids=stop_token_ids,
        )
        return logits, hidden[:, 0], cache

    mask = ops.broadcast_to(ops.arange(num_slots) < index, prompt.shape)
    return lm.sampler(
        next=next,
        prompt=prompt,
        cache=cache,
        index=index,
        mask=mask,
        stop_token_ids=stop_token_ids,
        hidden_states=hidden_states,
        model=lm,
    )


def _step(backbone, token, cache, slot):
    """One token through all layers; reads no visual token, only caches."""
    batch = token.shape[0]
    position = ops.slice(cache["positions"], (0, slot), (batch, 1))
    hidden = backbone.token_embedding(token)
    text_cache = dict(cache["text"])

    def vision_segment(pair):
        return Segment(*pair, cache["vision_positions"], cache["vision_mask"])

    for index, layer in enumerate(backbone.decoder_layers):
        name = str(index)
        if name in cache["cross"]:
            hidden = hidden + backbone.cross_attention_at(index).read(
                hidden, position, vision_segment(cache["cross"][name])
            )
        vision = cache["vision"].get(name)
        hidden, text_cache[name] = layer.step(
            hidden,
            position,
            Segment(*text_cache[name], cache["positions"], cache["mask"]),
            slot,
            vision=None if vision is None else vision_segment(vision),
        )
    return backbone.final_norm(hidden), {**cache, "text": text_cache}


def _hold_finished(logits, prompt, written, full, stop_token_ids):
    """Make a finished sample repeat a token that costs it nothing.

    A sample is finished when it has written a stop token or is full. Holding
    it keeps the scores of its beams from depending on how long its
    neighbours take.
    """
    finished = full
    held_token = 0
    if stop_token_ids:
        held_token = stop_token_ids[0]
        for stop_token_id in stop_token_ids:
            stopped = ops.logical_and(prompt == stop_token_id, written)
            finished = ops.logical_or(finished, ops.any(stopped, axis=-1))
    held = ops.where(ops.arange(logits.shape[-1]) == held_token, 0.0, -1e9)
    return ops.where(finished[:, None], held, logits)
