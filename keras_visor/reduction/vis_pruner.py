"""Important visual tokens, and diverse ones among the others."""

import keras
from keras import ops

from keras_visor.layers.take_tokens import take_tokens
from keras_visor.reduction.reducer import EarlyReducer
from keras_visor.reduction.reducer import kept_count
from keras_visor.reduction.selection import count_tokens
from keras_visor.reduction.selection import first_marked
from keras_visor.reduction.selection import keep
from keras_visor.reduction.selection import ordinals
from keras_visor.reduction.selection import patches_first
from keras_visor.reduction.selection import ranks
from keras_visor.reduction.selection import unit_vectors

# Of the tokens that are kept, as many are important as are diverse.
IMPORTANT_SHARE = 1 / 2


@keras.saving.register_keras_serializable("keras_visor")
class VisPruner(EarlyReducer):
    """Keeps important tokens by attention, then removes duplicates.

    Follows VisPruner (arXiv 2412.01818), the section on its method. Half of
    the kept tokens are *important*: those that receive most attention in the
    encoder's last block (SigLIP has no class token, so the mean over queries
    and heads counts). The others are *diverse*: what remains, in the order of
    its attention, is split into every first and every second token, and of
    the first ones, those go that are most like one of the second; again and
    again, until as many as wanted are left.

    Where the paper's code differs: it removes 8 tokens a turn, where here up
    to half of the first ones go, so that the number of turns grows with the
    logarithm of the tokens; after a turn it splits what is left of the first
    ones, sorted by likeness, before the second ones, where here the order of
    attention stays; it compares the encoder's features, where here the visual
    tokens are compared; and it selects within each tile, where here a sample's
    tiles compete. Newlines go first.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.VisPruner(0.5)
    ```
    """

    needs_attention = True

    def reduce(self, streams, sources):
        mask = ops.cast(streams.vision_mask, "bool")
        patches, count, newlines = patches_first(mask, sources, self.rate)
        num_important = kept_count(count, IMPORTANT_SHARE)
        place = ranks(sources.attention, patches)
        important = place < num_important
        order = ops.argsort(place, axis=1)
        # A token that is not a number is like nothing, or no turn would end.
        tokens = ops.nan_to_num(unit_vectors(streams.vision))
        diverse = _without_duplicates(
            take_tokens(tokens, order),
            ops.take_along_axis(
                ops.logical_and(patches, ~important), order, axis=1
            ),
            count - num_important,
        )
        kept = ops.logical_or(
            important, ops.take_along_axis(diverse, place, axis=1)
        )
        kept = ops.logical_or(kept, newlines)
        return keep(streams, kept, kept_count(ops.shape(mask)[1], self.rate))


def _without_duplicates(tokens, candidates, count):
    """Remove, turn by turn, what is most like others.

    Args:
        tokens: float32 tensor (batch, vision_length, width), of length one or
            zero.
        candidates: bool tensor (batch, vision_length).
        count: int32 tensor (batch, 1). How many are to be left.

    Returns:
        A bool tensor (batch, vision_length).
    """
    half = (ops.shape(candidates)[1] + 1) // 2

    def too_many(left):
        return ops.any(count_tokens(left) > count)

    def remove(left):
        place = ordinals(left)
        first = ops.logical_and(left, place % 2 == 0)
        second = ops.logical_and(left, place % 2 == 1)
        likeness = ops.matmul(
            take_tokens(tokens, first_marked(first, half)),
            ops.transpose(
                take_tokens(tokens, first_marked(second, half)), (0, 2, 1)
            ),
        )
        index = ops.arange(half, dtype="int32")
        exists = (index < count_tokens(second))[:, None]
        most = ops.max(ops.where(exists, likeness, -2.0), axis=-1)
        num_first = count_tokens(first)
        excess = ops.minimum(
            count_tokens(left) - count, kept_count(num_first, 1 / 2)
        )
        removed = ranks(most, index < num_first) < excess
        removed = ops.take_along_axis(
            removed, ops.minimum(place // 2, half - 1), axis=1
        )
        return (ops.logical_and(left, ~ops.logical_and(first, removed)),)

    return ops.while_loop(too_many, remove, (candidates,))[0]
