"""The base model's decoder layer, with explicit positions and a cache."""

import keras
import keras_hub
from keras import ops

from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import as_mask
from keras_visor.layers.attention import attend
from keras_visor.layers.attention import attend_within
from keras_visor.layers.blocks import TOKEN_BLOCK
from keras_visor.layers.blocks import map_blocks
from keras_visor.layers.projections import check_heads
from keras_visor.layers.projections import dense
from keras_visor.layers.projections import from_heads
from keras_visor.layers.projections import head_width
from keras_visor.layers.projections import rms_norm
from keras_visor.layers.projections import to_heads
from keras_visor.layers.rematerialization import RematerializesStreams


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
        head_dim = head_width(width, self.num_query_heads)
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
        self.rotary_embedding = keras_hub.layers.RotaryEmbedding(
            max_wavelength=self.rope_max_wavelength,
            dtype=dtype,
            name="rotary_embedding",
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
        return_cache: bool = False,
        last_only: bool = False,
    ):
        normed = self.input_norm(text)
        keys, values = self.project_keys_values(normed, text_positions)
        sequence = Segment(
            keys, values, text_positions, as_mask(text_positions, text_mask)
        )
        if last_only:
            text = self.read(
                text[:, -1:], normed[:, -1:], text_positions[:, -1:], [sequence]
            )
        else:
            query = self.project_queries(normed, text_positions)
            text = self.finish(text, attend_within(query, sequence))
        return (text, (keys, values)) if return_cache else text

    def project_queries(self, normed, positions):
        """Queries of normalized tokens, turned by position."""
        query = self.query_dense(normed)
        return self.rotary_embedding(query, positions=positions)

    def project_keys_values(self, normed, positions):
        """Keys, turned by position, and values of normalized tokens."""
        keys = self.rotary_embedding(
            self.key_dense(normed), positions=positions
        )
        return keys, self.value_dense(normed)

    def read(self, tokens, normed, positions, segments: list[Segment]):
        """The new state of some tokens, which attend to the segments."""
        query = self.project_queries(normed, positions)
        return self.finish(tokens, attend(query, positions, segments))

    def finish(self, tokens, attended):
        """Both residual connections: the attention's and the SwiGLU's."""
        return map_blocks(self._finish_block, TOKEN_BLOCK, tokens, attended)

    def _finish_block(self, tokens, attended):
        tokens = tokens + self.output_dense(attended)
        normed = self.post_attention_norm(tokens)
        gate = ops.silu(self.gate_dense(normed))
        return tokens + self.down_dense(gate * self.up_dense(normed))

    def step(self, token, position, text: Segment, index, vision=None):
        """One decoding step, which writes into the text cache.

        Args:
            token: Tensor (batch, 1, hidden_dim).
            position: int32 tensor (batch, 1).
            text: `Segment` over all slots of the text cache, whose positions
                are those that the slots will have once filled.
            index: int32 scalar. The slot that `token` takes.
            vision: Optional `Segment` of visual keys and values, when the
                layer's self-attention is on.

        Returns:
            The token's new state (batch, 1, hidden_dim), and the updated
            `(keys, values)` of the text cache.
        """
        normed = self.input_norm(token)
        key, value = self.project_keys_values(normed, position)
        # Cheaper than a slice update, which PyTorch does by index tensors.
        slots = ops.arange(ops.shape(text.keys)[1], dtype="int32")
        here = ops.reshape(slots == index, (1, -1, 1, 1))
        keys = ops.where(here, key, text.keys)
        values = ops.where(here, value, text.values)
        segments = [text._replace(keys=keys, values=values)]
        if vision is not None:
            segments.append(vision)
        return self.read(token, normed, position, segments), (keys, values)

    def compute_output_spec(
        self,
        text,
        text_positions,
        text_mask=None,
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
