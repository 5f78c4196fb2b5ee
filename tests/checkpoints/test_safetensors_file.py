import json
import re
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from keras_visor.checkpoints.safetensors_file import stored_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "foreign": torch.tensor([1, 2], dtype=torch.int8),
    "odd": torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16),
    "scalar": torch.tensor(0.5),
    "z": torch.tensor([[1.0], [-0.5]], dtype=torch.float16),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "made.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    return str(path)


def test_tensors_and_their_rows(path):
    stored = stored_tensors(path)
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        array = stored[name].read()
        assert stored[name].shape == array.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(
            array.astype("float32"), tensor.float().numpy()
        )
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "a": "F32",
        "foreign": "I8",
        "odd": "BF16",
        "scalar": "F32",
        "z": "F16",
    }
    assert stored["odd"].read().dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(stored["a"].read_rows(1, 2), [[3, 4, 5]])
    odd = stored["odd"].read_rows(0, 2)
    assert odd.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(odd.astype("float32"), [1.5, -2.0])


def test_cut_anywhere_it_is_refused(path):
    with open(path, "rb") as file:
        content = file.read()
    for length in (0, 7, 8, 40, len(content) // 2, len(content) - 1):
        with open(path, "wb") as file:
            file.write(content[:length])
        with pytest.raises(ValueError, match=re.escape(path)):
            stored_tensors(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, data",
    [
        ([1, 2], b""),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        ({"a": ENTRY}, bytes(9)),
        ({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
        ({"a": ENTRY, "b": ENTRY}, bytes(8)),
    ],
)
def test_damaged_header(tmp_path, header, data):
    path = str(tmp_path / "damaged.safetensors")
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded + data)
    with pytest.raises(ValueError, match="damaged") as error:
        stored_tensors(path)
    assert path in str(error.value)
