"""Neighbours and padding make no difference to what is kept."""

import numpy as np
import pytest
from visual_tokens import ONE_IMAGE
from visual_tokens import PATCHES_PER_TILE
from visual_tokens import TWO_IMAGES
from visual_tokens import reduce
from visual_tokens import sample

from keras_visor import reduction
from keras_visor.preprocessing.llava_onevision import packed_tokens

PINPOINTS = [(8 * rows, 8 * columns) for rows in (1, 2) for columns in (1, 2)]


def samples():
    """One and several images, odd and shrunken grids, and no image."""
    rng = np.random.default_rng(0)

    def random(rows, **changes):
        one = sample(
            rows,
            rng.normal(size=(len(rows), 6)),
            rng.uniform(size=len(rows)) * (np.array(rows) > 0),
        )
        return {**one, **changes}

    packed = []
    for size in ((8, 8), (16, 16), (5, 16), (16, 7), (30, 31)):
        indices, weights = packed_tokens(
            size,
            alone=True,
            tile_size=8,
            patches_per_side=2,
            grid_pinpoints=PINPOINTS,
            max_tiles=3,
        )
        packed.append(random(indices[:, 0], indices=indices, weights=weights))
    two = random(TWO_IMAGES)
    two["vision_image_ids"] = np.array([0] * 5 + [1] * 5, "int32")
    return [random(ONE_IMAGE), two, *packed, random([])]


@pytest.mark.parametrize(
    "reducer",
    [
        reduction.AveragePooling(0.5),
        reduction.AveragePooling(0.25),
        reduction.RandomChoice(0.3),
        reduction.UniformChoice(0.3),
        reduction.VisionZip(0.6),
        reduction.VisPruner(0.3),
        reduction.HiRED(0.3),
    ],
    ids=str,
)
def test_alone_and_in_a_batch(reducer):
    assert PATCHES_PER_TILE == 4
    batch = samples()
    together = reduce(reducer, batch, 40)
    for one, left in zip(batch, together, strict=True):
        count = len(one["vision"])
        most = -(-round(count * reducer.rate * 10) // 10)
        if isinstance(reducer, reduction.AveragePooling):
            assert len(left["vision"]) <= most
        else:
            assert len(left["vision"]) == most
        assert np.all(np.diff(left["vision_positions"]) > 0)
        if count:
            (alone,) = reduce(reducer, [one], count)
            for name, values in alone.items():
                np.testing.assert_allclose(values, left[name], atol=1e-6)


@pytest.mark.parametrize(
    "cls",
    [
        reduction.AveragePooling,
        reduction.RandomChoice,
        reduction.UniformChoice,
        reduction.VisionZip,
        reduction.VisPruner,
        reduction.HiRED,
    ],
)
def test_a_rate_of_one_keeps_everything(cls):
    batch = samples()
    for one, left in zip(batch, reduce(cls(1), batch, 40), strict=True):
        for name, values in left.items():
            expected = one[name]
            if name == "vision_positions":
                expected = np.arange(len(expected))
            np.testing.assert_allclose(values, expected, atol=1e-6)
