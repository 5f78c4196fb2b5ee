import keras
import numpy as np
import pytest
import torch
from keras import ops
from layer_checks import call
from layer_checks import randomize
from layer_checks import to_numpy
from torch.nn import functional as F

from keras_visor.layers.vision_tower import VisorVisionTower

# An encoder that is counted by hand: 2x2 patches of a 4x4 tile, each the
# mean of its pixels' channels.
PATCHES, HIDDEN = 4, 5
RNG = np.random.default_rng(0)
# Two samples; the second has one tile, the other only pads.
IMAGES = RNG.normal(size=(2, 2, 4, 4, 3)).astype("float32")


def make_tower(dtype="float32"):
    images = keras.Input((4, 4, 3))
    pooled = keras.layers.AveragePooling2D(2, dtype=dtype)(images)
    features = keras.layers.Reshape((PATCHES, 3), dtype=dtype)(pooled)
    encoder = keras.Model(images, features)
    tower = VisorVisionTower(encoder, HIDDEN, dtype=dtype)
    tower.build(IMAGES.shape)
    randomize(tower)
    return tower


def gather(*rows):
    """Indices and weights of visual tokens, from `{source row: weight}`."""
    indices = np.zeros((len(rows), 4), "int32")
    weights = np.zeros((len(rows), 4), "float32")
    for token, row in enumerate(rows):
        for source, (index, weight) in enumerate(row.items()):
            indices[token, source] = index
            weights[token, source] = weight
    return indices, weights


INDICES, WEIGHTS = map(
    np.stack,
    zip(
        # Base patches, a blend within the second tile, a newline.
        gather({1: 1}, {4: 1}, {5: 0.1, 6: 0.2, 7: 0.3, 8: 0.4}, {0: 1}),
        # A patch, a newline, and padding.
        gather({2: 1}, {0: 1}, {}, {}),
        strict=True,
    ),
)


def run(tower, images):
    return call(
        tower, images=images, vision_indices=INDICES, vision_weights=WEIGHTS
    )


def expected_rows(tower):
    """Newline and projected patches of both samples, (2, 9, HIDDEN)."""
    pixels = torch.tensor(IMAGES).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    patches = pixels.mean(dim=(3, 5)).reshape(2, 2 * PATCHES, 3)
    for dense, activate in (
        (tower.projector_in, True),
        (tower.projector_out, False),
    ):
        kernel = torch.tensor(to_numpy(dense.kernel))
        patches = patches @ kernel + torch.tensor(to_numpy(dense.bias))
        patches = F.gelu(patches) if activate else patches
    newline = np.tile(to_numpy(tower.image_newline), (2, 1, 1))
    return np.concatenate([newline, patches.numpy()], axis=1)


def test_gather_by_hand():
    tower = make_tower()
    tokens = to_numpy(run(tower, IMAGES))
    rows = expected_rows(tower)
    expected = np.zeros((2, 4, HIDDEN))
    expected[0, 0] = rows[0, 1]
    expected[0, 1] = rows[0, 4]
    expected[0, 2] = rows[0, 5:9].T @ [0.1, 0.2, 0.3, 0.4]
    expected[0, 3] = to_numpy(tower.image_newline)
    expected[1, 0] = rows[1, 2]
    expected[1, 1] = to_numpy(tower.image_newline)
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    np.testing.assert_array_equal(tokens[1, 2:], np.zeros((2, HIDDEN)))


def test_a_tile_that_only_pads_changes_nothing():
    tower = make_tower()
    images = IMAGES.copy()
    images[1, 1] = 1e3
    np.testing.assert_array_equal(
        to_numpy(run(tower, images)),
        to_numpy(run(tower, IMAGES)),
    )


def test_encoding_tile_by_tile_and_packing_is_the_call():
    tower = make_tower()
    patches = [
        call(tower.encode, tiles=tile[None])
        for tile in IMAGES.reshape(4, 4, 4, 3)
    ]
    patches = ops.reshape(ops.concatenate(patches), (2, -1, HIDDEN))
    np.testing.assert_allclose(
        to_numpy(
            call(
                tower.pack,
                patches=patches,
                vision_indices=INDICES,
                vision_weights=WEIGHTS,
            )
        ),
        to_numpy(run(tower, IMAGES)),
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_spec_without_running(dtype):
    tower = make_tower(dtype)
    spec = tower.compute_output_spec(
        keras.KerasTensor(IMAGES.shape),
        keras.KerasTensor(INDICES.shape, "int32"),
        keras.KerasTensor(WEIGHTS.shape),
    )
    tokens = run(tower, IMAGES)
    assert tuple(spec.shape) == tuple(tokens.shape) == (2, 4, HIDDEN)
    assert spec.dtype == keras.backend.standardize_dtype(tokens.dtype) == dtype
    np.testing.assert_allclose(
        to_numpy(tokens),
        to_numpy(run(make_tower(), IMAGES)),
        rtol=0.05,
        atol=0.05,
    )


# === Attention ===


def test_attention_received_is_that_of_transformers(dense, dense_reference):
    encoder = dense_reference.model.model.vision_tower
    tiles = np.random.default_rng(1).normal(size=(3, 28, 28, 3))
    tiles = tiles.astype("float32")
    hidden = []
    block = encoder.encoder.layers[-1]
    hook = block.register_forward_pre_hook(
        lambda _, arguments: hidden.append(arguments[0])
    )
    with torch.no_grad():
        encoder(torch.tensor(tiles).permute(0, 3, 1, 2))
        hook.remove()
        # By hand: `transformers` may not compute weights that can be read.
        normed = block.layer_norm1(hidden[0])
        attention = block.self_attn
        query, key = (
            dense_layer(normed).unflatten(-1, (attention.num_heads, -1))
            for dense_layer in (attention.q_proj, attention.k_proj)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key)
        weights = (scores * query.shape[-1] ** -0.5).softmax(-1)
    tower = dense.backbone.vision_tower
    assert tower.has_attention
    patches, received = call(tower.encode_with_attention, tiles=tiles)
    np.testing.assert_allclose(
        to_numpy(received), weights.mean((1, 2)).numpy(), atol=1e-6
    )
    np.testing.assert_allclose(
        to_numpy(patches), to_numpy(call(tower.encode, tiles=tiles)), atol=1e-5
    )


def test_attention_is_packed_with_the_tokens():
    tower = make_tower()
    assert not tower.has_attention
    attention = np.arange(1, 17, dtype="float32").reshape(2, 8)
    packed = call(
        tower.pack_attention,
        attention=attention,
        vision_indices=INDICES,
        vision_weights=WEIGHTS,
    )
    np.testing.assert_allclose(
        to_numpy(packed), [[1, 4, 7, 0], [10, 0, 0, 0]], rtol=1e-6
    )
