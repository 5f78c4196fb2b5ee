import numpy as np
from visual_tokens import ONE_IMAGE
from visual_tokens import reduce
from visual_tokens import sample

from keras_visor.reduction import VisionZip


def test_by_hand():
    """Of 16 tokens 13 are kept, of which ceil(13 * 27 / 32) are dominant."""
    # 11 that are looked at more than these five, of which the first and the
    # fourth become contextual: r * 2 modulo 5 is below 2 for r = 0 and 3.
    others = {
        2: (1, 0),
        3: (0.9, 0.1),
        7: (0, 2),
        9: (0, 1),
        14: (1, 0.1),
    }
    attention = np.linspace(0.2, 0.3, 16)
    tokens = np.full((16, 2), 5.0)
    for index, token in others.items():
        attention[index], tokens[index] = 0.1, token
    one = sample(range(1, 17), tokens, attention)
    (left,) = reduce(VisionZip(13 / 16), [one], 16)
    indices = [i for i in range(16) if i not in (3, 7, 14)]
    assert left["vision_positions"].tolist() == indices
    expected = tokens.copy()
    # 3 and 14 are most like 2, and 7 is like 9.
    expected[2] = np.mean([others[2], others[3], others[14]], axis=0)
    expected[9] = np.mean([others[7], others[9]], axis=0)
    np.testing.assert_allclose(left["vision"], expected[indices], rtol=1e-6)


def test_few_tokens_are_all_dominant():
    attention = [0.1, 0.4, 0.2, 0.3, 0, 0, 0, 0.5]
    (left,) = reduce(VisionZip(0.5), [sample(range(1, 9), None, attention)], 8)
    assert left["vision_positions"].tolist() == [1, 2, 3, 7]
    assert left["vision"][:, 0].tolist() == [1, 2, 3, 7]


def test_newlines_go_first():
    """Of 12 patches 11 are dominant; the last one is merged with itself."""
    attention = np.linspace(0.2, 0.1, 14)
    one = sample(ONE_IMAGE, None, attention)
    patches = [i for i in range(14) if i not in (8, 13)]
    for rate, indices in ((12 / 14, patches), (13 / 14, [*patches, 8])):
        (left,) = reduce(VisionZip(rate), [one], 14)
        assert left["vision_positions"].tolist() == sorted(indices)
        assert left["vision"][:, 0].tolist() == sorted(indices)


def test_images_of_a_sample_do_not_mix():
    """What is merged into the first image's tokens is its own alone."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(24, 3))
    attention = rng.uniform(size=24)
    image_ids = [0] * 12 + [1] * 12

    def first_image(tokens):
        one = sample(range(1, 25), tokens, attention, image_ids)
        (left,) = reduce(VisionZip(0.5), [one], 24)
        rows = left["vision_image_ids"] == 0
        assert 0 < rows.sum() < 12
        return left["vision"][rows]

    other = tokens.copy()
    other[12:] = rng.normal(size=(12, 3))
    np.testing.assert_array_equal(first_image(tokens), first_image(other))
    # And some of it is merged, or nothing would be tested.
    kept = {tuple(row) for row in first_image(tokens)}
    assert not kept <= {tuple(row) for row in tokens.astype("float32")}
