"""The tensors of a safetensors file, each read when it is asked for."""

from typing import Any
from typing import NamedTuple

import ml_dtypes  # noqa: F401  Gives NumPy the bfloat16 that files hold.
import numpy as np
from safetensors import SafetensorError
from safetensors import safe_open

# The types that weights are read from and written in.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class StoredTensor(NamedTuple):
    """A tensor in a file: where it lies, its type and shape."""

    file: Any
    path: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The whole tensor."""
        return self.file.get_tensor(self.name)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """A part of the tensor, along its first axis."""
        return self.file.get_slice(self.name)[start:stop]


def stored_tensors(path: str) -> dict[str, StoredTensor]:
    """What a safetensors file holds, by tensor name. No tensor is read.

    Args:
        path: str. The file.

    Returns:
        A dict from tensor names to `StoredTensor`.

    Raises:
        ValueError: The file is no safetensors file, is truncated or damaged.
            The message names it.
    """
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"`{path}` is truncated, damaged or no safetensors file: {error}"
        ) from error
    stored = {}
    for name in file.keys():
        entry = file.get_slice(name)
        shape = tuple(entry.get_shape())
        stored[name] = StoredTensor(file, path, name, entry.get_dtype(), shape)
    return stored
