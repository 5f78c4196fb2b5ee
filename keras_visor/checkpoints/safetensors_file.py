"""The safetensors format: eight bytes of header length, a JSON header, data.

Read and written by hand, because the library's NumPy interface copies every
tensor that it reads, does not know bfloat16, and wants all tensors in memory
to write them. Format:
https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
import os
import struct
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# The library refuses longer headers too.
MAX_HEADER_BYTES = 100_000_000


class StoredTensor(NamedTuple):
    """Where a tensor lies: its file, type, shape and bytes."""

    path: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def read(self) -> np.ndarray:
        """The tensor as a read-only view of the mapped file, nothing copied."""
        data = np.memmap(
            self.path, np.uint8, "r", self.start, (self.stop - self.start,)
        )
        return data.view(DTYPES[self.dtype]).reshape(self.shape)


def read_header(path: str) -> dict[str, StoredTensor]:
    """What a safetensors file holds, by tensor name.

    Args:
        path: str. The file.

    Returns:
        A dict from tensor names to `StoredTensor`.

    Raises:
        ValueError: The file is truncated, has bytes left over, or its header
            is no safetensors header. The message names the file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"`{path}` is not a safetensors file, or is truncated: it has "
                f"{size} bytes and announces a header of {length}."
            )
        header = file.read(length)
    try:
        tensors = json.loads(header, object_pairs_hook=_without_duplicates)
        tensors.pop("__metadata__", None)
        stored = {
            name: StoredTensor(
                path,
                name,
                entry["dtype"],
                tuple(entry["shape"]),
                *(8 + length + offset for offset in entry["data_offsets"]),
            )
            for name, entry in tensors.items()
        }
        end = _check_spans(stored.values(), 8 + length)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The safetensors header of `{path}` is damaged: {error}"
        ) from error
    if end != size:
        raise ValueError(
            f"`{path}` is truncated or damaged: its header describes {end} "
            f"bytes, the file has {size}."
        )
    return stored


def _without_duplicates(pairs):
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _check_spans(tensors, position):
    """Tensors must follow one another without gap; the end of the last."""
    for tensor in sorted(tensors, key=lambda t: (t.start, t.stop)):
        if tensor.start != position or tensor.stop < tensor.start:
            raise ValueError(f"`{tensor.name}` does not start where it should")
        if tensor.dtype in DTYPES:
            items = math.prod(tensor.shape)
            if items * DTYPES[tensor.dtype].itemsize != (
                tensor.stop - tensor.start
            ):
                raise ValueError(
                    f"`{tensor.name}` has {tensor.stop - tensor.start} bytes, "
                    f"which is not {tensor.dtype} of shape {tensor.shape}"
                )
        position = tensor.stop
    return position


class PendingTensor(NamedTuple):
    """A tensor to write: `load` gives its array when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_file(path: str, tensors: Sequence[PendingTensor]) -> None:
    """Write a safetensors file, holding one tensor in memory at a time.

    Args:
        path: str. The file, overwritten where it exists.
        tensors: A sequence of `PendingTensor`.
    """
    # What `transformers` looks for before it reads a tensor.
    header = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    encoded = json.dumps(header).encode()
    # Padded so that the data starts at a multiple of eight, as the library
    # does it.
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for tensor in tensors:
            array = np.ascontiguousarray(
                tensor.load(), dtype=DTYPES[tensor.dtype]
            )
            file.write(array.view(np.uint8).data)
