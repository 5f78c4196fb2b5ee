"""A decoder layer that refines the visual tokens where a budget says so."""

import keras
from keras import ops

from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import as_mask
from keras_visor.layers.attention import attend_within
from keras_visor.layers.attention import attention_weights
from keras_visor.layers.attention import make_view
from keras_visor.layers.decoder_layer import VisorDecoderLayer
from keras_visor.layers.projections import normalize
from keras_visor.layers.streams import Streams


@keras.saving.register_keras_serializable("keras_visor")
class VisorSelfAttentionGate(VisorDecoderLayer):
    """A decoder layer that is switched between two roles, sample by sample.

    On: `[V;T] = TL([V;T])`, causal by position over both streams. Off:
    `T = TL(T)`, and V stays as it is. It has the weights of the decoder layer
    and no others. Follows section "The architecture" of VISOR (arXiv
    2603.23495).

    Args: see `VisorDecoderLayer`.

    Call arguments:
        text: Tensor (batch, text_length, hidden_dim).
        vision: Tensor (batch, vision_length, hidden_dim), or `None` where no
            sample has an image, which leaves the layer off.
        text_positions: int32 tensor (batch, text_length).
        vision_positions: int32 tensor (batch, vision_length).
        text_mask: bool tensor (batch, text_length), False at padding.
            Defaults to `None`, no padding.
        vision_mask: bool tensor (batch, vision_length). Defaults to `None`.
        text_rotation: `Rotation`, as in `VisorDecoderLayer`. Defaults to
            `None`.
        joint_rotation: `Rotation` of the visual tokens and, behind them, the
            text tokens. Defaults to `None`.
        enabled: A Python bool, or a bool tensor (batch,). With a Python bool
            the other role is not part of the program; with a tensor one
            program serves all budgets, and the visual work is skipped when no
            sample of the batch wants it (on TensorFlow only where it traces
            with static shapes). Defaults to `True`.
        return_cache: bool. Whether to return keys and values too; wants
            `enabled` to be a Python bool. Defaults to `False`.
        refine_vision: bool. With `False`, nobody reads the visual tokens
            after this layer: they are returned as they came, and only the
            text's half of the work is done. Defaults to `True`.
        last_only: bool. As in `VisorDecoderLayer`; wants `enabled` to be a
            Python bool, and `refine_vision=False`. Defaults to `False`.

    Returns:
        `(text, vision)`, or, with `return_cache`, `(text, vision,
        text_cache, vision_cache)`, where a cache is `(keys, values)` and
        `vision_cache` is `None` when the layer is off.

    Example:
    ```python
    gate = keras_visor.layers.VisorSelfAttentionGate(
        intermediate_dim=64, num_query_heads=4, num_key_value_heads=2
    )
    text, vision = gate(
        np.random.uniform(size=(2, 3, 32)),
        np.random.uniform(size=(2, 9, 32)),
        text_positions=np.tile(np.arange(9, 12), (2, 1)),
        vision_positions=np.tile(np.arange(9), (2, 1)),
        enabled=np.array([True, False]),
    )
    ```
    """

    def call(
        self,
        text,
        vision,
        text_positions,
        vision_positions,
        text_mask=None,
        vision_mask=None,
        text_rotation=None,
        joint_rotation=None,
        enabled=True,
        return_cache: bool = False,
        refine_vision: bool = True,
        last_only: bool = False,
    ):
        text_mask = as_mask(text_positions, text_mask)
        if vision is None:
            enabled = False
        else:
            vision_mask = as_mask(vision_positions, vision_mask)
        streams = Streams(
            text=text,
            text_positions=text_positions,
            text_mask=text_mask,
            vision=vision,
            vision_positions=vision_positions,
            vision_mask=vision_mask,
        )
        if not isinstance(enabled, bool):
            if return_cache or last_only:
                raise ValueError(
                    "`return_cache=True` and `last_only=True` need `enabled` "
                    f"to be a Python bool. Received: enabled={enabled}"
                )
            return self._switched(streams, enabled, refine_vision)
        if enabled and refine_vision and last_only:
            raise ValueError(
                "`last_only=True` needs `refine_vision=False` where the layer "
                "is on. Received: refine_vision=True"
            )
        if enabled:
            text, vision, text_cache, vision_cache = self._joint(
                streams, refine_vision, last_only, joint_rotation
            )
        else:
            text, text_cache = super().call(
                text,
                text_positions,
                text_mask,
                text_rotation,
                return_cache=True,
                last_only=last_only,
            )
            vision_cache = None
        if return_cache:
            return text, vision, text_cache, vision_cache
        return text, vision

    def _joint(self, streams, refine_vision, last_only=False, rotation=None):
        text, vision = streams.text, streams.vision
        length = ops.shape(vision)[1]
        tokens = ops.concatenate([vision, text], axis=1)
        positions, mask = (
            ops.concatenate(pair, axis=1)
            for pair in (
                [streams.vision_positions, streams.text_positions],
                [streams.vision_mask, streams.text_mask],
            )
        )
        rotation = rotation or self.make_rotation(positions)
        normed = normalize(self.input_norm, tokens)
        keys, values = self.project_keys_values(normed, rotation)
        sequence = Segment(keys, values, positions, mask)
        if refine_vision:
            query = self.project_queries(normed, rotation)
            tokens = self.finish(tokens, attend_within(query, sequence))
            text, vision = tokens[:, length:], tokens[:, :length]
        else:
            first = -1 if last_only else length
            text = self.read_from(sequence, tokens, normed, rotation, first)
        return (
            text,
            vision,
            (keys[:, length:], values[:, length:]),
            (keys[:, :length], values[:, :length]),
        )

    def _switched(self, streams, enabled, refine_vision):
        text, vision = streams.text, streams.vision
        enabled = ops.cast(enabled, "bool")

        def joint():
            # Text of a sample that is off sees no visual token, which makes
            # the joint layer text-only for it.
            seen = ops.logical_and(
                streams.vision_mask, ops.expand_dims(enabled, 1)
            )
            new_text, new_vision, _, _ = self._joint(
                streams._replace(vision_mask=seen), refine_vision
            )
            on = ops.reshape(enabled, (-1, 1, 1))
            return new_text, ops.where(on, new_vision, vision)

        def text_only():
            new_text = VisorDecoderLayer.call(
                self, text, streams.text_positions, streams.text_mask
            )
            return new_text, vision

        if None in (*text.shape, *vision.shape):
            # Only while TensorFlow traces for any length. XLA cannot compile
            # the gradient of a branch that is not taken then.
            return joint()
        return ops.cond(ops.any(enabled), joint, text_only)

    def vision_attention(
        self,
        text,
        vision,
        text_positions,
        vision_positions,
        text_mask=None,
        vision_mask=None,
        reader=None,
    ):
        """How much each text token looks at each visual token, when on.

        Args:
            reader: int32 tensor (batch, 1), the index of the one text token
                that is wanted. Defaults to `None`: all of them.

        Returns:
            A float32 tensor (batch, text_length, vision_length), the mean
            over the heads. A row sums to the share of the attention that goes
            to the image; the rest goes to the text.
        """
        text_rotation = self.make_rotation(text_positions)
        vision_rotation = self.make_rotation(vision_positions)
        text_normed = normalize(self.input_norm, text)
        vision_normed = normalize(self.input_norm, vision)
        read_normed, read_positions = text_normed, text_positions
        if reader is not None:
            read_normed = ops.take_along_axis(
                text_normed, reader[:, :, None], axis=1
            )
            read_positions = ops.take_along_axis(text_positions, reader, axis=1)
        query = self.project_queries(
            read_normed, self.make_rotation(read_positions)
        )
        sequences = [
            Segment(
                *self.project_keys_values(vision_normed, vision_rotation),
                vision_positions,
                as_mask(vision_positions, vision_mask),
            ),
            Segment(
                *self.project_keys_values(text_normed, text_rotation),
                text_positions,
                as_mask(text_positions, text_mask),
            ),
        ]
        weights = attention_weights(
            query, [make_view(read_positions, each) for each in sequences]
        )
        return ops.mean(weights[0], axis=(1, 2))

    def compute_output_spec(
        self,
        text,
        vision,
        text_positions,
        vision_positions,
        text_mask=None,
        vision_mask=None,
        text_rotation=None,
        joint_rotation=None,
        enabled=True,
        return_cache=False,
        refine_vision=True,
        last_only=False,
    ):
        streams = (
            self._text_spec(text, last_only),
            keras.KerasTensor(vision.shape, dtype=self.compute_dtype),
        )
        if not return_cache:
            return streams
        vision_cache = self._cache_spec(vision) if enabled is True else None
        return *streams, self._cache_spec(text), vision_cache
