import gc
import weakref

import keras
import keras_hub
import numpy as np

from keras_visor import VisorBackbone

IMAGES = {"images": np.linspace(-1, 1, 28 * 28 * 3).reshape((1, 28, 28, 3))}


def make_encoder():
    return keras_hub.models.SigLIPVisionEncoder(
        patch_size=7,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        intermediate_dim=24,
        image_shape=(28, 28, 3),
    )


def backbone_of(encoder):
    return VisorBackbone(
        encoder,
        vocabulary_size=20,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=12,
    )


def test_the_unused_pooling_head_is_freed():
    encoder = make_encoder()
    backbone = backbone_of(encoder)
    unused = [
        weakref.ref(layer) for layer in (encoder.post_layer_norm, encoder.head)
    ]
    used = weakref.ref(encoder.encoder_layers[-1])
    del encoder
    gc.collect()
    assert [layer() for layer in unused] == [None, None]
    assert used() in backbone.vision_tower.encoder.layers


def test_the_callers_encoder_still_works():
    encoder = make_encoder()
    before = keras.ops.convert_to_numpy(encoder(IMAGES))
    backbone = backbone_of(encoder)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(encoder(IMAGES)), before
    )
    # Another model can still be built upon it, and the layers are shared.
    double = keras.Model(encoder.input, encoder.output * 2)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(double(IMAGES)), 2 * before, rtol=1e-6
    )
    assert encoder.encoder_layers[0] in backbone.vision_tower.encoder.layers
    assert backbone_of(encoder).patches_per_tile == 16
