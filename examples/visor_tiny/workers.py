"""Batches made ahead, by processes beside the one that trains."""

import functools
import multiprocessing
import os
import pickle
from concurrent import futures

import keras


def start_workers(count):
    """An executor of `count` processes, for `MadeAhead`."""
    # They inherit this: the accelerator is for the process that trains.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(count, context)


class MadeAhead(keras.utils.PyDataset):
    """The batches of another data set, made before they are asked for.

    Args:
        batches: `keras.utils.PyDataset`. Is pickled.
        executor: What `start_workers` gives.
        ahead: int. How many are made before they are asked for.
    """

    def __init__(self, batches, executor, ahead):
        super().__init__(workers=1)
        self.length = len(batches)
        self.batches = pickle.dumps(batches)
        self.executor = executor
        self.ahead = ahead
        self.begun = {}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        for each in range(index, min(index + self.ahead, self.length)):
            if each not in self.begun:
                self.begun[each] = self.executor.submit(
                    _make, self.batches, each
                )
        return self.begun.pop(index).result()


def _make(batches, index):
    return _unpickled(batches)[index]


@functools.lru_cache(maxsize=1)
def _unpickled(batches):
    return pickle.loads(batches)
