import numpy as np
import pytest
from visual_tokens import ONE_IMAGE
from visual_tokens import TWO_IMAGES
from visual_tokens import reduce
from visual_tokens import sample

from keras_visor.reduction import AveragePooling

BASE = [1, 2, 3, 4]
# Grids of one tile's rows; which patches they are makes no difference.
ONE_ROW = [*BASE, 5, 6, 7, 0]
ONE_COLUMN = [*BASE, 5, 0, 7, 0, 9, 0]
THREE_BY_THREE = [*BASE, 5, 6, 9, 0, 7, 8, 11, 0, 13, 14, 17, 0]


@pytest.mark.parametrize(
    "rate, rows, means, positions",
    [
        (0.5, ONE_IMAGE, [0.5, 2.5, 4.5, 6.5, 9.5, 11.5], [0, 2, 4, 6, 9, 11]),
        # 7 is the mean of 4, 5, 9 and 10.
        (0.25, ONE_IMAGE, [1.5, 7, 9], [0, 4, 6]),
        # An odd row or column joins the last block.
        (0.5, THREE_BY_THREE, [0.5, 2.5, 5, 9, 13], [0, 2, 4, 8, 12]),
        (0.25, THREE_BY_THREE, [1.5, 9], [0, 4]),
        # Blocks lie along a single row or column.
        (0.5, ONE_ROW, [0.5, 2.5, 5], [0, 2, 4]),
        (0.25, ONE_ROW, [1.5, 5], [0, 4]),
        (0.5, ONE_COLUMN, [0.5, 2.5, 6], [0, 2, 4]),
        (0.25, ONE_COLUMN, [1.5, 6], [0, 4]),
        (1, ONE_ROW, range(8), range(8)),
    ],
)
def test_by_hand(rate, rows, means, positions):
    (left,) = reduce(AveragePooling(rate), [sample(rows)], len(rows))
    np.testing.assert_allclose(left["vision"][:, 0], means, rtol=1e-6)
    assert left["vision_positions"].tolist() == list(positions)


def test_images_are_pooled_apart():
    two = sample(TWO_IMAGES, image_ids=[0] * 5 + [1] * 5)
    (left,) = reduce(AveragePooling(0.5), [two], 10)
    np.testing.assert_allclose(left["vision"][:, 0], [0.5, 2.5, 5.5, 7.5])
    assert left["vision_image_ids"].tolist() == [0, 0, 1, 1]
