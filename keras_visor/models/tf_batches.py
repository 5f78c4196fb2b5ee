"""Batches of many lengths, in the form in which TensorFlow takes them."""

import itertools

import keras
import numpy as np


def as_tf_dataset(batches: keras.utils.PyDataset, shuffle: bool = False):
    """Batches as a `tf.data.Dataset` that leaves their lengths open.

    Keras makes one of a `PyDataset` by itself, but takes the lengths on which
    the first two batches agree for those of all. One thread makes the
    batches, ahead of the training.

    Args:
        batches: `keras.utils.PyDataset` whose batches are nested arrays
            (batch, length, ...) or (batch,), alike but for their lengths.
        shuffle: bool. Whether each epoch has the batches in another order.
            Defaults to `False`.
    """
    import tensorflow as tf

    count = batches.num_batches

    def epoch():
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
        epoch,
        output_signature=keras.tree.map_structure(signature, batches[0]),
    )
    if count is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE)
