import gc
import weakref

import keras
import keras_hub
import numpy as np
import pytest

from keras_visor import VisorBackbone
from keras_visor import VisorCausalLM
from keras_visor import VisorCausalLMPreprocessor
from keras_visor import VisorImageConverter
from keras_visor import VisorTokenizer

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
        **{
            "vocabulary_size": 20,
            "num_layers": 2,
            "num_query_heads": 2,
            "num_key_value_heads": 1,
            "hidden_dim": 8,
            "intermediate_dim": 12,
            **arguments,
        },
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


def plain_encoder(features):
    """One feature for each of 4 patches, after or without a class token."""
    images = keras.Input((8, 8, 3))
    patches = keras.layers.AveragePooling2D(4)(images)
    patches = keras.layers.Reshape((4, 3))(patches)
    if features == 5:
        patches = keras.layers.ZeroPadding1D((1, 0))(patches)
    return keras.Model(images, patches)


def test_an_unknown_number_of_features_is_refused():
    images = keras.Input((None, 3))
    encoder = keras.Model(images, keras.layers.Dense(3)(images))
    with pytest.raises(ValueError, match="known number.*None, None, 3"):
        backbone_of(encoder)


def test_a_class_token_is_refused():
    """Else the gather, which knows none, would take it for a patch."""
    converter = VisorImageConverter(8, 2, grid_pinpoints=[(8, 8)])
    tokenizer = VisorTokenizer.from_preset("visor_tiny_en")
    preprocessor = VisorCausalLMPreprocessor(tokenizer, converter)
    fits, too_many = (
        backbone_of(
            plain_encoder(features),
            vocabulary_size=tokenizer.vocabulary_size(),
        )
        for features in (4, 5)
    )
    VisorCausalLM(fits, preprocessor)
    with pytest.raises(ValueError, match="patches_per_side` must be 2.236"):
        VisorCausalLM(too_many, preprocessor)


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
