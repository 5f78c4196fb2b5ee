"""From tiles to packed visual tokens."""

import keras
from keras import ops


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

    Returns:
        Visual tokens, a tensor (batch, vision_length, hidden_dim).
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

    def call(self, images, vision_indices, vision_weights):
        batch, tiles = ops.shape(images)[:2]
        features = self.encode(
            ops.reshape(images, (batch * tiles, *images.shape[2:]))
        )
        # Not the static shape: KerasHub's SigLIP states one token too many.
        patches = ops.shape(features)[1]
        return self.pack(
            ops.reshape(features, (batch, tiles * patches, self.hidden_dim)),
            vision_indices,
            vision_weights,
        )

    def encode(self, tiles):
        """Projected patches (batch, patches, hidden_dim) of single tiles."""
        hidden = self.projector_in(self.encoder(tiles))
        return self.projector_out(ops.gelu(hidden, approximate=False))

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
        tokens = 0.0
        for source in range(4):
            gathered = ops.take_along_axis(
                rows, vision_indices[:, :, source, None], axis=1
            )
            weight = ops.cast(vision_weights[:, :, source, None], rows.dtype)
            tokens = tokens + gathered * weight
        return tokens

    def compute_output_spec(self, images, vision_indices, vision_weights):
        return keras.KerasTensor(
            (*vision_indices.shape[:2], self.hidden_dim),
            dtype=self.compute_dtype,
        )
