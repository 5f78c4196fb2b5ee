"""Text-to-image cross-attention."""

import keras
from keras import ops

from keras_visor.layers.attention import NOWHERE
from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import View
from keras_visor.layers.attention import as_mask
from keras_visor.layers.attention import attend
from keras_visor.layers.attention import attend_views
from keras_visor.layers.attention import attention_weights
from keras_visor.layers.attention import make_view
from keras_visor.layers.attention import visible
from keras_visor.layers.blocks import TOKEN_BLOCK
from keras_visor.layers.blocks import map_blocks
from keras_visor.layers.kernels import depthwise_convolution
from keras_visor.layers.kernels import has_depthwise_convolution
from keras_visor.layers.projections import check_heads
from keras_visor.layers.projections import from_heads
from keras_visor.layers.projections import head_width
from keras_visor.layers.projections import normalize
from keras_visor.layers.projections import project
from keras_visor.layers.projections import rms_norm
from keras_visor.layers.projections import to_heads
from keras_visor.layers.rematerialization import RematerializesStreams


@keras.saving.register_keras_serializable("keras_visor")
class VisorCrossAttention(RematerializesStreams, keras.layers.Layer):
    """What the text tokens read from the visual tokens: `CA(T, V)`.

    Queries come from `RMSNorm(T)`, keys and values from
    `RMSNorm(V + DWConv(V))`, where `DWConv`, the conditional positional
    embedding, is a depthwise 1-D convolution over each image of a sample
    apart. A text token sees the visual tokens at smaller positions; one that
    sees none gets exactly zero. There is no rotary embedding. V does not
    change, and the caller adds the result to T. Follows section "The
    architecture" of VISOR (arXiv 2603.23495).

    The convolution and the output projection start from zero, so that a
    fresh layer adds nothing.

    Args:
        num_heads: int. Number of query heads; divides the hidden width.
        num_key_value_heads: int. Number of key/value heads; divides
            `num_heads`. Defaults to `None`, as many as query heads.
        position_kernel_size: int. Odd width of the convolution. Defaults to
            `7`.
        layer_norm_epsilon: float. Epsilon of both norms. Defaults to `1e-6`.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        text: Tensor (batch, text_length, hidden_dim).
        vision: Tensor (batch, vision_length, hidden_dim).
        text_positions: int32 tensor (batch, text_length).
        vision_positions: int32 tensor (batch, vision_length).
        vision_mask: bool tensor (batch, vision_length), False at padding.
            Defaults to `None`, no padding.
        vision_image_ids: int32 tensor (batch, vision_length), the image of
            the sample that a visual token belongs to. Defaults to `None`, one
            image a sample.
        return_cache: bool. Whether to return the keys and values of the
            visual tokens too. Defaults to `False`.

    Returns:
        A tensor of the shape of `text`, or, with `return_cache`, that and
        `(keys, values)`, each (batch, vision_length, num_key_value_heads,
        head_dim).

    Example:
    ```python
    cross_attention = keras_visor.layers.VisorCrossAttention(num_heads=4)
    text = np.random.uniform(size=(1, 3, 32))
    update = cross_attention(
        text,
        np.random.uniform(size=(1, 9, 32)),
        text_positions=np.arange(9, 12)[None],
        vision_positions=np.arange(9)[None],
    )
    ```
    """

    def __init__(
        self,
        num_heads: int,
        num_key_value_heads: int | None = None,
        position_kernel_size: int = 7,
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_key_value_heads is None:
            num_key_value_heads = num_heads
        check_heads(num_heads, num_key_value_heads)
        if position_kernel_size < 1 or position_kernel_size % 2 == 0:
            raise ValueError(
                "`position_kernel_size` must be odd and positive. Received: "
                f"position_kernel_size={position_kernel_size}"
            )
        self.num_heads = num_heads
        self.num_key_value_heads = num_key_value_heads
        self.position_kernel_size = position_kernel_size
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, text_shape):
        width = text_shape[-1]
        head_dim = head_width(width, self.num_heads)
        key_value_heads = self.num_key_value_heads
        epsilon, dtype = self.layer_norm_epsilon, self.dtype_policy
        self.query_norm = rms_norm(width, epsilon, dtype, "query_norm")
        self.key_value_norm = rms_norm(width, epsilon, dtype, "key_value_norm")
        self.query_dense = to_heads(
            width, self.num_heads, head_dim, dtype, "query_dense"
        )
        self.key_dense = to_heads(
            width, key_value_heads, head_dim, dtype, "key_dense"
        )
        self.value_dense = to_heads(
            width, key_value_heads, head_dim, dtype, "value_dense"
        )
        self.output_dense = from_heads(
            width,
            self.num_heads,
            head_dim,
            dtype,
            "output_dense",
            kernel_initializer="zeros",
        )
        self.position_kernel = self.add_weight(
            shape=(self.position_kernel_size, width),
            initializer="zeros",
            name="position_kernel",
        )
        self.position_bias = self.add_weight(
            shape=(width,), initializer="zeros", name="position_bias"
        )
        self.built = True

    def call(
        self,
        text,
        vision,
        text_positions,
        vision_positions,
        vision_mask=None,
        vision_image_ids=None,
        return_cache: bool = False,
    ):
        keys, values = self.project_vision(
            vision, vision_mask, vision_image_ids
        )
        mask = as_mask(vision_positions, vision_mask)
        update = self.read(
            text,
            text_positions,
            Segment(keys, values, vision_positions, mask),
        )
        return (update, (keys, values)) if return_cache else update

    def project_vision(self, vision, vision_mask=None, vision_image_ids=None):
        """Keys and values of the visual tokens: computed once, then cached."""
        if vision_image_ids is None and has_depthwise_convolution():
            if vision_mask is not None:
                vision = ops.where(vision_mask[:, :, None], vision, 0.0)
            arrays, embed = (vision,), self._convolve
        else:
            if vision_mask is None:
                vision_mask = ops.ones(ops.shape(vision)[:2], dtype="bool")
            if vision_image_ids is None:
                vision_image_ids = ops.zeros_like(vision_mask, dtype="int32")
            # Whatever the ids say of padding: it is no part of any image.
            image_ids = ops.where(vision_mask, vision_image_ids, -1)
            # Beyond the ends ids are zeros too: there, zeros of `vision` add
            # nothing to any image.
            arrays, embed = (vision, image_ids), self._sum_of_taps
        return map_blocks(
            lambda *block: self._keys_values(block[0], embed(*block)),
            TOKEN_BLOCK,
            *arrays,
            margin=self.position_kernel_size // 2,
        )

    def _keys_values(self, vision, embedding):
        normed = normalize(self.key_value_norm, vision + embedding)
        keys = project(self.key_dense, normed)
        return keys, project(self.value_dense, normed)

    def read(self, text, text_positions, vision: Segment):
        """Cross-attention of text tokens over cached keys and values."""
        query = self._project_queries(text)
        attended = attend(query, text_positions, vision)
        first = ops.min(
            ops.where(vision.mask, vision.positions, NOWHERE),
            axis=1,
            keepdims=True,
        )
        return self._finish(attended, first <= text_positions)

    def step(self, token, vision: View, sees_any):
        """One decoding step: `read` of one token, which knows what it sees.

        Args:
            token: Tensor (batch, 1, hidden_dim).
            vision: `View` of the cached keys and values.
            sees_any: bool tensor (batch, 1), whether that is anything.
        """
        query = self._project_queries(token)
        return self._finish(attend_views(query, [vision]), sees_any)

    def _project_queries(self, text):
        return project(self.query_dense, normalize(self.query_norm, text))

    def _finish(self, attended, sees_any):
        """A token that sees no visual token gets exactly zero."""
        attended = ops.where(sees_any[:, :, None, None], attended, 0.0)
        return project(self.output_dense, attended)

    def vision_attention(
        self,
        text,
        vision,
        text_positions,
        vision_positions,
        vision_mask=None,
        vision_image_ids=None,
    ):
        """How much each text token looks at each visual token.

        Returns:
            A float32 tensor (batch, text_length, vision_length), the mean
            over the heads. A row sums to one, or to zero where the token sees
            no visual token.
        """
        vision_mask = as_mask(vision_positions, vision_mask)
        keys, _ = self.project_vision(vision, vision_mask, vision_image_ids)
        segment = Segment(keys, None, vision_positions, vision_mask)
        query = self._project_queries(text)
        view = make_view(text_positions, segment)
        weights = attention_weights(query, [view])[0]
        seen = visible(text_positions, vision_positions, vision_mask)
        return ops.mean(weights, axis=(1, 2)) * ops.cast(seen, "float32")

    def _convolve(self, vision):
        """The depthwise convolution of a single image."""
        return depthwise_convolution(
            vision,
            ops.cast(self.position_kernel, vision.dtype),
            ops.cast(self.position_bias, vision.dtype),
        )

    def _sum_of_taps(self, vision, image_ids):
        """The depthwise convolution of each image apart, tap by tap.

        A tap counts only within its own image, so nothing leaks from a
        neighbouring image or from padding.
        """
        reach = self.position_kernel_size // 2
        padded = ops.pad(vision, ((0, 0), (reach, reach), (0, 0)))
        # -2 is no image's id, nor padding's.
        padded_ids = ops.pad(
            image_ids, ((0, 0), (reach, reach)), constant_values=-2
        )
        kernel = ops.cast(self.position_kernel, vision.dtype)
        embedding = ops.cast(self.position_bias, vision.dtype)
        for tap in range(self.position_kernel_size):
            window = slice(tap, tap - 2 * reach or None)
            same_image = ops.cast(
                ops.equal(padded_ids[:, window], image_ids), vision.dtype
            )
            embedding = embedding + (
                padded[:, window] * same_image[:, :, None] * kernel[tap]
            )
        return embedding

    def compute_output_spec(
        self,
        text,
        vision,
        text_positions,
        vision_positions,
        vision_mask=None,
        vision_image_ids=None,
        return_cache=False,
    ):
        update = keras.KerasTensor(text.shape, dtype=self.compute_dtype)
        if not return_cache:
            return update
        shape = (
            *vision.shape[:2],
            self.num_key_value_heads,
            vision.shape[-1] // self.num_heads,
        )
        keys = keras.KerasTensor(shape, dtype=self.compute_dtype)
        values = keras.KerasTensor(shape, dtype=self.compute_dtype)
        return update, (keys, values)

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "num_heads": self.num_heads,
                "num_key_value_heads": self.num_key_value_heads,
                "position_kernel_size": self.position_kernel_size,
                "layer_norm_epsilon": self.layer_norm_epsilon,
            }
        )
        return config
