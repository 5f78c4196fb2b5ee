"""Reading the weights of a LLaVA-OneVision or VISOR checkpoint.

Everything is checked before anything is assigned. Tensors are then read one
at a time, in blocks of rows, the largest first, while memory holds little of
the model yet: besides what is loaded, one tensor waits on the host.
"""

import math
from typing import Any

import keras
import numpy as np

from keras_visor._compat import check_file_exists
from keras_visor._compat import get_file
from keras_visor.checkpoints.json_files import read_json
from keras_visor.checkpoints.name_map import CROSS_ATTENTION
from keras_visor.checkpoints.name_map import EMBEDDING
from keras_visor.checkpoints.name_map import HEAD
from keras_visor.checkpoints.name_map import POLICY
from keras_visor.checkpoints.name_map import Weight
from keras_visor.checkpoints.name_map import base_name
from keras_visor.checkpoints.name_map import canonical_name
from keras_visor.checkpoints.name_map import spare_reason
from keras_visor.checkpoints.name_map import weight_map
from keras_visor.checkpoints.safetensors_file import DTYPES
from keras_visor.checkpoints.safetensors_file import StoredTensor
from keras_visor.checkpoints.safetensors_file import stored_tensors

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# How many numbers are read at once.
BLOCK_SIZE = 2**20
# Spare tensors that an export writes back; the others are computed.
KEPT = (
    "vision_tower.vision_model.post_layernorm.",
    "vision_tower.vision_model.head.",
)


class CheckpointReader:
    """The tensors of a checkpoint, by their canonical names.

    Args:
        preset: str. A directory, or a handle such as `hf://org/name`, that
            holds model.safetensors or its shards with their index. Where both
            are there, the single file counts, as in `transformers`.

    Attributes:
        tensors: dict. `StoredTensor` by canonical name.

    Raises:
        ValueError: No weights, a missing or damaged file, an index that names
            a tensor that its shard does not hold, or two spellings of one
            tensor. The message names the file.

    Example:
    ```python
    reader = CheckpointReader("hf://llava-hf/llava-onevision-qwen2-0.5b-ov-hf")
    reader.tensors["image_newline"].read()
    ```
    """

    def __init__(self, preset: str):
        self.tensors = {}
        for stored in _stored_tensors(preset):
            name = canonical_name(stored.name)
            if name in self.tensors:
                other = self.tensors[name]
                raise ValueError(
                    f"The checkpoint `{preset}` holds the tensor `{name}` "
                    f"twice: `{other.name}` in `{other.path}` and "
                    f"`{stored.name}` in `{stored.path}`."
                )
            self.tensors[name] = stored

    def is_tied(self, config_ties: bool) -> bool:
        """Whether the output head is the token embedding.

        As in `transformers`: a config that ties is overruled by a head in the
        file that differs from the embedding.

        Args:
            config_ties: bool. What the config says.
        """
        head, embedding = map(self.tensors.get, (HEAD, EMBEDDING))
        if not config_ties or head is None or embedding is None:
            return config_ties
        if not all(
            tensor.dtype in DTYPES and len(tensor.shape) == 2
            for tensor in (head, embedding)
        ):
            # `load_weights` says what is wrong.
            return config_ties
        if head.shape != embedding.shape:
            return False
        return all(
            np.array_equal(head.read_rows(*rows), embedding.read_rows(*rows))
            for rows in _spans(head.shape[0], math.prod(head.shape[1:]))
        )


def load_weights(
    backbone: Any,
    reader: CheckpointReader,
    *,
    new_cross_attention: bool = False,
    new_policy: bool = False,
) -> None:
    """Set every weight of a backbone from a checkpoint.

    Tensors that LLaVA-OneVision never uses are kept in
    `backbone.spare_tensors`, a dict from canonical names to arrays, so that
    an export can write them back.

    Args:
        backbone: A built `VisorBackbone`.
        reader: `CheckpointReader`. The checkpoint.
        new_cross_attention: bool. Whether the checkpoint is a base model's.
            Norms, queries, keys and values of the cross-attention then start
            from the same layer's self-attention, the rest of it from zero.
            Defaults to `False`.
        new_policy: bool. Whether the policy keeps its random start, and a
            policy in the checkpoint is passed over. Defaults to `False`.

    Raises:
        ValueError: A weight without a tensor, a tensor without a weight, or
            one of another shape or type. No weight has changed then.
    """
    named = weight_map(backbone)
    _check_all_named(backbone, named)
    weights, zeros = [], []
    for weight in named:
        if new_policy and weight.name.startswith(POLICY):
            continue
        if new_cross_attention and weight.name.startswith(CROSS_ATTENTION):
            weight = weight._replace(name=base_name(weight.name))
        (weights if weight.name else zeros).append(weight)
    passed_over = []
    if new_policy and not new_cross_attention:
        passed_over.append(POLICY)
    if backbone.token_embedding.tie_weights and reader.is_tied(True):
        passed_over.append(HEAD)
    _check(weights, reader.tensors, tuple(passed_over))
    for weight in sorted(weights, key=_size, reverse=True):
        weight.variable.assign(_read(weight, reader.tensors[weight.name]))
        if keras.backend.backend() == "jax":
            # It copies in the background: many tensors would wait on the host.
            weight.variable.value.block_until_ready()
    for weight in zeros:
        weight.variable.assign(keras.ops.zeros(weight.variable.shape))
    backbone.spare_tensors = {
        name: stored.read()
        for name, stored in reader.tensors.items()
        if name.startswith(KEPT) and stored.dtype in DTYPES
    }


def _stored_tensors(preset) -> list[StoredTensor]:
    if check_file_exists(preset, WEIGHTS_FILE):
        return list(stored_tensors(get_file(preset, WEIGHTS_FILE)).values())
    index = read_json(preset, INDEX_FILE)
    if index is None:
        raise ValueError(
            f"The checkpoint `{preset}` has neither `{WEIGHTS_FILE}` nor "
            f"`{INDEX_FILE}`. Other weight files are not read."
        )
    path = get_file(preset, INDEX_FILE)
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict) or not all(
        isinstance(shard, str) for shard in shard_of.values()
    ):
        raise ValueError(
            f"`{path}` has no `weight_map` from tensor names to file names."
        )
    tensors = []
    for shard in sorted(set(shard_of.values())):
        # A name with a path in it could leave the checkpoint's directory.
        if "/" in shard or "\\" in shard:
            raise ValueError(f"`{path}` names the shard `{shard}`, a path.")
        if not check_file_exists(preset, shard):
            raise ValueError(
                f"`{path}` names the shard `{shard}`, which is missing."
            )
        stored = stored_tensors(get_file(preset, shard))
        absent = sorted(
            name
            for name, holder in shard_of.items()
            if holder == shard and name not in stored
        )
        if absent:
            raise ValueError(
                f"`{path}` places tensors in `{shard}` that it does not "
                f"hold: {absent}"
            )
        tensors += stored.values()
    return tensors


def _check_all_named(backbone, named: list[Weight]):
    known = {id(weight.variable) for weight in named}
    unnamed = [
        variable.path
        for variable in backbone.weights
        # Integers are the states of random generators.
        if "float" in variable.dtype and id(variable) not in known
    ]
    if unnamed:
        raise ValueError(
            "LLaVA-OneVision checkpoints have no place for these weights of "
            f"the model: {unnamed}"
        )


def _check(weights: list[Weight], tensors, passed_over):
    names = {weight.name for weight in weights}
    missing = sorted(names - tensors.keys())
    unknown = sorted(
        stored.name
        for name, stored in tensors.items()
        if name not in names
        and spare_reason(name) is None
        and not name.startswith(passed_over)
    )
    unfit = [
        f"`{tensors[w.name].name}` has shape {tensors[w.name].shape}, "
        f"expected {w.shape}"
        for w in weights
        if w.name in tensors and tensors[w.name].shape != w.shape
    ]
    unreadable = [
        f"`{tensors[w.name].name}` has type {tensors[w.name].dtype}, "
        f"expected one of {list(DTYPES)}"
        for w in weights
        if w.name in tensors and tensors[w.name].dtype not in DTYPES
    ]
    problems = unfit + unreadable
    if missing:
        problems.append(f"missing tensors: {missing}")
    if unknown:
        problems.append(f"tensors that the model has no place for: {unknown}")
    if problems:
        raise ValueError(
            "The checkpoint's tensors do not fit the model of its config: "
            + "; ".join(problems)
        )


def _size(weight):
    return math.prod(weight.shape)


def _read(weight: Weight, stored: StoredTensor) -> np.ndarray:
    """A variable's value, in its type."""
    value = np.empty(tuple(weight.variable.shape), weight.variable.dtype)
    # The tensor's rows are indices of the variable along this axis: one for
    # one, or as many rows for an index as a head is wide.
    axis = weight.axes.index(0)
    length = value.shape[axis]
    rows = stored.shape[0] // length
    blocks = np.moveaxis(value, axis, 0)
    for start, stop in _spans(length, value.size // length):
        block = weight.to_keras(stored.read_rows(start * rows, stop * rows))
        blocks[start:stop] = np.moveaxis(block, axis, 0)
    return value


def _spans(length, size):
    """Ranges that cut `length` entries of `size` numbers into blocks."""
    step = max(1, BLOCK_SIZE // max(1, size))
    for start in range(0, length, step):
        yield start, min(start + step, length)
