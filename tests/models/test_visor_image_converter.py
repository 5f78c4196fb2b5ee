import numpy as np
import pytest
from samples import picture

from keras_visor import VisorImageConverter


@pytest.mark.parametrize(
    "pinpoints, unfit",
    [
        ([(28, 28), (28, 30)], r"\[\(28, 30\)\]"),
        ([[0, 28]], r"\[\(0, 28\)\]"),
        ([(-28, 28), (28, 56)], r"\[\(-28, 28\)\]"),
    ],
)
def test_pinpoints_must_be_whole_tiles(pinpoints, unfit):
    with pytest.raises(ValueError, match=f"`tile_size`, 28.*{unfit}"):
        VisorImageConverter(
            tile_size=28, patches_per_side=4, grid_pinpoints=pinpoints
        )


def test_one_array_is_one_image():
    """And not as many grey ones as it has rows."""
    converter = VisorImageConverter(28, 4)
    image = picture(24, 50)
    one, several = converter(image), converter([image])
    assert one["image_lengths"] == several["image_lengths"]
    np.testing.assert_array_equal(one["images"], several["images"])


def test_a_bad_image_is_named():
    converter = VisorImageConverter(tile_size=28, patches_per_side=4)
    good, bad = np.zeros((5, 5, 3), "uint8"), np.zeros((5, 5, 7), "uint8")
    with pytest.raises(ValueError, match=r"images\[1\]"):
        converter([good, bad])
