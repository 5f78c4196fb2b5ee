"""The batches of a training, which any stretch of it can ask for again."""

import math

import keras
import numpy as np


class Steps(keras.utils.PyDataset):
    """The batches of a training from one step to another.

    Epoch after epoch, each in an order of its own that depends on the seed
    and the epoch alone: any stretch of the training can be had at any time.

    Args:
        data: dict of columns, or a `keras.utils.PyDataset` of batches.
        first: int. The first step. Defaults to `0`.
        stop: int. The step before which to stop. Defaults to `None`: an epoch
            after the first.
        batch_size: int. For a dict. Defaults to `32`.
        shuffle: bool. Whether each epoch shuffles the samples of a dict, or
            the batches of a `PyDataset`. Defaults to `True`.
        seed: int. Defaults to `0`.
    """

    def __init__(
        self, data, first=0, stop=None, batch_size=32, shuffle=True, seed=0
    ):
        if isinstance(data, dict):
            super().__init__()
            data = {name: c for name, c in data.items() if c is not None}
            lengths = {name: len(column) for name, column in data.items()}
            if len(set(lengths.values())) != 1 or 0 in lengths.values():
                raise ValueError(
                    "`data` must have columns of one length, an entry a "
                    f"sample. Received lengths: {lengths}"
                )
            self.count = next(iter(lengths.values()))
            self.batches_per_epoch = math.ceil(self.count / batch_size)
        else:
            if data.num_batches is None:
                raise ValueError(
                    "`data` must know its number of batches. Received a "
                    "`PyDataset` with num_batches=None"
                )
            super().__init__(
                workers=data.workers,
                use_multiprocessing=data.use_multiprocessing,
                max_queue_size=data.max_queue_size,
            )
            self.count = self.batches_per_epoch = data.num_batches
        self.data = data
        self.first = first
        self.stop = first + self.batches_per_epoch if stop is None else stop
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self._order = (None, None)

    def __len__(self):
        return self.stop - self.first

    def __getitem__(self, index):
        epoch, place = divmod(self.first + index, self.batches_per_epoch)
        order = self._order_of(epoch)
        if not isinstance(self.data, dict):
            return self.data[int(order[place])]
        start = place * self.batch_size
        rows = order[start : start + self.batch_size]
        return {
            name: [column[int(row)] for row in rows]
            for name, column in self.data.items()
        }

    def _order_of(self, epoch):
        known, order = self._order  # One read: workers share it.
        if known != epoch:
            order = np.arange(self.count)
            if self.shuffle:
                np.random.default_rng([self.seed, epoch]).shuffle(order)
            self._order = (epoch, order)
        return order
