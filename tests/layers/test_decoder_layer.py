import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import call
from layer_checks import check_spec
from layer_checks import decoder_layer_weights
from layer_checks import randomize
from layer_checks import to_numpy
from reference import Shape
from reference import decoder_layer
from torch import from_numpy

from keras_visor.layers import VisorDecoderLayer
from keras_visor.layers import attention
from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import make_view

HIDDEN = 16
SHAPE = Shape(num_heads=4, num_key_value_heads=2, rope_theta=1e4, epsilon=1e-3)
RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(2, 6, HIDDEN)).astype("float32")
# As where images stand among the words: positions with holes.
POSITIONS = np.array([[0, 1, 2, 9, 10, 11], [3, 4, 20, 21, 22, 40]])


def make_layer(dtype="float32"):
    layer = VisorDecoderLayer(
        intermediate_dim=24,
        num_query_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_key_value_heads,
        rope_max_wavelength=SHAPE.rope_theta,
        layer_norm_epsilon=SHAPE.epsilon,
        dtype=dtype,
    )
    layer.build(TEXT.shape)
    randomize(layer)
    return layer


def expected(layer, tokens, positions):
    weights = decoder_layer_weights(layer)
    tokens, positions = from_numpy(tokens), from_numpy(positions)
    return decoder_layer(tokens, positions, weights, SHAPE).numpy()


def test_equals_the_reference():
    layer = make_layer()
    output = to_numpy(call(layer, text=TEXT, text_positions=POSITIONS))
    for row in range(2):
        np.testing.assert_allclose(
            output[row], expected(layer, TEXT[row], POSITIONS[row]), atol=2e-5
        )


def test_bfloat16_is_close_to_float32():
    output = call(make_layer("bfloat16"), text=TEXT, text_positions=POSITIONS)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    full = to_numpy(call(make_layer(), text=TEXT, text_positions=POSITIONS))
    error = np.abs(to_numpy(output) - full).max()
    assert 0 < error < 0.03 * np.abs(full).max()


def test_a_token_depends_on_no_later_position():
    """Whatever the order that the tokens are stored in."""
    layer = make_layer()
    order = np.array([3, 0, 5, 2, 4, 1])
    before = to_numpy(call(layer, text=TEXT, text_positions=POSITIONS))
    shuffled = to_numpy(
        call(layer, text=TEXT[:, order], text_positions=POSITIONS[:, order])
    )
    np.testing.assert_allclose(shuffled, before[:, order], atol=2e-5)
    changed = TEXT.copy()
    changed[:, 3] += 1.0
    after = to_numpy(call(layer, text=changed, text_positions=POSITIONS))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert np.all(np.abs(after - before).max(axis=2)[:, 3:] > 1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_neighbours_change_nothing(side):
    layer = make_layer()
    alone = to_numpy(call(layer, text=TEXT[:1], text_positions=POSITIONS[:1]))
    pads = ((0, 0), (3, 0) if side == "left" else (0, 3))
    padded = np.pad(TEXT, (*pads, (0, 0)), constant_values=7.0)
    output = to_numpy(
        call(
            layer,
            text=padded,
            text_positions=np.pad(POSITIONS, pads),
            text_mask=np.pad(np.ones(POSITIONS.shape, bool), pads),
        )
    )
    output = output[:1, 3:] if side == "left" else output[:1, :-3]
    np.testing.assert_allclose(output, alone, atol=2e-5)


def test_long_queries_are_taken_in_blocks(monkeypatch):
    layer = make_layer()
    whole = to_numpy(call(layer, text=TEXT, text_positions=POSITIONS))
    monkeypatch.setattr(attention, "FEW_SCORES", 1)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    blocks = to_numpy(call(layer, text=TEXT, text_positions=POSITIONS))
    np.testing.assert_allclose(blocks, whole, atol=2e-5)


def test_stepping_through_the_cache_equals_one_call():
    layer = make_layer()
    whole, (keys, values) = call(
        layer, text=TEXT, text_positions=POSITIONS, return_cache=True
    )
    _, (prompt_keys, prompt_values) = call(
        layer,
        text=TEXT[:, :4],
        text_positions=POSITIONS[:, :4],
        return_cache=True,
    )
    pads = ((0, 0), (0, 2), (0, 0), (0, 0))
    cache = ops.pad(prompt_keys, pads), ops.pad(prompt_values, pads)

    def step(token, position, keys, values, index):
        exists = ops.ones(POSITIONS.shape, "bool")
        positions = ops.convert_to_tensor(POSITIONS)
        segment = Segment(keys, values, positions, exists)
        return layer.step(
            token,
            layer.make_rotation(position),
            make_view(position, segment),
            (ops.arange(6) == index)[:, None, None],
        )

    for slot in (4, 5):
        token, cache = call(
            step,
            token=TEXT[:, slot : slot + 1],
            position=POSITIONS[:, slot : slot + 1],
            keys=cache[0],
            values=cache[1],
            index=slot,
        )
        np.testing.assert_allclose(
            to_numpy(token)[:, 0], to_numpy(whole)[:, slot], atol=2e-5
        )
    np.testing.assert_allclose(to_numpy(cache[0]), to_numpy(keys), atol=2e-5)
    np.testing.assert_allclose(to_numpy(cache[1]), to_numpy(values), atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_spec_without_running(dtype):
    layer = make_layer(dtype)
    specs = layer.compute_output_spec(
        keras.KerasTensor((2, 6, HIDDEN)),
        keras.KerasTensor((2, 6), "int32"),
        return_cache=True,
    )
    outputs = call(
        layer, text=TEXT, text_positions=POSITIONS, return_cache=True
    )
    keras.tree.map_structure(check_spec, specs, outputs)
    spec = layer.compute_output_spec(
        keras.KerasTensor((None, None, HIDDEN)),
        keras.KerasTensor((None, None), "int32"),
    )
    assert spec.shape == (None, None, HIDDEN)


def test_saves_within_a_model(tmp_path):
    text = keras.Input((None, HIDDEN))
    positions = keras.Input((None,), dtype="int32")
    layer = make_layer()
    model = keras.Model([text, positions], layer(text, positions))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = [TEXT, POSITIONS]
    np.testing.assert_allclose(
        to_numpy(call(loaded, inputs=inputs)),
        to_numpy(call(layer, text=TEXT, text_positions=POSITIONS)),
        atol=2e-5,
    )
    copy = VisorDecoderLayer.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.layer_norm_epsilon == SHAPE.epsilon


def test_bad_arguments():
    with pytest.raises(ValueError, match="4 query heads.*_heads=3"):
        VisorDecoderLayer(24, num_query_heads=4, num_key_value_heads=3)
    layer = VisorDecoderLayer(24, num_query_heads=3, num_key_value_heads=3)
    with pytest.raises(ValueError, match="3 heads, hidden width 16"):
        layer.build((1, 6, HIDDEN))
    with pytest.raises(ValueError, match="1 head or more.*_heads=0"):
        VisorDecoderLayer(24, num_query_heads=4, num_key_value_heads=0)
    layer = VisorDecoderLayer(24, num_query_heads=16, num_key_value_heads=16)
    with pytest.raises(ValueError, match="must be even.*1, of hidden width 16"):
        layer.build((1, 6, HIDDEN))
