import pathlib

import numpy as np
import pytest
from PIL import ExifTags
from PIL import Image

from keras_visor.preprocessing.rgb import to_rgb

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def pixels(rgb):
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    return [[tuple(pixel) for pixel in row] for row in rgb.tolist()]


# --- Files and PIL images


@pytest.mark.parametrize("as_path", [str, pathlib.Path])
def test_reads_a_file(tmp_path, as_path):
    file = tmp_path / "picture.png"
    Image.fromarray(np.array([[RED, GREEN, BLUE]], "uint8")).save(file)
    assert pixels(to_rgb(as_path(file))) == [[RED, GREEN, BLUE]]


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, [[RED, GREEN], [BLUE, WHITE]]),
        (2, [[GREEN, RED], [WHITE, BLUE]]),
        (3, [[WHITE, BLUE], [GREEN, RED]]),
        (4, [[BLUE, WHITE], [RED, GREEN]]),
        (5, [[RED, BLUE], [GREEN, WHITE]]),
        (6, [[BLUE, RED], [WHITE, GREEN]]),
        (7, [[WHITE, GREEN], [BLUE, RED]]),
        (8, [[GREEN, WHITE], [RED, BLUE]]),
    ],
)
def test_exif_orientation(tmp_path, orientation, upright):
    stored = np.array([[RED, GREEN], [BLUE, WHITE]], "uint8")
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    for suffix in ("png", "tiff"):
        file = tmp_path / f"picture.{suffix}"
        image.save(file, exif=exif)
        assert pixels(to_rgb(file)) == upright
        with Image.open(file) as opened:
            assert pixels(to_rgb(opened)) == upright


def test_leaves_the_pil_image_alone():
    image = Image.fromarray(np.array([[RED, GREEN]], "uint8"))
    image.getexif()[ExifTags.Base.Orientation] = 6
    assert to_rgb(image).shape == to_rgb(image).shape == (2, 1, 3)
    assert image.size == (2, 1)


def test_grey_and_bilevel():
    grey = Image.fromarray(np.array([[0, 77, 255]], "uint8"))
    assert pixels(to_rgb(grey)) == [[BLACK, (77, 77, 77), WHITE]]
    bilevel = Image.new("1", (2, 1))
    bilevel.putpixel((1, 0), 1)
    assert pixels(to_rgb(bilevel)) == [[BLACK, WHITE]]


def test_transparency_is_laid_over_white():
    # 100 * 51/255 + 255 * 204/255 = 224; 10 at 1/255: 254.04; 3 at 128: 128.5
    levels = [[(100, 51), (10, 1), (3, 128), (9, 255), (9, 0)]]
    expected = [[(n, n, n) for n in (224, 254, 129, 9, 255)]]
    rgba = np.array([[(n, n, n, a) for n, a in levels[0]]], "uint8")
    assert pixels(to_rgb(rgba)) == expected
    assert pixels(to_rgb(Image.fromarray(rgba))) == expected
    assert pixels(to_rgb(Image.fromarray(rgba).convert("LA"))) == expected


def test_transparency_rounds_to_the_nearest_integer():
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([value, value, value, alpha], -1).astype("uint8")
    exact = (value * alpha + 255 * (255 - alpha)) / 255
    assert np.abs(to_rgb(rgba) - exact[..., None]).max() < 0.5


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert pixels(to_rgb(image)) == [[RED, GREEN]]
    image.save(tmp_path / "one.png", transparency=1)
    assert pixels(to_rgb(tmp_path / "one.png")) == [[RED, WHITE]]
    image.save(tmp_path / "each.png", transparency=bytes([204, 0]))
    assert pixels(to_rgb(tmp_path / "each.png")) == [[(255, 51, 51), WHITE]]


def test_transparent_colour(tmp_path):
    file = tmp_path / "keyed.png"
    image = Image.fromarray(np.array([[RED, BLUE]], "uint8"))
    image.save(file, transparency=RED)
    assert pixels(to_rgb(file)) == [[WHITE, BLUE]]


# 16 bits: 257 * k is k; halfway, 128.5, is never hit.
WIDE = [[0, 128, 129, 257 * 100 + 128, 257 * 100 + 129, 65535]]
NARROW = [[(n, n, n) for n in (0, 0, 1, 100, 101, 255)]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_images(mode):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "i4"}[mode]
    image = Image.frombytes(mode, (6, 1), np.array(WIDE, dtype).tobytes())
    assert pixels(to_rgb(image)) == NARROW


def test_16_bit_files(tmp_path):
    image = Image.fromarray(np.array(WIDE, "uint16"))
    image.save(tmp_path / "wide.png")
    image.save(tmp_path / "wide.tiff")
    assert pixels(to_rgb(tmp_path / "wide.png")) == NARROW
    assert pixels(to_rgb(tmp_path / "wide.tiff")) == NARROW
    image.save(tmp_path / "keyed.png", transparency=129)
    expected = [[*NARROW[0][:2], WHITE, *NARROW[0][3:]]]
    assert pixels(to_rgb(tmp_path / "keyed.png")) == expected


def test_16_bit_scaling_is_exact():
    levels = np.arange(65536, dtype="uint16").reshape(256, 256)
    exact = np.round(np.arange(65536) * 255 / 65535).reshape(256, 256)
    np.testing.assert_array_equal(to_rgb(levels)[..., 0], exact)


def test_other_colour_spaces():
    assert pixels(to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))) == [
        [RED]
    ]
    assert pixels(to_rgb(Image.new("HSV", (1, 1), (0, 255, 255)))) == [[RED]]
    assert pixels(to_rgb(Image.new("YCbCr", (1, 1), (99, 128, 128)))) == [
        [(99, 99, 99)]
    ]


def test_equals_transformers_on_transparent_images():
    from transformers.image_transforms import convert_to_rgb

    random = np.random.default_rng(0)
    rgba = Image.fromarray(random.integers(0, 256, (9, 7, 4), "uint8"))
    for mode in ("RGBA", "LA", "PA"):
        image = rgba.convert(mode)
        expected = convert_to_rgb(image, return_numpy=True)
        np.testing.assert_array_equal(to_rgb(image), expected)


# --- Arrays


def test_array_shapes():
    grey = np.array([[0, 9], [255, 4]], "uint8")
    expected = np.stack([grey] * 3, -1)
    np.testing.assert_array_equal(to_rgb(grey), expected)
    np.testing.assert_array_equal(to_rgb(grey[..., None]), expected)
    np.testing.assert_array_equal(to_rgb(expected), expected)
    opaque = np.dstack([expected, np.full((2, 2), 255, "uint8")])
    np.testing.assert_array_equal(to_rgb(opaque), expected)


def test_array_layouts():
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), "uint8")
    for view in (picture[::-1, ::2], picture.transpose(1, 0, 2)):
        rgb = to_rgb(view)
        assert rgb.flags.c_contiguous
        np.testing.assert_array_equal(rgb, view)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint32", ">i2"])
def test_other_integers(dtype):
    assert pixels(to_rgb(np.array([[0, 100]], dtype))) == [
        [BLACK, (100, 100, 100)]
    ]


def test_16_bit_arrays():
    for dtype in ("<u2", ">u2"):
        assert pixels(to_rgb(np.array(WIDE, dtype))) == NARROW
    rgba = np.array([[[0, 65535, 257 * 100, 257 * 51]]], "uint16")
    assert pixels(to_rgb(rgba)) == [[(204, 255, 224)]]


def test_torch_tensors():
    import torch

    picture = torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(to_rgb(picture), picture.numpy())
    with pytest.raises(TypeError, match="`photo`.*Tensor"):
        to_rgb(picture.float().requires_grad_(), name="photo")


# --- What is refused


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_truncated_file(tmp_path, suffix):
    file = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), "uint8")
    Image.fromarray(noise).save(file)
    assert to_rgb(file).shape == (40, 40, 3)
    data = file.read_bytes()
    for share in (0.1, 0.5, 0.9):
        file.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=f"`photo`.*cut.{suffix}"):
            to_rgb(file, name="photo")


def test_truncated_pil_image(tmp_path):
    file = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), "uint8")
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with Image.open(file) as image:
        with pytest.raises(ValueError, match="`photo`.*truncated"):
            to_rgb(image, name="photo")


def test_not_an_image(tmp_path):
    for name, data in (("text.png", b"hello"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"`images`.*{name}"):
            to_rgb(tmp_path / name)
    with pytest.raises(ValueError, match="`images`.*directory"):
        to_rgb(tmp_path)


def test_no_such_file():
    with pytest.raises(FileNotFoundError, match="`photo`.*nowhere.png"):
        to_rgb("nowhere.png", name="photo")
    with pytest.raises(FileNotFoundError, match="URLs are not fetched"):
        to_rgb("https://example.org/a.png")
    with pytest.raises(FileNotFoundError) as caught:
        to_rgb("iVBORw0KGgo" * 100_000)
    assert len(str(caught.value)) < 500


def test_too_many_pixels(tmp_path):
    file = tmp_path / "large.png"
    Image.new("1", (300, 200)).save(file)
    # The rest of the file is missing: only the header may be looked at.
    file.write_bytes(file.read_bytes()[:60])
    for image in (file, Image.new("1", (300, 200)), np.zeros((200, 300), "u1")):
        with pytest.raises(ValueError, match="200 x 300 pixels.* 59999 "):
            to_rgb(image, max_pixels=59_999)
    assert to_rgb(np.zeros((200, 300), "u1"), max_pixels=60_000).any() == 0


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9460, 20_000])
def test_decompression_bomb(tmp_path, side):
    # A bitmap's header alone: 54 bytes that promise side * side pixels.
    header = bytearray(54)
    Image.new("RGB", (1, 1)).save(tmp_path / "bomb.bmp")
    header[:] = (tmp_path / "bomb.bmp").read_bytes()[:54]
    header[18:26] = 2 * side.to_bytes(4, "little")
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(ValueError, match="bomb.bmp.*pixels"):
        to_rgb(tmp_path / "bomb.bmp")


@pytest.mark.parametrize(
    "shape", [(), (4,), (2, 2, 2), (3, 8, 8), (1, 2, 2, 3)]
)
def test_wrong_shape(shape):
    with pytest.raises(ValueError, match="`images`.*shape"):
        to_rgb(np.zeros(shape, "uint8"))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0, 3)])
def test_empty(shape):
    with pytest.raises(ValueError, match="`images`.*empty"):
        to_rgb(np.zeros(shape, "uint8"))
    with pytest.raises(ValueError, match="`images`.*empty"):
        to_rgb(Image.new("RGB", shape[:2]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64"])
def test_pixels_that_are_no_integers(dtype):
    with pytest.raises(TypeError, match=f"`images`.*uint8.*{dtype}"):
        to_rgb(np.zeros((2, 2, 3), dtype))


def test_float_image():
    with pytest.raises(TypeError, match="`images`.*mode 'F'"):
        to_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize("value", [-1, 256])
def test_values_out_of_range(value):
    with pytest.raises(ValueError, match=f"`images`.*Received: {value}"):
        to_rgb(np.full((2, 2), value))


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_values_out_of_range(value):
    with pytest.raises(ValueError, match=f"`images`.*Received: {value}"):
        to_rgb(Image.new("I", (2, 2), value))


@pytest.mark.parametrize("image", [None, 3, b"\x89PNG", [[0, 1]], object()])
def test_wrong_type(image):
    with pytest.raises(TypeError, match="`photo` must hold paths"):
        to_rgb(image, name="photo")
