import json
import re
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from keras_visor.checkpoints.safetensors_file import PendingTensor
from keras_visor.checkpoints.safetensors_file import read_header
from keras_visor.checkpoints.safetensors_file import write_file

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "odd": torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16),
    "scalar": torch.tensor(0.5),
    "z": torch.tensor([[1.0], [-0.5]], dtype=torch.float16),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "made.safetensors"
    safetensors.torch.save_file(TENSORS, path)
    return str(path)


def test_reads_what_the_library_writes(path):
    header = read_header(path)
    assert header.keys() == TENSORS.keys()
    for name, stored in header.items():
        array = stored.read()
        assert stored.shape == array.shape == tuple(TENSORS[name].shape)
        np.testing.assert_array_equal(
            array.astype("float32"), TENSORS[name].float().numpy()
        )
    assert header["odd"].read().dtype == ml_dtypes.bfloat16


def test_the_library_reads_what_is_written(tmp_path):
    path = str(tmp_path / "written.safetensors")
    codes = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    write_file(
        path,
        [
            PendingTensor(
                name,
                codes[str(tensor.dtype).removeprefix("torch.")],
                tuple(tensor.shape),
                lambda tensor=tensor: tensor.float().numpy(),
            )
            for name, tensor in TENSORS.items()
        ],
    )
    loaded = safetensors.torch.load_file(path)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_cut_anywhere_it_is_refused(path):
    with open(path, "rb") as file:
        content = file.read()
    for length in (0, 7, 8, 40, len(content) // 2, len(content) - 1):
        with open(path, "wb") as file:
            file.write(content[:length])
        with pytest.raises(ValueError, match=re.escape(path)):
            read_header(path)


def header_file(path, header, data=b""):
    encoded = (
        header if isinstance(header, bytes) else json.dumps(header).encode()
    )
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded + data)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, data, message",
    [
        (b"{]", b"", "damaged"),
        ([1, 2], b"", "damaged"),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "data_offsets"),
        ({"a": ENTRY}, bytes(9), "describes"),
        ({"a": {**ENTRY, "shape": [3]}}, bytes(8), "`a` has 8 bytes"),
        ({"a": ENTRY, "b": ENTRY}, bytes(8), "`b` does not start"),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12), "`a` does not"),
        (
            b'{"a": %s, "a": %s}' % ((json.dumps(ENTRY).encode(),) * 2),
            bytes(8),
            "twice",
        ),
    ],
)
def test_damaged_header(tmp_path, header, data, message):
    path = str(tmp_path / "damaged.safetensors")
    header_file(path, header, data)
    with pytest.raises(ValueError, match=message) as error:
        read_header(path)
    assert path in str(error.value)
