import numpy as np
import pytest
from PIL import Image

from keras_visor.datasets.public.image_folder import ImageFolder

BLACK, WHITE = [0, 0, 0], [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "name"), [("RGB", "a.jpg"), ("L", "a.jpg"), ("L", "a.png")]
)
def test_plain_pictures_stay_as_they_are(tmp_path, mode, name):
    Image.new(mode, (3, 2)).save(tmp_path / name)
    folder = ImageFolder(tmp_path)
    # Known or not.
    for _ in range(2):
        assert folder.find(name, "question 1") == str(tmp_path / name)


@pytest.mark.parametrize(
    ("mode", "name", "options", "pixel"),
    [
        ("RGBA", "a.png", {}, WHITE),
        # A colour that stands for transparency.
        ("RGB", "a.png", {"transparency": (0, 0, 0)}, WHITE),
        ("RGB", "b.png", {"transparency": (9, 9, 9)}, BLACK),
        # TensorFlow decodes none of these as Pillow does, or at all.
        ("CMYK", "a.jpg", {}, WHITE),
        ("P", "a.png", {}, BLACK),
        ("RGB", "a.webp", {"lossless": True}, BLACK),
    ],
)
def test_others_become_pixels(tmp_path, mode, name, options, pixel):
    Image.new(mode, (3, 2)).save(tmp_path / name, **options)
    pixels = ImageFolder(tmp_path).find(name, "question 1")
    np.testing.assert_array_equal(pixels, np.full((2, 3, 3), pixel, "uint8"))
