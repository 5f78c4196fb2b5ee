"""Batches made ahead, by processes beside the one that trains.

Keras' own worker processes are forks, which a process with the threads of JAX
or of a GPU must not be; these start afresh.
"""

import contextlib
import functools
import multiprocessing
import os
import pickle
from concurrent import futures

import keras

# The accelerator is for the process that trains.
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


@contextlib.contextmanager
def making_ahead(workers):
    """Gives a function from a data set to one whose batches are made ahead.

    Args:
        workers: int. Processes; with 0, batches are made when asked for.
    """
    if not workers:
        yield lambda batches: batches
        return
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    # Inherited by the processes, which start when there is work.
    os.environ |= _ENVIRONMENT
    executor = futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn")
    )
    try:
        yield lambda batches: MadeAhead(batches, executor, 3 * workers)
    finally:
        executor.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class MadeAhead(keras.utils.PyDataset):
    """The batches of another data set, made ahead in their order.

    Args:
        batches: `keras.utils.PyDataset`. Is pickled.
        executor: `concurrent.futures.Executor`.
        ahead: int. How many are made before they are asked for.
    """

    def __init__(self, batches, executor, ahead):
        super().__init__(workers=1)
        self.length = len(batches)
        self.pickled = pickle.dumps(batches)
        self.executor = executor
        self.ahead = ahead
        self.begun = {}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        for each in range(index, min(index + self.ahead, self.length)):
            if each not in self.begun:
                self.begun[each] = self.executor.submit(
                    _make, self.pickled, each
                )
        return self.begun.pop(index).result()


def _make(pickled, index):
    return _unpickled(pickled)[index]


@functools.lru_cache(maxsize=1)
def _unpickled(pickled):
    return pickle.loads(pickled)
