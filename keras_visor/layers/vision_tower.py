"""From tiles to packed visual tokens."""

import keras
from keras import ops

from keras_visor._compat import SigLIPEncoderLayer
from keras_visor._compat import SigLIPVisionEmbedding
from keras_visor.layers.blocks import map_blocks
from keras_visor.layers.take_tokens import take_tokens

# Queries of a tile whose attention scores stand in memory at once.
QUERY_BLOCK = 128


class VisorVisionTower(keras.layers.Layer):
    """Encodes tiles, projects their features and packs them into tokens.

    Packing (base tile, tiles, unpadding, shrinking, newlines) is a sparse
    gather: the image converter computes on the host, per visual token, up to
    four source rows and their weights; row 0 is `image_newline`, row
    `1 + tile * patches + patch` a projected patch. The projector is the
    `LlavaOnevisionMultiModalProjector` of `transformers`: Dense, exact GELU,
    Dense.

    Args:
        encoder: `keras.Model`. Maps images (batch, height, width, 3) to
            features (batch, patches, feature_dim).
        hidden_dim: int. Width of the visual tokens.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        images: Tensor (batch, tiles, height, width, 3).
        vision_indices: int32 tensor (batch, vision_length, 4).
        vision_weights: float32 tensor (batch, vision_length, 4).
        return_attention: bool. Whether to return, too, how much attention
            each visual token received in the encoder. Defaults to `False`.

    Returns:
        Visual tokens, a tensor (batch, vision_length, hidden_dim), and with
        `return_attention` a float32 tensor (batch, vision_length).
    """

    def __init__(self, encoder: keras.Model, hidden_dim: int, **kwargs):
        # The encoder casts the images; the weights of the gather stay float32
        # until they meet the features.
        super().__init__(autocast=False, **kwargs)
        self.encoder = encoder
        self.hidden_dim = hidden_dim
        self.projector_in = keras.layers.Dense(
            hidden_dim, dtype=self.dtype_policy, name="projector_in"
        )
        self.projector_out = keras.layers.Dense(
            hidden_dim, dtype=self.dtype_policy, name="projector_out"
        )

    def build(self, images_shape):
        # `transformers` draws the newline with the same deviation.
        self.image_newline = self.add_weight(
            shape=(self.hidden_dim,),
            initializer=keras.initializers.RandomNormal(
                stddev=self.hidden_dim**-0.5
            ),
            name="image_newline",
        )
        self.projector_in.build((None, None, self.encoder.output.shape[-1]))
        self.projector_out.build((None, None, self.hidden_dim))
        self.built = True

    def call(
        self,
        images,
        vision_indices,
        vision_weights,
        return_attention: bool = False,
    ):
        batch, tiles = ops.shape(images)[:2]
        images = ops.reshape(images, (batch * tiles, *images.shape[2:]))
        if not return_attention:
            features = self.encode(images)
        else:
            features, attention = self.encode_with_attention(images)
        # Not the static shape: KerasHub's SigLIP states one token too many.
        patches = ops.shape(features)[1]
        tokens = self.pack(
            ops.reshape(features, (batch, tiles * patches, self.hidden_dim)),
            vision_indices,
            vision_weights,
        )
        if not return_attention:
            return tokens
        return tokens, self.pack_attention(
            ops.reshape(attention, (batch, tiles * patches)),
            vision_indices,
            vision_weights,
        )

    def encode(self, tiles):
        """Projected patches (batch, patches, hidden_dim) of single tiles."""
        return self._project(self.encoder(tiles))

    def _project(self, features):
        hidden = self.projector_in(features)
        return self.projector_out(ops.gelu(hidden, approximate=False))

    @property
    def has_attention(self) -> bool:
        """Whether the encoder's last block has attention that can be read."""
        layers = self.encoder.layers[1:]
        embedding, blocks = layers[:1], layers[1:]
        return (
            len(blocks) > 0
            and isinstance(embedding[0], SigLIPVisionEmbedding)
            and all(isinstance(block, SigLIPEncoderLayer) for block in blocks)
        )

    def encode_with_attention(self, tiles):
        """`encode`, and how much attention each patch received.

        The last block runs as ever; its scores are computed once more, beside
        it, a block of queries at a time.

        Returns:
            `(patches, attention)`: what `encode` gives, and a float32 tensor
            (batch, patches): the attention weights of the encoder's last
            block, the mean over its heads and queries. A tile's sum to one.
        """
        hidden = tiles
        *trunk, last_block = self.encoder.layers[1:]
        for layer in trunk:
            hidden = layer(hidden)
        attention = _attention_received(last_block, hidden)
        return self._project(last_block(hidden)), attention

    def pack(self, patches, vision_indices, vision_weights):
        """Gather visual tokens from the projected patches of all tiles.

        Args:
            patches: Tensor (batch, tiles * patches, hidden_dim).
            vision_indices: int32 tensor (batch, vision_length, 4).
            vision_weights: float32 tensor (batch, vision_length, 4).
        """
        batch = ops.shape(patches)[0]
        newline = ops.cast(self.image_newline, patches.dtype)
        rows = ops.concatenate(
            [ops.tile(newline[None, None], (batch, 1, 1)), patches], axis=1
        )
        return _gather(rows, vision_indices, vision_weights)

    def pack_attention(self, attention, vision_indices, vision_weights):
        """Gather the attention of visual tokens; a newline's is zero.

        Args:
            attention: float32 tensor (batch, tiles * patches).
            vision_indices: int32 tensor (batch, vision_length, 4).
            vision_weights: float32 tensor (batch, vision_length, 4).

        Returns:
            A float32 tensor (batch, vision_length).
        """
        rows = ops.pad(attention, ((0, 0), (1, 0)))[:, :, None]
        return _gather(rows, vision_indices, vision_weights)[:, :, 0]

    def compute_output_spec(
        self, images, vision_indices, vision_weights, return_attention=False
    ):
        shape = vision_indices.shape[:2]
        tokens = keras.KerasTensor(
            (*shape, self.hidden_dim), dtype=self.compute_dtype
        )
        if not return_attention:
            return tokens
        return tokens, keras.KerasTensor(shape, dtype="float32")


def _gather(rows, indices, weights):
    """Weighted sums of four rows each.

    Args:
        rows: Tensor (batch, rows, width).
        indices: int32 tensor (batch, length, 4).
        weights: float32 tensor (batch, length, 4).

    Returns:
        A tensor (batch, length, width).
    """
    tokens = 0.0
    for source in range(4):
        gathered = take_tokens(rows, indices[:, :, source])
        weight = ops.cast(weights[:, :, source, None], rows.dtype)
        tokens = tokens + gathered * weight
    return tokens


def _attention_received(block, hidden):
    """Mean attention weights (batch, patches) on each patch in a block."""
    attention = block.self_attn
    normed = block.layer_norm1(hidden)
    query = attention.query_dense(normed) * attention.key_dim**-0.5
    keys = ops.transpose(attention.key_dense(normed), (0, 2, 3, 1))

    def mean_over_heads(query):
        scores = ops.matmul(ops.transpose(query, (0, 2, 1, 3)), keys)
        weights = ops.softmax(ops.cast(scores, "float32"), axis=-1)
        return ops.mean(weights, axis=1)

    weights = map_blocks(mean_over_heads, QUERY_BLOCK, query)
    return ops.mean(weights, axis=1)
