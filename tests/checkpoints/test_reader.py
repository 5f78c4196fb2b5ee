import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import safetensors.torch
import torch

from keras_visor.checkpoints import reader as reader_module
from keras_visor.checkpoints.name_map import Weight
from keras_visor.checkpoints.name_map import _kernel
from keras_visor.checkpoints.name_map import _vector
from keras_visor.checkpoints.reader import CheckpointReader
from keras_visor.checkpoints.reader import load_weights

PROJECTOR = "multi_modal_projector.linear_1.weight"
KERNEL = torch.arange(6.0).reshape(3, 2) / 8  # exact in every type
NEWLINE = torch.tensor([1.0, -2.0])


def write(directory, tensors, name="model.safetensors"):
    safetensors.torch.save_file(tensors, directory / name)
    return CheckpointReader(str(directory))


@pytest.fixture
def backbone(monkeypatch):
    """A backbone of two weights, a matrix and a vector."""
    backbone = SimpleNamespace(
        token_embedding=SimpleNamespace(tie_weights=True)
    )

    def make(dtype="float32"):
        backbone.kernel = keras.Variable(np.zeros((2, 3)), dtype=dtype)
        backbone.newline = keras.Variable(np.zeros(2), dtype=dtype)
        backbone.weights = [backbone.kernel, backbone.newline]
        return backbone

    monkeypatch.setattr(
        reader_module,
        "weight_map",
        lambda b: [
            _kernel(PROJECTOR, b.kernel),
            _vector("image_newline", b.newline),
        ],
    )
    return make


def value(variable):
    return keras.ops.convert_to_numpy(variable).astype("float32")


@pytest.mark.parametrize("model_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("file_dtype", ["float32", "float16", "bfloat16"])
def test_every_type_in_every_model(tmp_path, backbone, file_dtype, model_dtype):
    dtype = getattr(torch, file_dtype)
    reader = write(
        tmp_path,
        {f"model.{PROJECTOR}": KERNEL.to(dtype), "image_newline": NEWLINE},
    )
    loaded = backbone(model_dtype)
    load_weights(loaded, reader)
    np.testing.assert_array_equal(value(loaded.kernel), KERNEL.numpy().T)
    np.testing.assert_array_equal(value(loaded.newline), NEWLINE.numpy())
    assert keras.backend.standardize_dtype(loaded.kernel.dtype) == model_dtype


@pytest.mark.parametrize("block_size", [1, 24, 50, 1000])
@pytest.mark.parametrize(
    "shape, axes",
    [
        ((12, 5), (0, 1)),  # an embedding
        ((5, 12), (1, 0)),  # a kernel
        ((5, 3, 4), (2, 0, 1)),  # to heads
        ((3, 4, 5), (1, 2, 0)),  # from heads
        ((2, 3, 5, 4), (2, 3, 1, 0)),  # a convolution
    ],
)
def test_blocks_make_up_the_whole(
    tmp_path, monkeypatch, block_size, shape, axes
):
    monkeypatch.setattr(reader_module, "BLOCK_SIZE", block_size)
    expected = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    tensor = expected.transpose(np.argsort(axes))
    if len(shape) == 3:
        # PyTorch folds the heads, three of width four, into one axis.
        tensor = tensor.reshape((12, 5) if axes[0] == 2 else (5, 12))
    loaded = SimpleNamespace(
        token_embedding=SimpleNamespace(tie_weights=True),
        kernel=keras.Variable(np.full(shape, -1.0)),
        weights=[],
    )
    weight = Weight("image_newline", loaded.kernel, tensor.shape, axes)
    monkeypatch.setattr(reader_module, "weight_map", lambda b: [weight])
    tensors = {"image_newline": torch.from_numpy(tensor.copy())}
    load_weights(loaded, write(tmp_path, tensors))
    np.testing.assert_array_equal(value(loaded.kernel), expected)


def test_the_largest_tensor_comes_first(tmp_path, monkeypatch, backbone):
    # While little of the model is held.
    reader = write(
        tmp_path, {PROJECTOR: KERNEL, "image_newline": NEWLINE.clone()}
    )
    loaded, sizes = backbone(), []
    read = reader_module._read

    def count(weight, stored):
        value = read(weight, stored)
        sizes.append(value.size)
        return value

    monkeypatch.setattr(reader_module, "_read", count)
    weight_map = reader_module.weight_map
    for names in (lambda b: weight_map(b), lambda b: weight_map(b)[::-1]):
        monkeypatch.setattr(reader_module, "weight_map", names)
        load_weights(loaded, reader)
    assert sizes == [6, 2, 6, 2]


def test_a_weight_that_the_format_does_not_know(tmp_path, backbone):
    reader = write(tmp_path, {PROJECTOR: KERNEL, "image_newline": NEWLINE})
    loaded = backbone()
    loaded.weights.append(keras.Variable(np.zeros(3), name="adapter_kernel"))
    with pytest.raises(ValueError, match=r"no place.*\['adapter_kernel'\]"):
        load_weights(loaded, reader)
    assert not value(loaded.kernel).any()


def test_rounds_to_the_nearest_bfloat16(tmp_path, backbone):
    kernel = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    reader = write(tmp_path, {PROJECTOR: kernel, "image_newline": NEWLINE})
    loaded = backbone("bfloat16")
    load_weights(loaded, reader)
    np.testing.assert_array_equal(
        value(loaded.kernel), kernel.to(torch.bfloat16).float().numpy().T
    )


def test_a_weight_does_not_alias_the_file(tmp_path, backbone):
    reader = write(tmp_path, {PROJECTOR: KERNEL, "image_newline": NEWLINE})
    loaded = backbone()
    load_weights(loaded, reader)
    path = tmp_path / "model.safetensors"
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size - 32)
        file.write(bytes(32))
    np.testing.assert_array_equal(value(loaded.kernel), KERNEL.numpy().T)
    np.testing.assert_array_equal(value(loaded.newline), NEWLINE.numpy())


def test_shards(tmp_path, backbone):
    safetensors.torch.save_file({PROJECTOR: KERNEL}, tmp_path / "one")
    safetensors.torch.save_file({"image_newline": NEWLINE}, tmp_path / "two")
    index = {"weight_map": {PROJECTOR: "one", "image_newline": "two"}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    loaded = backbone()
    load_weights(loaded, CheckpointReader(str(tmp_path)))
    np.testing.assert_array_equal(value(loaded.kernel), KERNEL.numpy().T)

    index["weight_map"]["elsewhere"] = "two"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"`two`.*\['elsewhere'\]"):
        CheckpointReader(str(tmp_path))

    (tmp_path / "two").unlink()
    with pytest.raises(ValueError, match="`two`, which is missing"):
        CheckpointReader(str(tmp_path))

    path.write_text(json.dumps({"weight_map": {"image_newline": "../two"}}))
    with pytest.raises(ValueError, match="a path"):
        CheckpointReader(str(tmp_path))

    for text in ("{", "[]", "{}", '{"weight_map": {"image_newline": 1}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="index.json"):
            CheckpointReader(str(tmp_path))


def test_no_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"never unpickled")
    with pytest.raises(ValueError, match="neither `model.safetensors`"):
        CheckpointReader(str(tmp_path))


def test_two_spellings_of_one_tensor(tmp_path):
    with pytest.raises(ValueError, match="`image_newline` twice"):
        write(
            tmp_path,
            {"image_newline": NEWLINE, "model.image_newline": NEWLINE + 1},
        )


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({PROJECTOR: KERNEL}, r"missing tensors: \['image_newline'\]"),
        (
            {PROJECTOR: KERNEL, "image_newline": NEWLINE, "a.b": NEWLINE + 1},
            r"no place for: \['a.b'\]",
        ),
        (
            {f"model.{PROJECTOR}": KERNEL.T.contiguous()},
            rf"`model.{PROJECTOR}` has shape \(2, 3\), expected \(3, 2\)",
        ),
        (
            {PROJECTOR: KERNEL.to(torch.int8), "image_newline": NEWLINE},
            f"`{PROJECTOR}` has type I8",
        ),
    ],
)
def test_a_misfit_is_named_and_nothing_is_set(
    tmp_path, backbone, tensors, message
):
    loaded = backbone()
    with pytest.raises(ValueError, match=message):
        load_weights(loaded, write(tmp_path, tensors))
    assert not value(loaded.kernel).any()
    assert not value(loaded.newline).any()


def test_spare_tensors_are_kept_or_passed_over(tmp_path, backbone):
    norm = "vision_tower.vision_model.post_layernorm.bias"
    reader = write(
        tmp_path,
        {
            PROJECTOR: KERNEL,
            "image_newline": NEWLINE,
            "model.vision_tower.post_layernorm.bias": NEWLINE + 5,
            "model.vision_tower.embeddings.position_ids": torch.arange(4),
        },
    )
    loaded = backbone()
    load_weights(loaded, reader)
    assert list(loaded.spare_tensors) == [norm]
    np.testing.assert_array_equal(loaded.spare_tensors[norm], [6.0, 3.0])


@pytest.mark.parametrize(
    "head, config_ties, tied",
    [
        (None, True, True),
        (None, False, False),
        (KERNEL, True, True),
        (KERNEL, False, False),
        (KERNEL + 1, True, False),
        (KERNEL + torch.tensor([[0], [0], [1]]), True, False),
        (KERNEL[:2], True, False),
        (KERNEL[0], True, True),  # what is wrong is said later
    ],
)
def test_tied(tmp_path, monkeypatch, head, config_ties, tied):
    monkeypatch.setattr(reader_module, "BLOCK_SIZE", 2)
    tensors = {"language_model.model.embed_tokens.weight": KERNEL}
    if head is not None:
        tensors["lm_head.weight"] = head.clone()
    assert write(tmp_path, tensors).is_tied(config_ties) is tied
