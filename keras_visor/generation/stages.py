"""The stages of a prefill, each a pure function of model and tensors.

Encode the tiles, pack the visual tokens, run the layers that all budgets
share (and route), run a budget's own layers. `decoding` goes on from there.
"""

from keras import ops

from keras_visor.layers.attention import as_mask
from keras_visor.layers.streams import Streams
from keras_visor.layers.streams import last_token
from keras_visor.reduction.reducer import Reducer
from keras_visor.reduction.vision_sources import VisionSources


def encode_tiles(lm, tiles):
    """Projected patches (tiles, patches a tile, hidden_dim).

    Args:
        lm: `VisorCausalLM`.
        tiles: float32 tensor (tiles, height, width, 3).
    """
    return lm.backbone.vision_tower.encode(tiles)


def encode_tiles_with_attention(lm, tiles):
    """Projected patches, and the attention (tiles, patches a tile, 1) on each.

    Args:
        lm: `VisorCausalLM`.
        tiles: float32 tensor (tiles, height, width, 3).
    """
    patches, attention = lm.backbone.vision_tower.encode_with_attention(tiles)
    return patches, attention[:, :, None]


def place_tiles(lm, patches, encoded, slots):
    """Write the patches of encoded tiles where they belong.

    A program of its own: how many tiles the whole batch has should not
    compile the encoder again.

    Args:
        lm: `VisorCausalLM`.
        patches: Tensor (all slots, patches a tile, hidden_dim).
        encoded: Tensor (tiles, patches a tile, hidden_dim).
        slots: int32 tensor (tiles,), where in `patches` each tile goes.

    Returns:
        `patches`, updated.
    """
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


def pack_attention(lm, attention, vision_indices, vision_weights):
    """The attention (batch, vision_length) on each visual token.

    Args:
        lm: `VisorCausalLM`.
        attention: float32 tensor (batch * tiles, patches a tile, 1).
        vision_indices: int32 tensor (batch, vision_length, 4).
        vision_weights: float32 tensor (batch, vision_length, 4).
    """
    attention = ops.reshape(attention, (vision_indices.shape[0], -1))
    return lm.backbone.vision_tower.pack_attention(
        attention, vision_indices, vision_weights
    )


def run_shared_layers(
    lm,
    token_ids,
    streams: Streams,
    sources: VisionSources | None,
    num_layers: int,
    route: bool,
    reducer: Reducer | None,
):
    """Run the lowest layers, once for all budgets.

    Args:
        lm: `VisorCausalLM`.
        token_ids: int32 tensor (batch, text_length).
        streams: `Streams` whose text is still to be embedded (`None`).
        sources: `VisionSources`, what the reducer goes by; `None` where there
            is no image. Without the number of patches a tile, which is no
            tensor.
        num_layers: int. How many layers, all below the first optional one.
        route: bool. Whether the routing token comes along.
        reducer: `keras_visor.reduction.Reducer`, or `None`.

    Returns:
        `(streams, cache, logits)`: the streams after those layers, the keys
        and values of the prompt in them, and the policy's logits (batch,
        number of budgets), `None` without `route`. The routing token has left
        both: it is never cached.
    """
    backbone = lm.backbone
    streams = streams._replace(text=backbone.token_embedding(token_ids))
    if reducer is not None:
        streams = streams._replace(reader=last_token(streams.text_mask))
    if route:
        streams = _append_routing_token(backbone.policy, streams)
    if reducer is not None and sources is not None:
        sources = sources._replace(patches_per_tile=backbone.patches_per_tile)
        streams = reducer.reduce(streams, sources)
    cache = {"text": {}, "vision": {}, "cross": {}, "kept": {}}
    streams = backbone.run_layers(
        streams,
        backbone.shared_switches(),
        range(num_layers),
        cache,
        reducer=reducer,
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
        mask = as_mask(streams.vision_positions, streams.vision_mask)
        length = length + ops.sum(ops.cast(mask, "int32"), axis=1)
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


def run_budget_layers(
    lm,
    streams: Streams,
    cache: dict,
    budget: int,
    first_layer: int,
    last_only: bool,
    reducer: Reducer | None,
):
    """Run the remaining layers, those that `budget` has off as text only.

    Args:
        lm: `VisorCausalLM`.
        streams: `Streams` after the shared layers.
        cache: dict. The prompt's keys and values in the shared layers.
        budget: int. Index into the backbone's budgets.
        first_layer: int. The first layer that has not run yet.
        last_only: bool. Whether only the last token's state is wanted.
        reducer: `keras_visor.reduction.Reducer`, or `None`.

    Returns:
        `(hidden_states, cache)`: the final hidden states of the prompt's text
        (batch, text_length, hidden_dim), or with `last_only` (batch, 1,
        hidden_dim), and the cache of all layers.
    """
    backbone = lm.backbone
    cache = {kind: dict(layers) for kind, layers in cache.items()}
    streams = backbone.run_layers(
        streams,
        backbone.switches(budget),
        range(first_layer, backbone.num_layers),
        cache,
        last_only=last_only,
        reducer=reducer,
    )
    return backbone.final_norm(streams.text), cache
