import numpy as np
from visual_tokens import ONE_IMAGE
from visual_tokens import TWO_IMAGES
from visual_tokens import kept
from visual_tokens import sample

from keras_visor.reduction import HiRED


def test_by_hand():
    """7 of 14 tokens, shared out among three tiles.

    The left half of the base tile, 0 and 2, is looked at four times as much
    as the right half: the left tile has 0.8 of the grid's share, 0.4, the
    right one 0.1, the base tile 0.5. Divided by 1, 3, 5 and 7:

        base   0.5  0.167  0.1   0.071
        left   0.4  0.133  0.08  0.057
        right  0.1  0.033  0.02  0.014

    The seven largest are three of the base tile, three of the left, one of
    the right. Of 1 and 3, looked at alike, the earlier is kept.
    """
    attention = np.zeros(14)
    attention[[0, 1, 2, 3]] = [0.4, 0.1, 0.4, 0.1]
    attention[[4, 5, 9, 10]] = [0.1, 0.2, 0.3, 0.4]
    attention[[6, 7, 11, 12]] = [0.4, 0.3, 0.2, 0.1]
    one = sample(ONE_IMAGE, attention=attention)
    assert kept(HiRED(0.5), one) == [0, 1, 2, 5, 6, 9, 10]
    # A small tile's tokens run out, then newlines come.
    assert kept(HiRED(12 / 14), one) == [
        i for i in range(14) if i not in (8, 13)
    ]
    assert kept(HiRED(13 / 14), one) == [i for i in range(14) if i != 13]


def test_images_share_alike():
    attention = [0.1, 0.2, 0.3, 0.4, 0, 0.97, 0.01, 0.02, 0, 0]
    two = sample(TWO_IMAGES, attention=attention, image_ids=[0] * 5 + [1] * 5)
    assert kept(HiRED(0.4), two) == [2, 3, 5, 7]
