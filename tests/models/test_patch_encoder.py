import gc
import weakref

import keras
import keras_hub
import numpy as np
import pytest

from keras_visor import VisorBackbone

IMAGES = {"images": np.linspace(-1, 1, 28 * 28 * 3).reshape((1, 28, 28, 3))}


def make_encoder(**arguments):
    return keras_hub.models.SigLIPVisionEncoder(
        patch_size=7,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        intermediate_dim=24,
        image_shape=(28, 28, 3),
        **arguments,
    )


def backbone_of(encoder, **arguments):
    return VisorBackbone(
        encoder,
        vocabulary_size=20,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=12,
        **arguments,
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


def test_an_encoder_keeps_a_dtype_of_its_own():
    backbone = backbone_of(make_encoder(dtype="float32"), dtype="bfloat16")
    copy = VisorBackbone.from_config(backbone.get_config())
    assert copy.token_embedding.compute_dtype == "bfloat16"
    assert copy.vision_tower.encoder.layers[-1].compute_dtype == "float32"


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_from_preset_gives_all_layers_one_dtype(tmp_path, dtype):
    """KerasHub's default is Keras', whatever a preset was saved in."""
    backbone_of(make_encoder(dtype="bfloat16")).save_to_preset(str(tmp_path))
    copy = VisorBackbone.from_preset(str(tmp_path), dtype=dtype)
    for layer in (copy.token_embedding, copy.vision_tower.encoder.layers[-1]):
        assert layer.compute_dtype == (dtype or "float32")


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
