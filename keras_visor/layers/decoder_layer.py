"""The base model's decoder layer, with explicit positions and a cache."""

import keras
from keras import ops

from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import View
from keras_visor.layers.attention import as_mask
from keras_visor.layers.attention import attend
from keras_visor.layers.attention import attend_views
from keras_visor.layers.attention import attend_within
from keras_visor.layers.blocks import TOKEN_BLOCK
from keras_visor.layers.blocks import map_blocks
from keras_visor.layers.projections import check_heads
from keras_visor.layers.projections import dense
from keras_visor.layers.projections import from_heads
from keras_visor.layers.projections import head_width
from keras_visor.layers.projections import normalize
from keras_visor.layers.projections import project
from keras_visor.layers.projections import rms_norm
from keras_visor.layers.projections import to_heads
from keras_visor.layers.rematerialization import RematerializesStreams
from keras_visor.layers.rotary import Rotation
from keras_visor.layers.rotary import make_rotation
from keras_visor.layers.rotary import rotate


@keras.saving.register_keras_serializable("keras_visor")
class VisorDecoderLayer(RematerializesStreams, keras.layers.Layer):
    """A Qwen2 decoder layer: `T = TL(T)`, the text-only role.

    Pre-norm, grouped-query attention with biases on query, key and value,
    rotary embedding and causality by explicit position, SwiGLU. Follows
    `Qwen2DecoderLayer` of `transformers`.

    Args:
        intermediate_dim: int. Width of the feed-forward network.
        num_query_heads: int. Number of query heads; divides the hidden width.
        num_key_value_heads: int. Number of key/value heads; divides
            `num_query_heads`.
        rope_max_wavelength: float. Base of the rotary embedding. Defaults to
            `10000.0`.
        layer_norm_epsilon: float. Epsilon of both norms. Defaults to `1e-6`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        text: Tensor (batch, text_length, hidden_dim).
        text_positions: int32 tensor (batch, text_length).
        text_mask: bool tensor (batch, text_length), False at padding.
            Defaults to `None`, no padding.
        text_rotation: `Rotation`, what `make_rotation(text_positions)` gives,
            where layers share it. Defaults to `None`.
        return_cache: bool. Whether to return the keys and values too.
            Defaults to `False`.
        last_only: bool. Whether only the last token's state is wanted, as
            after the last layer of a prompt. Defaults to `False`.

    Returns:
        The text tokens (batch, text_length, hidden_dim), or (batch, 1,
        hidden_dim) with `last_only`; with `return_cache`, those and `(keys,
        values)`, each (batch, text_length, num_key_value_heads, head_dim).

    Example:
    ```python
    layer = keras_visor.layers.VisorDecoderLayer(
        intermediate_dim=64, num_query_heads=4, num_key_value_heads=2
    )
    text = np.random.uniform(size=(1, 5, 32))
    layer(text, text_positions=np.arange(5)[None])
    ```
    """

    def __init__(
        self,
        intermediate_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        rope_max_wavelength: float = 10000.0,
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_heads(num_query_heads, num_key_value_heads)
        self.intermediate_dim = intermediate_dim
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.rope_max_wavelength = rope_max_wavelength
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, text_shape):
        width = text_shape[-1]
        self.head_dim = head_dim = head_width(width, self.num_query_heads)
        if head_dim % 2:
            raise ValueError(
                "A head's width must be even, for the rotary embedding. "
                f"Received: {head_dim}, of hidden width {width} and "
                f"num_query_heads={self.num_query_heads}"
            )
        key_value_heads = self.num_key_value_heads
        epsilon, dtype = self.layer_norm_epsilon, self.dtype_policy
        self.input_norm = rms_norm(width, epsilon, dtype, "input_norm")
        self.query_dense = to_heads(
            width, self.num_query_heads, head_dim, dtype, "query_dense"
        )
        self.key_dense = to_heads(
            width, key_value_heads, head_dim, dtype, "key_dense"
        )
        self.value_dense = to_heads(
            width, key_value_heads, head_dim, dtype, "value_dense"
        )
        self.output_dense = from_heads(
            width, self.num_query_heads, head_dim, dtype, "output_dense"
        )
        self.post_attention_norm = rms_norm(
            width, epsilon, dtype, "post_attention_norm"
        )
        inner = self.intermediate_dim
        self.gate_dense = dense(width, inner, dtype, "gate_dense")
        self.up_dense = dense(width, inner, dtype, "up_dense")
        self.down_dense = dense(inner, width, dtype, "down_dense")
        self.built = True

    def call(
        self,
        text,
        text_positions,
        text_mask=None,
        text_rotation: Rotation | None = None,
        return_cache: bool = False,
        last_only: bool = False,
    ):
        rotation = text_rotation or self.make_rotation(text_positions)
        normed = normalize(self.input_norm, text)
        keys, values = self.project_keys_values(normed, rotation)
        sequence = Segment(
            keys, values, text_positions, as_mask(text_positions, text_mask)
        )
        if last_only:
            text = self.read_from(sequence, text, normed, rotation, -1)
        else:
            query = self.project_queries(normed, rotation)
            text = self.finish(text, attend_within(query, sequence))
        return (text, (keys, values)) if return_cache else text

    def make_rotation(self, positions) -> Rotation:
        """The rotary embedding's tables, the same for all layers."""
        return make_rotation(
            positions,
            self.head_dim,
            self.rope_max_wavelength,
            self.compute_dtype,
        )

    def project_queries(self, normed, rotation: Rotation):
        """Queries of normalized tokens, turned by position."""
        return rotate(project(self.query_dense, normed), rotation)

    def project_keys_values(self, normed, rotation: Rotation):
        """Keys, turned by position, and values of normalized tokens."""
        keys = rotate(project(self.key_dense, normed), rotation)
        return keys, project(self.value_dense, normed)

    def read_from(self, sequence: Segment, tokens, normed, rotation, first):
        """The new state of a sequence's tokens from index `first` on."""
        query = self.project_queries(
            normed[:, first:], Rotation(*(t[:, first:] for t in rotation))
        )
        attended = attend(query, sequence.positions[:, first:], sequence)
        return self.finish(tokens[:, first:], attended)

    def finish(self, tokens, attended):
        """Both residual connections: the attention's and the SwiGLU's."""
        return map_blocks(self._finish_block, TOKEN_BLOCK, tokens, attended)

    def _finish_block(self, tokens, attended):
        tokens = tokens + project(self.output_dense, attended)
        normed = normalize(self.post_attention_norm, tokens)
        gate = ops.silu(project(self.gate_dense, normed))
        inner = gate * project(self.up_dense, normed)
        return tokens + project(self.down_dense, inner)

    def step(self, token, rotation: Rotation, text: View, here, vision=None):
        """One decoding step, which writes into the text cache.

        Args:
            token: Tensor (batch, 1, hidden_dim).
            rotation: `Rotation` of its position.
            text: `View` over all slots of the text cache.
            here: bool tensor (num_slots, 1, 1), True at the slot that `token`
                takes.
            vision: Optional `View` of visual keys and values, when the
                layer's self-attention is on.

        Returns:
            The token's new state (batch, 1, hidden_dim), and the updated
            `(keys, values)` of the text cache.
        """
        normed = normalize(self.input_norm, token)
        key, value = self.project_keys_values(normed, rotation)
        # Cheaper than a slice update, which PyTorch does by index tensors.
        keys = ops.where(here, key, text.keys)
        values = ops.where(here, value, text.values)
        views = [text._replace(keys=keys, values=values)]
        if vision is not None:
            views.append(vision)
        query = self.project_queries(normed, rotation)
        attended = attend_views(query, views)
        return self._finish_block(token, attended), (keys, values)

    def compute_output_spec(
        self,
        text,
        text_positions,
        text_mask=None,
        text_rotation=None,
        return_cache=False,
        last_only=False,
    ):
        spec = self._text_spec(text, last_only)
        return (spec, self._cache_spec(text)) if return_cache else spec

    def _text_spec(self, text, last_only):
        length = 1 if last_only else text.shape[1]
        return keras.KerasTensor(
            (text.shape[0], length, text.shape[2]), dtype=self.compute_dtype
        )

    def _cache_spec(self, tokens):
        hidden_dim = tokens.shape[-1]
        shape = (
            *tokens.shape[:2],
            self.num_key_value_heads,
            hidden_dim // self.num_query_heads,
        )
        keys = keras.KerasTensor(shape, dtype=self.compute_dtype)
        return keys, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "intermediate_dim": self.intermediate_dim,
                "num_query_heads": self.num_query_heads,
                "num_key_value_heads": self.num_key_value_heads,
                "rope_max_wavelength": self.rope_max_wavelength,
                "layer_norm_epsilon": self.layer_norm_epsilon,
            }
        )
        return config
