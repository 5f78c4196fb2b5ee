"""Writing an answer, token by token: pure functions of model and tensors.

Text stands in *slots*: the prompts, right-aligned, then room for the answers,
so that all samples of a mixed-length batch take their steps together. A
*cache* holds, by kind and layer, keys and values: of the text slots in every
layer ("text"), of the visual tokens where self-attention ran ("vision") and
in the cross-attention layers ("cross"). Where a reducer leaves visual tokens
out, "kept" has the positions and the mask of those that are there, by layer.
Decoding reads no visual token.

`slots` is a dict of `positions` int32 and `mask` bool, each (batch,
num_slots), the positions those that tokens will have once written; `first`
int32 scalar, where the answers begin; `end` int32 (batch,), where a sample
has reached its length; and, where there are images, `vision_positions` and
`vision_mask`.
"""

import functools

import keras_hub
from keras import ops

from keras_visor.layers.attention import View
from keras_visor.layers.attention import as_addend
from keras_visor.layers.attention import visible
from keras_visor.layers.projections import normalize


def writes_token_by_token(sampler) -> bool:
    """Whether a sampler only chooses the next token from its probabilities.

    Beam and contrastive search have loops of their own instead.
    """
    return type(sampler).__call__ is keras_hub.samplers.Sampler.__call__


def begin(lm, token_ids, slots: dict, hidden_state, text_cache, stop_token_ids):
    """Make room for the answers and write the first token of each.

    Args:
        lm: `VisorCausalLM`.
        token_ids: int32 tensor (batch, num_slots).
        slots: dict, see above.
        hidden_state: Tensor (batch, 1, hidden_dim), of the prompts' last
            token.
        text_cache: dict. The prompts' keys and values by layer.
        stop_token_ids: tuple of int, or `None`.

    Returns:
        `(token_ids, text_cache)`, both over all slots.
    """
    text_cache = _make_room(text_cache, token_ids.shape[1])
    token_ids = _write_next(
        lm, token_ids, slots, hidden_state, slots["first"], stop_token_ids
    )
    return token_ids, text_cache


def extend(
    lm, token_ids, slots: dict, cache: dict, index, until, stop_token_ids
):
    """Write the tokens from slot `index` on, up to `until`.

    Ends early when all samples have.

    Args:
        lm: `VisorCausalLM`.
        token_ids: int32 tensor (batch, num_slots), written up to `index`.
        slots: dict, see above.
        cache: dict. Its text part is written up to the slot before the last
            token.
        index: int32 scalar.
        until: int32 scalar.
        stop_token_ids: tuple of int, or `None`.

    Returns:
        `(token_ids, text_cache)`.
    """

    def goes_on(token_ids, text_cache, index):
        finished = _finished(token_ids, slots, index, stop_token_ids)
        return ops.logical_and(
            index < until, ops.logical_not(ops.all(finished))
        )

    def step(token_ids, text_cache, index):
        hidden, text_cache = _step(
            lm.backbone, token_ids, slots, {**cache, "text": text_cache}, index
        )
        token_ids = _write_next(
            lm, token_ids, slots, hidden, index, stop_token_ids
        )
        return token_ids, text_cache, index + 1

    token_ids, text_cache, _ = lm.sampler.run_loop(
        goes_on,
        step,
        model=lm,
        loop_vars=(token_ids, cache["text"], ops.cast(index, "int32")),
    )
    return token_ids, text_cache


def search(
    lm, token_ids, slots: dict, hidden_states, cache: dict, stop_token_ids
):
    """Let a sampler that has a loop of its own write the answers.

    It feeds the prompt's last token once more, which rewrites its cache slot
    with what is there.

    Args:
        lm: `VisorCausalLM`.
        token_ids: int32 tensor (batch, num_slots).
        slots: dict, see above.
        hidden_states: Tensor (batch, prompt_length, hidden_dim).
        cache: dict. The prompt's keys and values.
        stop_token_ids: tuple of int, or `None`.

    Returns:
        The token ids, int32 (batch, num_slots).
    """
    num_slots = token_ids.shape[1]
    first = slots["first"]
    room = ((0, 0), (0, num_slots - hidden_states.shape[1]), (0, 0))
    # Contrastive search compares with every slot before the current one:
    # where there is no token, the prompt's last one stands in.
    hidden_states = ops.where(
        slots["mask"][:, :, None],
        ops.pad(hidden_states, room),
        hidden_states[:, -1:],
    )
    batched = {k: v for k, v in slots.items() if k != "first"}
    cache = {
        **cache,
        **batched,
        "text": _make_room(cache["text"], num_slots),
    }

    def next(token_ids, cache, index):
        # A beam search brings its own, larger batch.
        slots = {"first": first, **{name: cache[name] for name in batched}}
        hidden, text_cache = _step(lm.backbone, token_ids, slots, cache, index)
        logits = _logits(lm, token_ids, slots, hidden, index, stop_token_ids)
        return logits, hidden[:, 0], {**cache, "text": text_cache}

    return lm.sampler(
        next=next,
        prompt=token_ids,
        cache=cache,
        index=first,
        mask=ops.broadcast_to(ops.arange(num_slots) < first, token_ids.shape),
        stop_token_ids=stop_token_ids,
        hidden_states=hidden_states,
        model=lm,
    )


def _make_room(text_cache, num_slots):
    """Pad the keys and values of the prompts to all slots."""

    def pad(tokens):
        room = num_slots - tokens.shape[1]
        return ops.pad(tokens, ((0, 0), (0, room), (0, 0), (0, 0)))

    return {layer: tuple(map(pad, pair)) for layer, pair in text_cache.items()}


def _step(backbone, token_ids, slots, cache, index):
    """The token before slot `index` through all layers.

    Returns:
        `(hidden_state, text_cache)`: its final state (batch, 1, hidden_dim)
        and the text's keys and values with its own.
    """
    at = index - 1
    # A slice would make PyTorch wait for the index.
    column = ops.reshape(at, (1,))
    token = ops.take(token_ids, column, axis=1)
    position = ops.take(slots["positions"], column, axis=1)
    hidden = backbone.token_embedding(token)
    # What all layers share: they differ in their weights and caches only.
    rotation = backbone.decoder_layers[0].make_rotation(position)
    here = (ops.arange(token_ids.shape[1]) == at)[:, None, None]
    seen = visible(position, slots["positions"], slots["mask"])
    text_addend = as_addend(seen, hidden.dtype)
    all_vision = None
    if "vision_mask" in slots:
        all_vision = slots["vision_positions"], slots["vision_mask"]

    @functools.cache
    def see_vision(name):
        """The visual keys of a layer: their addend, and if any is seen."""
        if name not in cache["kept"] and name is not None:
            return see_vision(None)
        kept = cache["kept"].get(name, all_vision)
        if kept is None:
            return None, None
        seen = visible(position, *kept)
        return as_addend(seen, hidden.dtype), ops.any(seen, axis=2)

    text_cache = dict(cache["text"])
    for number, layer in enumerate(backbone.decoder_layers):
        name = str(number)
        vision_addend, sees_any = see_vision(name)
        if name in cache["cross"]:
            hidden = hidden + backbone.cross_attention_at(number).step(
                hidden, View(*cache["cross"][name], vision_addend), sees_any
            )
        vision = cache["vision"].get(name)
        hidden, text_cache[name] = layer.step(
            hidden,
            rotation,
            View(*text_cache[name], text_addend),
            here,
            vision=None if vision is None else View(*vision, vision_addend),
        )
    return normalize(backbone.final_norm, hidden), text_cache


def _write_next(lm, token_ids, slots, hidden, index, stop_token_ids):
    """Sample the token of slot `index`."""
    logits = _logits(lm, token_ids, slots, hidden, index, stop_token_ids)
    token = lm.sampler.get_next_token(lm.sampler.compute_probabilities(logits))
    token = ops.cast(token, token_ids.dtype)
    here = ops.arange(token_ids.shape[1]) == index
    return ops.where(here, token[:, None], token_ids)


def _logits(lm, token_ids, slots, hidden, index, stop_token_ids):
    """Logits (batch, vocabulary) of slot `index`, in float32.

    A finished sample repeats a token that costs it nothing, which keeps the
    scores of its beams from depending on how long its neighbours take.
    """
    logits = lm.backbone.token_embedding(hidden, reverse=True)[:, 0]
    finished = _finished(token_ids, slots, index, stop_token_ids)
    held_token = stop_token_ids[0] if stop_token_ids else 0
    held = ops.where(ops.arange(logits.shape[-1]) == held_token, 0.0, -1e9)
    return ops.where(finished[:, None], held, ops.cast(logits, "float32"))


def _finished(token_ids, slots, index, stop_token_ids):
    """Which samples have a stop token or all their tokens, bool (batch,)."""
    finished = index >= slots["end"]
    written = ops.arange(token_ids.shape[1]) >= slots["first"]
    for stop_token_id in stop_token_ids or ():
        stopped = ops.logical_and(token_ids == stop_token_id, written)
        finished = ops.logical_or(finished, ops.any(stopped, axis=-1))
    return finished
