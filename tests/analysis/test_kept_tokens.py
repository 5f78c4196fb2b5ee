import numpy as np
import pytest
from model_checks import batch
from model_checks import preprocess

from keras_visor.analysis import attention_maps
from keras_visor.analysis import draw_kept_tokens
from keras_visor.analysis import kept_maps
from keras_visor.reduction import PyramidDrop
from keras_visor.reduction import UniformChoice

# A base tile of 2 x 2 at positions 3 to 6, two rows of three, two paddings.
INPUTS = {
    "padding_mask": np.array([[True, True, False]]),
    "vision_positions": np.array([[*range(3, 15), 0, 0]]),
    "vision_mask": np.array([[True] * 12 + [False] * 2]),
    "vision_image_ids": np.array([[0] * 12 + [-1] * 2]),
    "vision_indices": np.zeros((1, 14, 4), int),
    "vision_weights": np.zeros((1, 14, 4)),
}
INPUTS["vision_indices"][0, :12, 0] = [1, 2, 3, 4, 5, 6, 9, 0, 7, 8, 11, 0]
INPUTS["vision_weights"][0, :12, 0] = 1
KEPT = np.array([[3, 6, 8, 11, -1]])


def test_maps_by_hand():
    ((base, grid),) = kept_maps(KEPT, INPUTS, 2)
    assert base.tolist() == [[True, False], [False, True]]
    assert grid.tolist() == [[False, True, False], [True, False, False]]


def test_attention_of_the_kept_tokens():
    attention = {5: np.array([[[0] * 5, [0.1, 0.2, 0.3, 0.4, 0.9], [0] * 5]])}
    maps = attention_maps(attention, INPUTS, 2, {5: KEPT})
    np.testing.assert_allclose(maps[5], [[[0.1, 0], [0, 0.2]]])


def test_drawing():
    maps = kept_maps(KEPT, INPUTS, 2)
    drawn = np.asarray(draw_kept_tokens([np.zeros((60, 90, 3), "uint8")], maps))
    assert drawn.shape == (328, 2 * (480 + 8), 3)
    # Black is kept, and faded to a light grey where nothing is.
    tile, grid = drawn[:320, :480], drawn[:320, 488:968]
    assert [tile[80, 120, 0], tile[80, 360, 0]] == [0, 191]
    assert [tile[240, 120, 0], tile[240, 360, 0]] == [191, 0]
    assert [grid[80, x, 0] for x in (80, 240, 400)] == [191, 0, 191]
    assert [grid[240, x, 0] for x in (80, 240, 400)] == [0, 191, 191]


def test_of_a_model(visor):
    name = ["several images"]
    x = preprocess(visor, batch(name, budget=[2]))
    count = int(x["vision_mask"].sum())
    seen = visor.backbone.intermediates(x, UniformChoice(0.5))
    maps = kept_maps(seen["vision_positions"][0], x, 4)
    assert [[m.shape for m in image] for image in maps] == [[(4, 4)]] * 3
    # All but the newlines, one an image, can be drawn.
    assert 0 <= -(-count // 2) - sum(m[0].sum() for m in maps) <= 3
    draw_kept_tokens(batch(name)["images"][0], maps)

    reducer = PyramidDrop(0.5, layers=[0, 3])
    seen = visor.backbone.intermediates(x, reducer)
    lengths = [
        int((np.asarray(p) >= 0).sum())
        for p in seen["vision_positions"].values()
    ]
    half = -(-count // 2)
    assert lengths == [count, half, half, half, *[-(-half // 2)] * 2]
    maps = attention_maps(
        seen["vision_attention"], x, 4, seen["vision_positions"]
    )
    assert {heat.shape for heat in maps.values()} == {(3, 4, 4)}


def test_refuses():
    two = {name: np.repeat(a, 2, axis=0) for name, a in INPUTS.items()}
    with pytest.raises(ValueError, match="one sample. Received: 2"):
        kept_maps(KEPT, two, 2)
    maps = kept_maps(KEPT, INPUTS, 2)
    for images in ([], [np.zeros((4, 4, 3), "uint8")] * 2):
        message = f"Received: {len(images)} images and 1 maps"
        with pytest.raises(ValueError, match=message):
            draw_kept_tokens(images, maps)
