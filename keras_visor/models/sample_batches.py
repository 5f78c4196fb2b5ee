"""Batches of raw samples, preprocessed as `fit` asks for them."""

import math

import keras

from keras_visor.models.tf_batches import as_tf_dataset


def is_grain(data) -> bool:
    """Whether these are a grain dataset, told without importing grain."""
    return type(data).__module__.partition(".")[0] == "grain"


def for_training(batches, shuffle: bool = False):
    """Batches as Keras' training takes them on this backend.

    Args:
        batches: What Keras takes.
        shuffle: bool. Whether each epoch has the batches of a `PyDataset` in
            another order, where Keras is not left to do it. Defaults to
            `False`.
    """
    if keras.config.backend() != "tensorflow":
        return batches
    if isinstance(batches, keras.utils.PyDataset) or is_grain(batches):
        return as_tf_dataset(batches, shuffle)
    return batches


class SampleBatches(keras.utils.PyDataset):
    """Preprocessed batches of a dict of columns or of a `PyDataset`.

    Args:
        samples: dict of lists or arrays, one entry a sample, or a
            `keras.utils.PyDataset` whose items are batches of such dicts.
        preprocessor: `VisorCausalLMPreprocessor`, or another function of a
            batch.
        batch_size: int. For a dict only. Defaults to `None`: 32.
    """

    def __init__(self, samples, preprocessor, batch_size=None):
        self.samples = samples
        self.preprocessor = preprocessor
        self.batch_size = batch_size or 32
        if not isinstance(samples, dict):
            super().__init__(
                workers=samples.workers,
                use_multiprocessing=samples.use_multiprocessing,
                max_queue_size=samples.max_queue_size,
            )
            return
        super().__init__()
        self.samples = {k: v for k, v in samples.items() if v is not None}
        for name, column in self.samples.items():
            if isinstance(column, str) or not hasattr(column, "__len__"):
                raise ValueError(
                    f"`x` must have columns, an entry a sample. Received: "
                    f"{name!r} of {type(column)}"
                )
        lengths = {name: len(column) for name, column in self.samples.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                "`x` must have columns of one length, an entry a sample. "
                f"Received lengths: {lengths}"
            )

    @property
    def num_batches(self):
        if not isinstance(self.samples, dict):
            return self.samples.num_batches
        count = len(next(iter(self.samples.values())))
        return math.ceil(count / self.batch_size)

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        if isinstance(self.samples, dict):
            start = index * self.batch_size
            rows = slice(start, start + self.batch_size)
            batch = {k: column[rows] for k, column in self.samples.items()}
        else:
            batch = self.samples[index]
            if isinstance(batch, tuple):
                batch, *labels = batch
                if labels:
                    raise ValueError(
                        "Labels come from `responses`: the batches of a "
                        "`PyDataset` must be dicts. Received: a tuple of "
                        f"{1 + len(labels)}"
                    )
        return self.preprocessor(batch)

    def on_epoch_begin(self):
        if not isinstance(self.samples, dict):
            self.samples.on_epoch_begin()

    def on_epoch_end(self):
        if not isinstance(self.samples, dict):
            self.samples.on_epoch_end()
