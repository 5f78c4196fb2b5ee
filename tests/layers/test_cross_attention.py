import keras
import numpy as np
import pytest
from layer_checks import call
from layer_checks import check_spec
from layer_checks import cross_attention_weights
from layer_checks import randomize
from layer_checks import to_numpy
from reference import Shape
from reference import Streams
from reference import cross_attention_update
from torch import from_numpy

from keras_visor import VisorCrossAttention
from keras_visor.layers import cross_attention
from keras_visor.layers.attention import Segment

HIDDEN = 16
SHAPE = Shape(
    num_heads=4,
    num_key_value_heads=2,
    rope_theta=1e4,
    epsilon=1e-3,
    cross_attention_num_heads=4,
    cross_attention_num_key_value_heads=2,
)
RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(2, 5, HIDDEN)).astype("float32")
VISION = RNG.normal(size=(2, 9, HIDDEN)).astype("float32")
# Two words, an image of 4 tokens, a word, one of 5, two words; and an image
# of 9 tokens before all words.
INPUTS = {
    "text": TEXT,
    "vision": VISION,
    "text_positions": np.array([[0, 1, 6, 12, 13], [9, 10, 11, 12, 13]]),
    "vision_positions": np.array(
        [[2, 3, 4, 5, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
    ),
    "vision_mask": np.ones((2, 9), bool),
    "vision_image_ids": np.array([[0] * 4 + [1] * 5, [0] * 9]),
}


def make_layer(dtype="float32", random=True):
    layer = VisorCrossAttention(
        num_heads=4,
        num_key_value_heads=2,
        layer_norm_epsilon=SHAPE.epsilon,
        dtype=dtype,
    )
    layer.build(TEXT.shape)
    if random:
        randomize(layer)
    return layer


def changed(**inputs):
    return {**INPUTS, **inputs}


def test_equals_the_reference():
    layer = make_layer()
    output = to_numpy(call(layer, **INPUTS))
    for row in range(2):
        streams = Streams(
            text=from_numpy(TEXT[row]),
            visual=from_numpy(VISION[row]),
            text_positions=from_numpy(INPUTS["text_positions"][row]),
            vision_positions=from_numpy(INPUTS["vision_positions"][row]),
            vision_image_ids=from_numpy(INPUTS["vision_image_ids"][row]),
        )
        expected = cross_attention_update(
            streams, cross_attention_weights(layer), SHAPE
        )
        np.testing.assert_allclose(output[row], expected.numpy(), atol=2e-5)


@pytest.mark.parametrize("border", [3, 4, None])
def test_blocks_change_nothing(monkeypatch, border):
    """Nor do images that end at a block's edge or beside it, or padding."""
    layer = make_layer()
    vision_mask = np.ones((2, 9), bool)
    vision_mask[1, 7:] = False
    image_ids = None
    if border is not None:
        image_ids = np.tile(np.arange(9) // border, (2, 1)).astype("int32")
    inputs = {
        "vision": VISION,
        "vision_mask": vision_mask,
        "vision_image_ids": image_ids,
    }
    whole = call(layer.project_vision, **inputs)
    monkeypatch.setattr(cross_attention, "TOKEN_BLOCK", 4)
    in_blocks = call(layer.project_vision, **inputs)
    for ours, expected in zip(in_blocks, whole, strict=True):
        ours, expected = (to_numpy(t)[vision_mask] for t in (ours, expected))
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_by_hand():
    """One head of width 2; two visual tokens; the kernel adds the next one."""
    layer = VisorCrossAttention(
        num_heads=1, position_kernel_size=3, layer_norm_epsilon=0.0
    )
    layer.build((1, 1, 2))
    identity = np.eye(2)
    layer.query_dense.kernel.assign(identity[:, None])
    layer.key_dense.kernel.assign(identity[:, None])
    layer.value_dense.kernel.assign(identity[:, None])
    layer.value_dense.bias.assign([[10.0, 20.0]])
    layer.output_dense.kernel.assign(2 * identity[None])
    layer.position_kernel.assign([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    layer.position_bias.assign([0.0, 1.0])
    output = call(
        layer,
        text=np.array([[[3.0, 0.0]]], "float32"),
        vision=np.array([[[1.0, 2.0], [1.0, -3.0]]], "float32"),
        text_positions=np.array([[2]]),
        vision_positions=np.array([[0, 1]]),
    )
    # V + DWConv(V): (1, 2) + (1, -3) + (0, 1) = (2, 0), and
    # (1, -3) + (0, 1) = (1, -2). Normalized by their root mean squares,
    # sqrt(2) and sqrt(5/2); the query is (sqrt(2), 0).
    first = np.array([np.sqrt(2), 0.0])
    second = np.array([1.0, -2.0]) / np.sqrt(2.5)
    scores = np.array([first @ first, first @ second]) / np.sqrt(2)
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = 2 * (weights[0] * first + weights[1] * second + [10.0, 20.0])
    np.testing.assert_allclose(to_numpy(output)[0, 0], expected, rtol=1e-5)


def test_a_fresh_layer_adds_nothing():
    output = to_numpy(call(make_layer(random=False), **INPUTS))
    np.testing.assert_array_equal(output, np.zeros_like(TEXT))


def test_a_token_before_every_image_gets_exactly_zero():
    output = to_numpy(call(make_layer(), **INPUTS))
    np.testing.assert_array_equal(output[0, :2], np.zeros((2, HIDDEN)))
    assert np.all(np.abs(output).max(axis=2)[0, 2:] > 0.01)
    assert np.all(np.abs(output).max(axis=2)[1] > 0.01)


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_a_sample_without_images_gets_exactly_zero(value):
    mask = np.array([[False] * 9, [True] * 9])
    vision = np.where(mask[..., None], VISION, value)
    output = to_numpy(
        call(make_layer(), **changed(vision=vision, vision_mask=mask))
    )
    np.testing.assert_array_equal(output[0], np.zeros((5, HIDDEN)))
    np.testing.assert_allclose(
        output[1], to_numpy(call(make_layer(), **INPUTS))[1], atol=2e-5
    )


def test_a_later_image_changes_nothing_before_it():
    """Not through the convolution at the border of the images either."""
    vision = VISION.copy()
    vision[0, 4:] += 1.0
    before = to_numpy(call(make_layer(), **INPUTS))
    after = to_numpy(call(make_layer(), **changed(vision=vision)))
    np.testing.assert_array_equal(after[0, :3], before[0, :3])
    assert np.all(np.abs(after - before).max(axis=2)[0, 3:] > 1e-3)
    # As one image, the convolution reaches across.
    one_image = changed(vision_image_ids=np.zeros((2, 9), int))
    leaked = to_numpy(call(make_layer(), **{**one_image, "vision": vision}))
    whole = to_numpy(call(make_layer(), **one_image))
    assert np.abs(leaked - whole)[0, 2].max() > 1e-3


def test_one_image_is_the_default():
    inputs = {k: v[1:] for k, v in INPUTS.items()}
    full = to_numpy(call(make_layer(), **inputs))
    del inputs["vision_mask"], inputs["vision_image_ids"]
    np.testing.assert_allclose(
        to_numpy(call(make_layer(), **inputs)), full, atol=2e-5
    )


@pytest.mark.parametrize("padding_id", [-1, 0, 1])
def test_padding_and_neighbours_change_nothing(padding_id):
    layer = make_layer()
    whole = to_numpy(call(layer, **INPUTS))
    for row in range(2):
        one = {k: v[row : row + 1] for k, v in INPUTS.items()}
        one["vision"] = np.pad(
            one["vision"], ((0, 0), (0, 4), (0, 0)), constant_values=7.0
        )
        for name, fill in (
            ("vision_positions", 0),
            ("vision_mask", False),
            ("vision_image_ids", padding_id),
        ):
            one[name] = np.pad(
                one[name], ((0, 0), (0, 4)), constant_values=fill
            )
        np.testing.assert_allclose(
            to_numpy(call(layer, **one))[0], whole[row], atol=2e-5
        )


def test_reading_the_cache_equals_the_call():
    layer = make_layer()
    output, (keys, values) = call(layer, **INPUTS, return_cache=True)
    np.testing.assert_array_equal(
        to_numpy(output), to_numpy(call(layer, **INPUTS))
    )
    segment = Segment(
        keys,
        values,
        INPUTS["vision_positions"],
        INPUTS["vision_mask"],
    )
    last = call(
        layer.read,
        text=TEXT[:, -1:],
        text_positions=INPUTS["text_positions"][:, -1:],
        vision=segment,
    )
    np.testing.assert_allclose(
        to_numpy(last), to_numpy(output)[:, -1:], atol=2e-5
    )


def test_attention_of_a_row_sums_to_one_or_zero():
    layer = make_layer()
    weights = to_numpy(call(layer.vision_attention, **INPUTS))
    assert weights.shape == (2, 5, 9)
    np.testing.assert_allclose(
        weights.sum(axis=2), [[0, 0, 1, 1, 1], [1] * 5], atol=1e-5
    )
    seen = (
        INPUTS["vision_positions"][:, None]
        < INPUTS["text_positions"][:, :, None]
    )
    np.testing.assert_array_equal(weights > 0, seen)


def test_bfloat16_is_close_to_float32():
    output = call(make_layer("bfloat16"), **INPUTS)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    full = to_numpy(call(make_layer(), **INPUTS))
    error = np.abs(to_numpy(output) - full).max()
    assert 0 < error < 0.03 * np.abs(full).max()
    np.testing.assert_array_equal(to_numpy(output)[0, :2], 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_spec_without_running(dtype):
    layer = make_layer(dtype)

    def spec(*shape):
        return keras.KerasTensor(shape)

    specs = layer.compute_output_spec(
        spec(2, 5, HIDDEN),
        spec(2, 9, HIDDEN),
        spec(2, 5),
        spec(2, 9),
        return_cache=True,
    )
    outputs = call(layer, **INPUTS, return_cache=True)
    keras.tree.map_structure(check_spec, specs, outputs)
    update = layer.compute_output_spec(
        spec(None, None, HIDDEN),
        spec(None, None, HIDDEN),
        spec(None, None),
        spec(None, None),
    )
    assert update.shape == (None, None, HIDDEN)


def test_saves_within_a_model(tmp_path):
    layer = make_layer()
    inputs = {
        name: keras.Input(
            (None, HIDDEN) if value.ndim == 3 else (None,),
            dtype={"f": "float32", "i": "int32", "b": "bool"}[value.dtype.kind],
            name=name,
        )
        for name, value in INPUTS.items()
    }
    model = keras.Model(inputs, layer(**inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        to_numpy(call(loaded, inputs=INPUTS)),
        to_numpy(call(layer, **INPUTS)),
        atol=2e-5,
    )
    copy = VisorCrossAttention.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert copy.num_key_value_heads == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"num_heads": 4, "num_key_value_heads": 3},
            "4 query heads.*num_key_value_heads=3",
        ),
        ({"num_heads": 4, "position_kernel_size": 4}, "kernel_size=4"),
        ({"num_heads": 4, "position_kernel_size": -1}, "kernel_size=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VisorCrossAttention(**arguments)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads, hidden width 16"):
        VisorCrossAttention(num_heads=3).build((1, 5, HIDDEN))
