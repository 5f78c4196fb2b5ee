"""Dominant visual tokens, and averages of the others."""

import keras
from keras import ops

from keras_visor.layers.take_tokens import take_tokens
from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.reducer import kept_count
from keras_visor.reduction.selection import count_tokens
from keras_visor.reduction.selection import evenly
from keras_visor.reduction.selection import first_marked
from keras_visor.reduction.selection import keep
from keras_visor.reduction.selection import ordinals
from keras_visor.reduction.selection import patches_first
from keras_visor.reduction.selection import ranks
from keras_visor.reduction.selection import unit_vectors
from keras_visor.reduction.vision_sources import image_ids_of

# Of 64 tokens the paper keeps 54 dominant ones, of 128 it keeps 108.
DOMINANT_SHARE = 27 / 32


@keras.saving.register_keras_serializable("keras_visor")
class VisionZip(EarlyReducer):
    """Keeps the tokens that the encoder looks at, and merges the others.

    Follows VisionZip (arXiv 2412.04467), section 3.2. *Dominant* tokens are
    those that receive most attention in the encoder's last block; as the
    paper does where an encoder has no class token, the mean over all queries
    (and heads) counts. Of the others, evenly spaced ones become *contextual*
    tokens: each of the rest is merged into the one of its image that is most
    like it, and is left out where its image has none. Of the tokens that are
    kept, 27 in 32 are dominant, as in the paper.

    Where the paper's code differs: it adds the mean of what is merged to a
    contextual token, which here becomes the mean of itself and those; it
    takes the keys of the encoder's last block to tell what is alike, where
    here the cosine of the visual tokens does; and it selects within each tile,
    where here a sample's tiles compete. Newlines go first.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.VisionZip(0.5)
    ```
    """

    needs_attention = True

    def reduce(self, streams, sources):
        mask = ops.cast(streams.vision_mask, "bool")
        num_slots = kept_count(ops.shape(mask)[1], self.rate)
        patches, count, newlines = patches_first(mask, sources, self.rate)
        num_dominant = kept_count(count, DOMINANT_SHARE)
        dominant = ranks(sources.attention, patches) < num_dominant
        others = ops.logical_and(patches, ~dominant)
        contextual = ops.logical_and(
            others,
            evenly(
                ordinals(others), count - num_dominant, count_tokens(others)
            ),
        )
        # A token more than there can be: no array is empty.
        num_contextual = num_slots - kept_count(num_slots, DOMINANT_SHARE) + 1
        merged = _merge(
            streams.vision,
            others,
            contextual,
            image_ids_of(streams),
            num_contextual,
        )
        merged = ops.where(contextual[:, :, None], merged, streams.vision)
        kept = ops.logical_or(dominant, contextual)
        kept = ops.logical_or(kept, newlines)
        return keep(streams._replace(vision=merged), kept, num_slots)


def _merge(tokens, others, contextual, image_ids, num_contextual):
    """The mean of what was merged into each contextual token.

    What is of another image is left out, even where its own has none: the
    text between two images must not see the second.

    Returns:
        A tensor of the shape of `tokens`, with a meaning where `contextual`.
    """
    order = first_marked(contextual, num_contextual)
    centres = take_tokens(tokens, order)
    same_image = image_ids[:, :, None] == ops.expand_dims(
        ops.take_along_axis(image_ids, order, axis=1), 1
    )
    likeness = ops.matmul(
        unit_vectors(tokens), ops.transpose(unit_vectors(centres), (0, 2, 1))
    )
    index = ops.arange(num_contextual, dtype="int32")
    exists = ops.logical_and(
        same_image, (index < count_tokens(contextual))[:, None]
    )
    nearest = ops.argmax(ops.where(exists, likeness, -float("inf")), axis=-1)
    own = ops.minimum(ordinals(contextual), num_contextual - 1)
    place = ops.where(contextual, own, ops.cast(nearest, "int32"))
    members = ops.logical_and(
        ops.logical_and(place[:, :, None] == index, others[:, :, None]),
        same_image,
    )
    members = ops.transpose(ops.cast(members, "float32"), (0, 2, 1))
    sums = ops.matmul(members, ops.cast(tokens, "float32"))
    counts = ops.sum(members, axis=-1, keepdims=True)
    means = ops.cast(sums / ops.maximum(counts, 1.0), tokens.dtype)
    return take_tokens(means, own)
