"""LLaVA-OneVision's tiles and visual tokens, against transformers."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from keras_visor.preprocessing.llava_onevision import image_tiles
from keras_visor.preprocessing.llava_onevision import packed_tokens
from keras_visor.preprocessing.llava_onevision import select_best_resolution
from keras_visor.preprocessing.rgb import to_rgb

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def geometry(tile_size, patch_size, max_tiles=9):
    """A checkpoint's geometry, with all grids of up to 6 x 6 tiles."""
    sides = [tile_size * tiles for tiles in range(1, 7)]
    return SimpleNamespace(
        tile_size=tile_size,
        patch_size=patch_size,
        patches_per_side=tile_size // patch_size,
        grid_pinpoints=[[height, width] for height in sides for width in sides],
        max_tiles=max_tiles,
    )


REAL = geometry(384, 14)
TINY = geometry(8, 2)
CRAMPED = geometry(8, 2, max_tiles=2)

# Heights and widths, in 384 px tiles or in tiles of 8.
EXTREMES = [(1, 1), (1, 2), (2, 1), (1, 4000), (4000, 1), (3, 2000), (2000, 7)]
REAL_SIZES = EXTREMES + [
    *[(384, 384), (768, 768), (384, 768), (768, 384), (1152, 1152)],
    *[(384, 2304), (2304, 384), (2304, 2304), (1536, 1920), (2304, 1152)],
    *[(383, 385), (385, 383), (480, 640), (640, 480), (1080, 1920)],
    *[(1920, 1080), (1000, 1001), (1001, 1000), (333, 777), (777, 333)],
    *[(224, 224), (100, 500), (500, 100), (91, 1337), (1337, 91)],
    *[(1600, 1600), (1500, 2300), (2300, 1500), (3000, 2000), (2000, 3000)],
    *[(4000, 4000), (37, 41), (41, 37), (999, 2222), (2222, 999)],
]
TINY_SIZES = EXTREMES + [
    *[(8, 8), (16, 16), (8, 16), (16, 8), (24, 24), (8, 48), (48, 8)],
    *[(48, 48), (32, 40), (48, 24), (7, 9), (9, 7), (10, 13), (13, 10)],
    *[(22, 40), (40, 22), (21, 20), (20, 21), (7, 16), (16, 7), (5, 5)],
    *[(2, 11), (11, 2), (33, 33), (31, 48), (48, 31), (60, 41), (41, 60)],
    *[(80, 80), (1, 47), (47, 1), (20, 47), (47, 20), (17, 3), (3, 17)],
]
assert len(set(REAL_SIZES)) >= 40 and len(set(TINY_SIZES)) >= 40


def picture(size):
    random = np.random.default_rng(size)
    return random.integers(0, 256, (*size, 3), "uint8")


def tiles(image, shape, alone, **options):
    return image_tiles(
        image,
        alone=alone,
        tile_size=shape.tile_size,
        grid_pinpoints=shape.grid_pinpoints,
        image_mean=options.pop("image_mean", MEAN),
        image_std=options.pop("image_std", STD),
        **options,
    )


def transformers_tiles(image, shape, alone, **options):
    from transformers.models.llava_onevision import (
        image_processing_pil_llava_onevision as module,
    )

    processor = module.LlavaOnevisionImageProcessorPil(
        size={"height": shape.tile_size, "width": shape.tile_size},
        image_grid_pinpoints=shape.grid_pinpoints,
        image_mean=options.pop("image_mean", MEAN),
        image_std=options.pop("image_std", STD),
        **options,
    )
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    prompt = [image] if alone else [image, image]
    pixel_values = processor([prompt], return_tensors="np")["pixel_values"]
    return np.moveaxis(pixel_values[0], 1, -1)


def tokens(size, shape, alone):
    return packed_tokens(
        size,
        alone=alone,
        tile_size=shape.tile_size,
        patches_per_side=shape.patches_per_side,
        grid_pinpoints=shape.grid_pinpoints,
        max_tiles=shape.max_tiles,
    )


def transformers_tokens(features, newline, size, shape):
    import torch
    from transformers import LlavaOnevisionModel

    vision = SimpleNamespace(
        image_size=shape.tile_size, patch_size=shape.patch_size
    )
    model = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=vision, image_grid_pinpoints=shape.grid_pinpoints
        )
    )
    packed, lengths = LlavaOnevisionModel.pack_image_features(
        model,
        [torch.from_numpy(features)],
        torch.tensor([size]),
        image_newline=torch.from_numpy(newline),
        vision_aspect_ratio=f"anyres_max_{shape.max_tiles}",
    )
    assert lengths.tolist() == [len(packed[0])]
    return packed[0].numpy()


def transformers_count(size, shape):
    from transformers import LlavaOnevisionProcessor

    processor = SimpleNamespace(
        image_processor=SimpleNamespace(
            image_grid_pinpoints=shape.grid_pinpoints
        ),
        num_image_tokens=shape.patches_per_side**2,
        vision_aspect_ratio=f"anyres_max_{shape.max_tiles}",
    )
    processor._get_unpadded_features = lambda *sizes: (
        LlavaOnevisionProcessor._get_unpadded_features(processor, *sizes)
    )
    return LlavaOnevisionProcessor._get_number_of_features(
        processor, *size, shape.tile_size, shape.tile_size
    )


# --- The best resolution


@pytest.mark.parametrize("size", REAL_SIZES)
def test_best_resolution_equals_transformers(size):
    from transformers.image_processing_utils import (
        select_best_resolution as expected,
    )

    pinpoints = REAL.grid_pinpoints
    assert select_best_resolution(size, pinpoints) == expected(size, pinpoints)
    # Ties go to the first, in any order.
    backwards = pinpoints[::-1]
    assert select_best_resolution(size, backwards) == expected(size, backwards)


def test_best_resolution_by_hand():
    pinpoints = [(8, 8), (8, 16), (16, 16)]
    # All of 4 x 4 is kept everywhere: the least padding wins.
    assert select_best_resolution((4, 4), pinpoints) == (8, 8)
    # 10 x 20 keeps 4 x 8, 8 x 16 and 8 x 16: the second pads less.
    assert select_best_resolution((10, 20), pinpoints) == (8, 16)
    assert select_best_resolution((20, 10), pinpoints) == (16, 16)


# --- Tiles


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "several"])
@pytest.mark.parametrize("size", TINY_SIZES)
def test_tiles_equal_transformers(size, alone):
    image = picture(size)
    ours = tiles(image, TINY, alone)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, transformers_tiles(image, TINY, alone))


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "several"])
@pytest.mark.parametrize("size", [(1, 4000), (480, 641), (900, 2000)])
def test_real_tiles_equal_transformers(size, alone):
    image = picture(size)
    np.testing.assert_array_equal(
        tiles(image, REAL, alone), transformers_tiles(image, REAL, alone)
    )


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "several"])
@pytest.mark.parametrize(
    "options",
    [
        {"resample": 2},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.9, 0.0, 0.1], "image_std": [1.0, 2.0, 3.0]},
    ],
)
def test_tiles_with_other_options(options, alone):
    image = picture((13, 22))
    np.testing.assert_array_equal(
        tiles(image, TINY, alone, **options),
        transformers_tiles(image, TINY, alone, **options),
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_equal_transformers(mode):
    image = Image.fromarray(picture((13, 22))).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(picture((13, 22))[..., 0]))
    np.testing.assert_array_equal(
        tiles(to_rgb(image), TINY, True), transformers_tiles(image, TINY, True)
    )


def test_tile_order():
    # Six tiles of one grey each, which no resizing touches.
    greys = np.array([[10, 20, 30], [40, 50, 60]], "uint8")
    image = np.repeat(np.repeat(greys, 8, axis=0), 8, axis=1)
    cut = tiles(
        np.dstack([image] * 3),
        TINY,
        True,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        rescale_factor=1,
    )
    assert cut.shape == (7, 8, 8, 3)
    for tile, grey in zip(cut[1:], greys.ravel(), strict=True):
        assert (tile == grey).all()
    # The base tile is the whole image.
    assert cut[0, 0, 0, 0] < 20 and cut[0, -1, -1, 0] > 50


def test_tiles_bad_input():
    with pytest.raises(TypeError, match="`image`.*float32"):
        tiles(np.zeros((8, 8, 3), "float32"), TINY, True)
    for shape in ((8, 8), (8, 8, 4), (3, 8, 8)):
        with pytest.raises(ValueError, match="`image` must have shape"):
            tiles(np.zeros(shape, "uint8"), TINY, True)
    with pytest.raises(ValueError, match="`size`"):
        tiles(np.zeros((0, 8, 3), "uint8"), TINY, True)
    for name in ("image_mean", "image_std"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            tiles(picture((8, 8)), TINY, True, **{name: [0.5]})
    odd = SimpleNamespace(**{**vars(TINY), "grid_pinpoints": [[8, 12]]})
    with pytest.raises(ValueError, match="`grid_pinpoints` must be multiples"):
        tiles(picture((8, 8)), odd, True)


def test_enormous_squares_are_refused():
    image = picture((1, 10_000))
    assert tiles(image, TINY, True).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="`image` of 1 x 10000"):
        tiles(image, TINY, False)


# --- Visual tokens


@pytest.mark.parametrize(
    "shape, size",
    [(REAL, size) for size in REAL_SIZES]
    + [(TINY, size) for size in TINY_SIZES]
    + [(CRAMPED, size) for size in TINY_SIZES],
)
def test_packed_tokens_equal_transformers(shape, size):
    height, width = select_best_resolution(size, shape.grid_pinpoints)
    num_tiles = 1 + height * width // shape.tile_size**2
    patches = shape.patches_per_side**2
    random = np.random.default_rng(size)
    features = random.normal(size=(num_tiles, patches, 3)).astype("float32")
    newline = random.normal(size=3).astype("float32")
    expected = transformers_tokens(features, newline, size, shape)
    assert transformers_count(size, shape) == len(expected)

    indices, weights = tokens(size, shape, alone=True)
    assert indices.dtype == np.int32 and weights.dtype == np.float32
    assert indices.shape == weights.shape == (len(expected), 4)
    rows = np.concatenate([newline[None], features.reshape(-1, 3)])
    ours = (rows[indices] * weights[..., None]).sum(axis=1)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)
    copies = (weights == [1, 0, 0, 0]).all(axis=1)
    np.testing.assert_array_equal(ours[copies], expected[copies])
    assert copies[:patches].all()


def test_the_sizes_cover_every_path():
    def shrinks(size, shape):
        return (tokens(size, shape, alone=True)[1][:, 0] < 1).any()

    assert shrinks((4000, 4000), REAL) and shrinks((1500, 2300), REAL)
    assert not shrinks((1152, 1152), REAL) and not shrinks((480, 640), REAL)
    # 16 / 9 > 1.21, 10 / 9 < 1.21
    assert shrinks((1536, 1536), REAL) and not shrinks((768, 1920), REAL)
    # The grid's rows, then all its columns, are padding: newlines are left.
    assert len(tokens((1, 4000), TINY, alone=True)[0]) == 16
    assert len(tokens((4000, 1), TINY, alone=True)[0]) == 16 + 4


@pytest.mark.parametrize("shape", [REAL, TINY])
def test_several_images_equal_transformers(shape):
    patches = shape.patches_per_side**2
    features = np.random.default_rng(0).normal(size=(1, patches, 3))
    newline = np.ones(3)
    expected = transformers_tokens(features, newline, (300, 200), shape)
    indices, weights = tokens((300, 200), shape, alone=False)
    rows = np.concatenate([newline[None], features[0]])
    np.testing.assert_array_equal(rows[indices[:, 0]], expected)
    assert (weights == [1, 0, 0, 0]).all() and weights.shape == (patches + 1, 4)


def test_packed_tokens_by_hand():
    # One row of two tiles, 2 x 2 patches each, of a 8 x 16 image.
    shape = geometry(8, 4)
    indices, weights = tokens((8, 16), shape, alone=True)
    base_tile = [1, 2, 3, 4]
    upper_row = [5, 6, 9, 10, 0]
    lower_row = [7, 8, 11, 12, 0]
    assert indices[:, 0].tolist() == base_tile + upper_row + lower_row
    assert (weights == [1, 0, 0, 0]).all()


def test_unpadding_by_hand():
    # 4 x 16 fills the middle half of the rows of one 8 x 16 resolution.
    shape = geometry(8, 2)
    shape.grid_pinpoints = [[8, 16]]
    indices, _ = tokens((4, 16), shape, alone=True)
    base_tile = list(range(1, 17))
    second_row = [21, 22, 23, 24, 37, 38, 39, 40, 0]
    third_row = [25, 26, 27, 28, 41, 42, 43, 44, 0]
    assert indices[:, 0].tolist() == base_tile + second_row + third_row


def test_shrinking_by_hand():
    # 4 x 4 patches to 2 x 2: each new one is the mean of four.
    shape = geometry(8, 4, max_tiles=1)
    indices, weights = tokens((16, 16), shape, alone=True)
    base_tile, grid = np.split(indices, [4])
    assert base_tile[:, 0].tolist() == [1, 2, 3, 4]
    assert grid[[0, 1, 3, 4]].tolist() == [
        *[[5, 6, 7, 8], [9, 10, 11, 12]],
        *[[13, 14, 15, 16], [17, 18, 19, 20]],
    ]
    assert (weights[[4, 5, 7, 8]] == 0.25).all()
    assert grid[[2, 5], 0].tolist() == [0, 0]


@given(st.integers(1, 6000), st.integers(1, 6000))
@settings(max_examples=50, deadline=None)
def test_packed_tokens_invariants(height, width):
    size = (height, width)
    indices, weights = tokens(size, REAL, alone=True)
    assert len(indices) == transformers_count(size, REAL)
    rows, columns = np.array(select_best_resolution(size, REAL.grid_pinpoints))
    num_tiles = 1 + rows * columns // 384**2
    assert indices.min() == 0 or len(indices) == 729
    assert indices.max() <= num_tiles * 729
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert (indices[:729, 0] == np.arange(1, 730)).all()


def test_packed_tokens_bad_input():
    for size in ((0, 5), (5, -1), (5,), (5, 5, 3)):
        with pytest.raises(ValueError, match="`size`"):
            tokens(size, TINY, alone=True)
    empty = SimpleNamespace(**{**vars(TINY), "grid_pinpoints": []})
    with pytest.raises(ValueError, match="`grid_pinpoints` must not be empty"):
        tokens((5, 5), empty, alone=True)
    # One row of six patches for one: transformers asks for zero rows.
    with pytest.raises(ValueError, match="`max_tiles` is too small"):
        tokens((8, 48), geometry(8, 8, max_tiles=1), alone=True)
