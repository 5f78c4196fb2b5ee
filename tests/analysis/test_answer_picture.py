import numpy as np
import pytest
from PIL import Image

from keras_visor.analysis import attention_maps
from keras_visor.analysis import draw_answer
from keras_visor.analysis import layer_roles
from keras_visor.models.visor_backbone import VisorBackbone

ROLES = ["cross-attention", "self-attention off", "text-only"]
FLAT = np.full((1, 2, 2), 0.1, "float32")


def colours(picture):
    return {colour for _, colour in picture.getcolors(maxcolors=2**24)}


def rgb(code):
    return tuple(bytes.fromhex(code))


def grey(height=40, width=60, level=90):
    return np.full((height, width, 3), level, "uint8")


# === Roles ===


def test_roles():
    backbone = VisorBackbone.from_preset("visor_tiny_en")
    assert backbone.cross_attention_layers == [0, 3, 7]
    assert backbone.budgets == [[], [4], [4, 6]]
    roles = layer_roles(backbone, 1)
    assert roles == [
        "cross-attention",
        "text-only",
        "self-attention off",
        "cross-attention",
        "self-attention on",
        "text-only",
        "self-attention off",
        "cross-attention",
        "text-only",
    ]
    for budget in (-1, 3):
        with pytest.raises(ValueError, match=f"from 0 to 2.*{budget}"):
            layer_roles(backbone, budget)


# === Maps ===


def test_maps_are_the_last_prompt_tokens_on_the_base_tiles():
    # Two images of 5 tokens (a base tile of 2 x 2 and a newline), 2 padding.
    inputs = {
        "padding_mask": np.array([[True, True, True, False]]),
        "vision_image_ids": np.array([[0] * 5 + [1] * 5 + [-1] * 2]),
    }
    attention = np.arange(48, dtype="float32").reshape(1, 4, 12)
    maps = attention_maps({3: attention}, inputs, patches_per_side=2)
    assert list(maps) == [3]
    # Row 2, the last token that is no padding, begins at 24.
    np.testing.assert_array_equal(
        maps[3], [[[24, 25], [26, 27]], [[29, 30], [31, 32]]]
    )


def test_maps_refuse_a_batch():
    inputs = {
        "padding_mask": np.ones((2, 3), bool),
        "vision_image_ids": np.zeros((2, 4), int),
    }
    with pytest.raises(ValueError, match="one sample. Received: 2"):
        attention_maps({}, inputs, 2)


def test_maps_refuse_less_than_a_base_tile():
    inputs = {
        "padding_mask": np.ones((1, 3), bool),
        "vision_image_ids": np.array([[0, 0, 0, 0, 1, 1, 1]]),
    }
    with pytest.raises(ValueError, match="4 or more.*Received: 3 of image 1"):
        attention_maps({}, inputs, 2)


def test_maps_refuse_a_prompt_without_an_image():
    inputs = {
        "padding_mask": np.ones((1, 3), bool),
        "vision_image_ids": np.full((1, 4), -1),
    }
    with pytest.raises(ValueError, match="`inputs` must hold an image"):
        attention_maps({}, inputs, 2)


def test_maps_of_fewer_tokens_want_their_positions():
    inputs = {
        "padding_mask": np.ones((1, 3), bool),
        "vision_image_ids": np.zeros((1, 5), int),
    }
    with pytest.raises(ValueError, match="`vision_positions` is.*4 of 5"):
        attention_maps({2: np.zeros((1, 3, 4))}, inputs, 2)


# === The picture ===


def test_shows_every_role_in_its_colour():
    every = [*ROLES, "self-attention on"]
    shown = colours(draw_answer([grey()], "Why?", "So.", every, {0: FLAT}))
    for code in ("0072b2", "fdf0e6", "dcdfe4", "d55e00"):
        assert rgb(code) in shown


def test_marks_the_patch_that_was_looked_at():
    """Hot where the map is, in each quarter of the picture by turns."""
    centres = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        heat = np.zeros((1, 2, 2), "float32")
        heat[0, row, column] = 0.004  # Written below as 0 %, like nothing.
        cold, hot = (
            np.asarray(draw_answer([grey()], "?", "!", ROLES, {0: m}), int)
            for m in (np.zeros((1, 2, 2), "float32"), heat)
        )
        warmer = (hot - cold)[..., 0] > 100
        places = np.argwhere(warmer)
        centres.append(places.mean(axis=0))
        extent = places.max(axis=0) - places.min(axis=0) + 1
        # 240 pixels wide, and as high as the picture's 40 to 60.
        np.testing.assert_array_equal(extent, [80, 120])
    (top, left), (_, right), (bottom, _), _ = centres
    assert right - left == 120
    assert bottom - top == 80


def test_several_images_are_padded_as_the_model_pads_them():
    """Of several images each fills a square map, whatever its shape."""
    heat = np.zeros((2, 2, 2), "float32")
    hot = heat.copy()
    hot[1] = 0.001
    images = [grey(), grey(30, 60)]
    difference = np.subtract(
        np.asarray(draw_answer(images, "?", "!", ROLES, {0: hot}), int),
        np.asarray(draw_answer(images, "?", "!", ROLES, {0: heat}), int),
    )
    places = np.argwhere(difference[..., 0] > 100)
    extent = places.max(axis=0) - places.min(axis=0) + 1
    np.testing.assert_array_equal(extent, [240, 240])


@pytest.mark.parametrize("num_layers", [1, 6, 24, 28])
def test_every_layer_has_a_column(num_layers):
    on = draw_answer([grey()], "?", "!", ["self-attention on"] * num_layers, {})
    fill = np.all(np.asarray(on) == rgb("d55e00"), axis=-1)
    # Below the headers' rounded tops and above their text: runs of colour.
    runs = 0
    rows = [y for y in range(fill.shape[0]) if fill[y].sum() > 60]
    for y in rows:
        if y - 1 not in rows:
            line = np.pad(fill[y + 5].astype(int), 1)
            runs += (np.diff(line) == 1).sum()
    assert runs == num_layers


def test_grows_with_the_text():
    short = draw_answer([grey()], "Why?", "So.", ROLES, {})
    long = draw_answer([grey()], "Why? " * 300, "So" * 300, ROLES, {})
    assert short.width == long.width == 1280
    assert long.height > short.height
    # The margin at the right is left alone: no word runs out of the picture.
    assert np.all(np.asarray(long)[:, -39:] == 255)


@pytest.mark.parametrize(
    "image", [grey(1, 2000), grey(2000, 1), Image.new("L", (5, 5))]
)
def test_images_of_any_kind(image):
    picture = draw_answer([image], "", "", ROLES, {0: FLAT})
    assert picture.mode == "RGB"
    assert picture.width == 1280


def test_an_image_in_a_file(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(grey()).save(path)
    from_file = draw_answer([path], "?", "!", ROLES, {0: FLAT})
    assert from_file == draw_answer([grey()], "?", "!", ROLES, {0: FLAT})


@pytest.mark.parametrize(
    "images, roles, maps, message",
    [
        ([], ROLES, {}, "`images` must hold an image"),
        ([grey()], ["cross"], {}, r"`roles`.*Received: \['cross'\]"),
        ([grey()], [], {}, r"`roles`.*Received: \[\]"),
        ([grey()], ROLES, {3: FLAT}, "from 0 to 2. Received: layer 3"),
        ([grey()] * 2, ROLES, {0: FLAT}, r"2 images.*\(1, 2, 2\) at layer 0"),
        ([grey()], ROLES, {0: FLAT[0]}, r"\(2, 2\) at layer 0"),
        ([grey()], ROLES, {0: -FLAT}, "not negative.*layer 0"),
        ([grey()], ROLES, {0: FLAT * np.nan}, "finite.*layer 0"),
    ],
)
def test_refuses_bad_input(images, roles, maps, message):
    with pytest.raises(ValueError, match=message):
        draw_answer(images, "?", "!", roles, maps)
