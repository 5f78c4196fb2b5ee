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
from reference import Streams
from reference import self_attention
from reference import text_only
from torch import from_numpy

from keras_visor import VisorSelfAttentionGate
from keras_visor.layers.attention import Segment
from keras_visor.layers.attention import make_view

HIDDEN = 16
SHAPE = Shape(num_heads=4, num_key_value_heads=2, rope_theta=1e4, epsilon=1e-3)
RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(3, 4, HIDDEN)).astype("float32")
VISION = RNG.normal(size=(3, 6, HIDDEN)).astype("float32")
INPUTS = {
    "text": TEXT,
    "vision": VISION,
    # The image before, among and after the words.
    "text_positions": np.array([[6, 7, 8, 9], [0, 1, 8, 9], [0, 1, 2, 3]]),
    "vision_positions": np.array(
        [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9]]
    ),
    "text_mask": np.ones((3, 4), bool),
    "vision_mask": np.ones((3, 6), bool),
}


def make_layer(dtype="float32"):
    layer = VisorSelfAttentionGate(
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


def run(layer, **inputs):
    """Text and visual tokens as NumPy arrays."""
    text, vision = call(layer, **{**INPUTS, **inputs})[:2]
    return to_numpy(text), to_numpy(vision)


@pytest.mark.parametrize("enabled", [True, False])
def test_equals_the_reference(enabled):
    layer = make_layer()
    text, vision = run(layer, enabled=enabled)
    role = self_attention if enabled else text_only
    for row in range(3):
        streams = Streams(
            text=from_numpy(TEXT[row]),
            visual=from_numpy(VISION[row]),
            text_positions=from_numpy(INPUTS["text_positions"][row]),
            vision_positions=from_numpy(INPUTS["vision_positions"][row]),
            vision_image_ids=None,
        )
        expected = role(streams, decoder_layer_weights(layer), SHAPE)
        np.testing.assert_allclose(text[row], expected.text.numpy(), atol=2e-5)
        np.testing.assert_allclose(
            vision[row], expected.visual.numpy(), atol=2e-5
        )


def test_off_is_the_decoder_layer_and_leaves_the_visual_tokens():
    layer = make_layer()
    text, vision = run(layer, enabled=False)
    np.testing.assert_array_equal(vision, VISION)
    without, none = call(
        layer,
        text=TEXT,
        vision=None,
        text_positions=INPUTS["text_positions"],
        vision_positions=None,
    )
    assert none is None
    np.testing.assert_allclose(to_numpy(without), text, atol=2e-5)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_tensor_is_the_python_bool(enabled):
    layer = make_layer()
    text, vision = run(layer, enabled=enabled)
    switched = run(layer, enabled=np.full(3, enabled))
    np.testing.assert_allclose(switched[0], text, atol=2e-5)
    np.testing.assert_allclose(switched[1], vision, atol=2e-5)


@pytest.mark.parametrize("enabled", [(True, False, True), (False, True, False)])
def test_each_sample_has_its_own_role(enabled):
    layer = make_layer()
    text, vision = run(layer, enabled=np.array(enabled))
    roles = {on: run(layer, enabled=on) for on in (True, False)}
    for row, on in enumerate(enabled):
        np.testing.assert_allclose(text[row], roles[on][0][row], atol=2e-5)
        np.testing.assert_allclose(vision[row], roles[on][1][row], atol=2e-5)
        if not on:
            np.testing.assert_array_equal(vision[row], VISION[row])
    # Of the last sample, all words stand before the image.
    assert np.abs(roles[True][0] - roles[False][0])[:2].max() > 0.01


@pytest.mark.parametrize("enabled", [True, np.array([True] * 3)])
def test_causal_by_position_over_both_streams(enabled):
    layer = make_layer()
    before = run(layer, enabled=enabled)
    later = VISION.copy()
    later[1, 3] += 1.0  # at position 5
    text, vision = run(layer, vision=later, enabled=enabled)
    np.testing.assert_array_equal(text[1, :2], before[0][1, :2])
    np.testing.assert_array_equal(vision[1, :3], before[1][1, :3])
    assert np.all(np.abs(text - before[0])[1, 2:].max(axis=1) > 1e-3)
    assert np.all(np.abs(vision - before[1])[1, 3:].max(axis=1) > 1e-3)
    # The image sees the words before it.
    words = TEXT.copy()
    words[1, 0] += 1.0
    _, vision = run(layer, text=words, enabled=enabled)
    assert np.all(np.abs(vision - before[1])[1].max(axis=1) > 1e-3)


@pytest.mark.parametrize(
    "enabled", [True, False, np.array([True, False, True])]
)
def test_padding_and_neighbours_change_nothing(enabled):
    layer = make_layer()
    text, vision = run(layer, enabled=enabled)
    for row in range(3):
        one = {}
        for name, value in INPUTS.items():
            pads = ((0, 0), (2, 0) if "text" in name else (0, 5))
            pads += ((0, 0),) * (value.ndim - 2)
            fill = 7.0 if value.ndim == 3 else 0
            one[name] = np.pad(value[row : row + 1], pads, constant_values=fill)
        on = enabled if isinstance(enabled, bool) else enabled[row : row + 1]
        one_text, one_vision = run(layer, **one, enabled=on)
        np.testing.assert_allclose(one_text[0, 2:], text[row], atol=2e-5)
        np.testing.assert_allclose(one_vision[0, :6], vision[row], atol=2e-5)


def test_no_visual_work_when_no_sample_wants_it():
    """Any arithmetic on these visual tokens would spread NaNs."""
    layer = make_layer()
    text, _ = run(layer, enabled=False)
    nans = np.full_like(VISION, np.nan)
    for enabled in (False, np.array([False] * 3)):
        without, vision = run(layer, vision=nans, enabled=enabled)
        np.testing.assert_allclose(without, text, atol=2e-5)
        np.testing.assert_array_equal(vision, nans)


def test_a_sample_without_images_is_text_only():
    layer = make_layer()
    mask = np.array([[False] * 6, [True] * 6, [True] * 6])
    text_alone, _ = run(layer, enabled=False)
    text, vision = run(layer, enabled=True)
    for enabled in (True, np.array([True] * 3)):
        masked = run(layer, vision_mask=mask, enabled=enabled)
        np.testing.assert_allclose(masked[0][0], text_alone[0], atol=2e-5)
        np.testing.assert_allclose(masked[0][1:], text[1:], atol=2e-5)
        np.testing.assert_allclose(masked[1][1:], vision[1:], atol=2e-5)


def test_masks_default_to_no_padding():
    layer = make_layer()
    text, vision = run(layer)
    again = run(layer, text_mask=None, vision_mask=None)
    np.testing.assert_allclose(again[0], text, atol=2e-5)
    np.testing.assert_allclose(again[1], vision, atol=2e-5)


def test_a_step_reads_the_visual_cache():
    layer = make_layer()
    text, _ = run(layer)
    prompt = {
        name: value[:, :3] if "text" in name else value
        for name, value in INPUTS.items()
    }
    _, _, text_cache, vision_cache = call(layer, **prompt, return_cache=True)
    pads = ((0, 0), (0, 1), (0, 0), (0, 0))

    def step(token, position, caches, positions, masks):
        text_view, vision_view = (
            make_view(position, Segment(*segment))
            for segment in zip(*caches, positions, masks, strict=True)
        )
        return layer.step(
            token,
            layer.make_rotation(position),
            text_view,
            (ops.arange(4) == 3)[:, None, None],
            vision=vision_view,
        )

    text_cache = [ops.pad(part, pads) for part in text_cache]
    token, _ = call(
        step,
        token=TEXT[:, 3:],
        position=INPUTS["text_positions"][:, 3:],
        caches=list(zip(text_cache, vision_cache, strict=True)),
        positions=[INPUTS["text_positions"], INPUTS["vision_positions"]],
        masks=[INPUTS["text_mask"], INPUTS["vision_mask"]],
    )
    np.testing.assert_allclose(to_numpy(token)[:, 0], text[:, 3], atol=2e-5)


def test_off_there_is_no_visual_cache():
    layer = make_layer()
    *_, vision_cache = call(layer, **INPUTS, enabled=False, return_cache=True)
    assert vision_cache is None


def test_attention_to_the_image():
    layer = make_layer()
    weights = to_numpy(call(layer.vision_attention, **INPUTS))
    assert weights.shape == (3, 4, 6)
    share = weights.sum(axis=2)
    np.testing.assert_array_equal(share[1, :2], [0, 0])
    np.testing.assert_array_equal(share[2], [0, 0, 0, 0])
    assert np.all((share[0] > 0) & (share[0] < 1))
    # A word alone after the image: it looks at the image and at itself.
    text = {
        "normed": call(layer.input_norm, x=TEXT[:1, :1]),
        "rotation": layer.make_rotation(INPUTS["text_positions"][:1, :1]),
    }
    query = call(layer.project_queries, **text)
    text_keys, _ = call(layer.project_keys_values, **text)
    keys, _ = call(
        layer.project_keys_values,
        normed=call(layer.input_norm, x=VISION[:1]),
        rotation=layer.make_rotation(INPUTS["vision_positions"][:1]),
    )
    query, text_keys, keys = map(to_numpy, (query, text_keys, keys))
    expected = []
    for head in range(4):
        key = np.concatenate([keys, text_keys], axis=1)[0, :, head // 2]
        scores = key @ query[0, 0, head] / np.sqrt(HIDDEN / 4)
        expected.append(np.exp(scores) / np.exp(scores).sum())
    np.testing.assert_allclose(
        weights[0, 0], np.mean(expected, axis=0)[:6], atol=1e-5
    )


def test_bfloat16_is_close_to_float32():
    outputs = call(make_layer("bfloat16"), **INPUTS)
    full = run(make_layer())
    for output, expected in zip(outputs, full, strict=True):
        assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
        error = np.abs(to_numpy(output) - expected).max()
        assert 0 < error < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("enabled", [True, False])
def test_output_spec_without_running(dtype, enabled):
    layer = make_layer(dtype)
    specs = [
        keras.KerasTensor(INPUTS[name].shape)
        for name in ("text", "vision", "text_positions", "vision_positions")
    ]
    specs = layer.compute_output_spec(
        *specs, enabled=enabled, return_cache=True
    )
    outputs = call(layer, **INPUTS, enabled=enabled, return_cache=True)
    keras.tree.map_structure(check_spec, specs, outputs, none_is_leaf=False)


def test_saves_within_a_model(tmp_path):
    layer = make_layer()
    kinds = {"f": "float32", "i": "int32", "b": "bool"}
    inputs = {
        name: keras.Input(
            (None, HIDDEN) if value.ndim == 3 else (None,),
            dtype=kinds[value.dtype.kind],
            name=name,
        )
        for name, value in INPUTS.items()
    }
    inputs["enabled"] = keras.Input((), dtype="bool", name="enabled")
    model = keras.Model(inputs, layer(**inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    enabled = np.array([True, False, True])
    outputs = call(loaded, inputs={**INPUTS, "enabled": enabled})
    expected = run(layer, enabled=enabled)
    np.testing.assert_allclose(to_numpy(outputs[0]), expected[0], atol=2e-5)
    np.testing.assert_allclose(to_numpy(outputs[1]), expected[1], atol=2e-5)
    copy = VisorSelfAttentionGate.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


def test_a_cache_wants_a_python_bool():
    with pytest.raises(ValueError, match="`enabled` to be a Python bool"):
        make_layer()(**INPUTS, enabled=np.array([True] * 3), return_cache=True)


def test_bad_arguments():
    with pytest.raises(ValueError, match="4 query heads.*_heads=3"):
        VisorSelfAttentionGate(24, num_query_heads=4, num_key_value_heads=3)
