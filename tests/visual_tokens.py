"""Visual tokens made by hand, for the tests of the reducers.

A tile has 2 x 2 patches. `ONE_IMAGE` is a base tile and a grid of two tiles
side by side, each of whose rows a newline ends: by index,

    base   0  1      grid   4  5 |  6  7  (8)
           2  3             9 10 | 11 12  (13)
"""

import numpy as np
from keras import ops
from layer_checks import call

from keras_visor.layers.streams import Streams
from keras_visor.reduction import VisionSources

PATCHES_PER_TILE = 4
ONE_IMAGE = [1, 2, 3, 4, 5, 6, 9, 10, 0, 7, 8, 11, 12, 0]
TWO_IMAGES = [1, 2, 3, 4, 0, 5, 6, 7, 8, 0]
FIRST_POSITION = 3


def sample(rows, tokens=None, attention=None, image_ids=None) -> dict:
    """One sample.

    Args:
        rows: list of int. The source row of each visual token, 0 a newline.
        tokens: array (length, width). Defaults to the index of each token.
        attention: array (length,). Defaults to none on any.
        image_ids: array (length,). Defaults to one image.
    """
    length = len(rows)
    if tokens is None:
        tokens = np.arange(length)[:, None]
    indices, weights = np.zeros((2, length, 4))
    indices[:, 0], weights[:, 0] = rows, 1
    return {
        "vision": np.asarray(tokens, "float32"),
        "vision_positions": FIRST_POSITION + np.arange(length, dtype="int32"),
        "vision_mask": np.ones(length, bool),
        "vision_image_ids": np.asarray(
            np.zeros(length) if image_ids is None else image_ids, "int32"
        ),
        "indices": indices.astype("int32"),
        "weights": weights.astype("float32"),
        "attention": np.asarray(
            np.zeros(length) if attention is None else attention, "float32"
        ),
    }


def reduce(reducer, samples, length) -> list[dict]:
    """What is left of each sample of a batch, by name, without padding.

    Positions are given as indices into the sample.
    """
    arrays = {}
    for name, first in samples[0].items():
        fill = -1 if name == "vision_image_ids" else 0
        shape = (len(samples), length, *first.shape[1:])
        arrays[name] = np.full(shape, fill, first.dtype)
        for row, values in enumerate(samples):
            arrays[name][row, : len(values[name])] = values[name]
    names = ("indices", "weights", "attention")

    def run(arrays):
        streams = {k: v for k, v in arrays.items() if k not in names}
        sources = {name: arrays[name] for name in names}
        streams = Streams(None, None, None, **streams)
        sources = VisionSources(patches_per_tile=PATCHES_PER_TILE, **sources)
        streams = reducer.reduce(streams, sources)
        return {
            name: getattr(streams, name) for name in arrays if name[0] == "v"
        }

    outputs = {
        name: ops.convert_to_numpy(values)
        for name, values in call(run, arrays=arrays).items()
    }
    left = []
    for row, mask in enumerate(outputs.pop("vision_mask")):
        count = mask.sum()
        assert mask[:count].all()
        assert (outputs["vision_image_ids"][row, count:] == -1).all()
        left.append({k: v[row, :count] for k, v in outputs.items()})
        left[-1]["vision_positions"] -= FIRST_POSITION
    return left


def kept(reducer, one: dict) -> list[int]:
    """The indices of the tokens that are left of one sample."""
    (left,) = reduce(reducer, [one], len(one["vision"]))
    return left["vision_positions"].tolist()
