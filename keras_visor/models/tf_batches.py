"""Batches of many lengths, in the form in which TensorFlow takes them.

Keras makes a `tf.data.Dataset` of whatever holds batches by itself, but takes
the lengths on which the first two batches agree for those of all.
"""

import itertools

import keras
import numpy as np


def as_tf_dataset(batches, shuffle: bool = False):
    """Batches as a `tf.data.Dataset` that leaves their lengths open.

    One thread makes the batches, ahead of the training.

    Args:
        batches: `keras.utils.PyDataset` or a grain dataset whose batches are
            nested arrays (batch, length, ...) or (batch,), alike but for
            their lengths.
        shuffle: bool. Whether each epoch has the batches of a `PyDataset` in
            another order. Defaults to `False`.
    """
    import tensorflow as tf

    if isinstance(batches, keras.utils.PyDataset):
        count, first = batches.num_batches, batches[0]
    else:
        count = len(batches) if hasattr(batches, "__len__") else None
        first = next(iter(batches))

    def epoch():
        if not isinstance(batches, keras.utils.PyDataset):
            yield from batches
            return
        batches.on_epoch_begin()
        order = itertools.count() if count is None else np.arange(count)
        if shuffle and count is not None:
            np.random.shuffle(order)
        for index in order:
            yield batches[int(index)]
        batches.on_epoch_end()

    def signature(array):
        array = np.asarray(array)
        lengths = [None] * min(array.ndim, 2)
        return tf.TensorSpec([*lengths, *array.shape[2:]], array.dtype)

    dataset = tf.data.Dataset.from_generator(
        epoch, output_signature=keras.tree.map_structure(signature, first)
    )
    if count is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE)
