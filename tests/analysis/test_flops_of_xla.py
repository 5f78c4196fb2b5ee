"""`count_flops` beside what XLA counts in the program of a prefill."""

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

import keras_visor
from keras_visor.layers.attention import FEW_SCORES
from keras_visor.layers.streams import Streams

TEXT_LENGTH, VISION_LENGTH = 64, 288
HIDDEN_DIM = 512


def backbone(**layout):
    return keras_visor.VisorBackbone(
        keras_hub.models.SigLIPVisionEncoder(
            patch_size=7,
            hidden_dim=8,
            num_layers=1,
            num_heads=1,
            intermediate_dim=8,
            image_shape=(14, 14, 3),
        ),
        vocabulary_size=8,
        num_layers=3,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=HIDDEN_DIM,
        intermediate_dim=1024,
        **layout,
    )


@pytest.mark.skipif(
    keras.config.backend() != "jax", reason="Only JAX tells XLA's count"
)
@pytest.mark.parametrize("budget", [0, 1, None])
def test_agrees_with_xla(budget):
    import jax

    # No loop, whose body XLA would count once.
    assert (TEXT_LENGTH + VISION_LENGTH) ** 2 <= FEW_SCORES
    layout = {} if budget is None else keras_visor.uniform_layout(3)
    model = backbone(**layout)

    def prefill(text, vision):
        positions = np.arange(VISION_LENGTH + TEXT_LENGTH, dtype="int32")[None]
        streams = Streams(
            text=text,
            text_positions=positions[:, VISION_LENGTH:],
            text_mask=np.ones((1, TEXT_LENGTH), bool),
            vision=vision,
            vision_positions=positions[:, :VISION_LENGTH],
            vision_mask=np.ones((1, VISION_LENGTH), bool),
            vision_image_ids=np.zeros((1, VISION_LENGTH), "int32"),
        )
        # The paper's count has the visual tokens refined to the end.
        streams = model.run_layers(
            streams, model.switches(budget or 0), keep_vision=True
        )
        return streams.text, streams.vision

    arguments = (
        ops.zeros((1, TEXT_LENGTH, HIDDEN_DIM)),
        ops.zeros((1, VISION_LENGTH, HIDDEN_DIM)),
    )
    counted = jax.jit(prefill).lower(*arguments).cost_analysis()["flops"]
    expected = keras_visor.analysis.count_flops(
        model, TEXT_LENGTH, VISION_LENGTH, budget
    )
    assert counted == pytest.approx(expected, rel=0.05)
