"""Batches of many lengths, in the form in which TensorFlow takes them."""

import itertools

import keras
import numpy as np


def as_tf_dataset(batches: keras.utils.PyDataset, shuffle: bool = False):
    """Batches as a `tf.data.Dataset` that leaves their lengths open.

    Keras makes one of a `PyDataset` by itself, but takes the lengths on which
    the first two batches agree for those of all.

    Args:
        batches: `keras.utils.PyDataset` whose batches are nested arrays
            (batch, length, ...) or (batch,), alike but for their lengths.
        shuffle: bool. Whether each epoch has the batches in another order.
            Defaults to `False`.
    """
    import tensorflow as tf

    count = batches.num_batches
    first = batches[0]
    specs = []
    for array in keras.tree.flatten(first):
        array = np.asarray(array)
        lengths = [None] * min(array.ndim, 2)
        specs.append(tf.TensorSpec([*lengths, *array.shape[2:]], array.dtype))

    def epoch():
        batches.on_epoch_begin()
        order = itertools.count() if count is None else range(count)
        yield from np.random.permutation(count) if shuffle else order
        batches.on_epoch_end()

    def make(index):
        arrays = keras.tree.flatten(batches[int(index)])
        return [np.asarray(array) for array in arrays]

    def load(index):
        dtypes = [spec.dtype for spec in specs]
        arrays = tf.numpy_function(make, [index], dtypes)
        for array, spec in zip(arrays, specs, strict=True):
            array.set_shape(spec.shape)
        return keras.tree.pack_sequence_as(first, arrays)

    order = tf.data.Dataset.from_generator(
        epoch, output_signature=tf.TensorSpec((), tf.int64)
    )
    dataset = order.map(load, num_parallel_calls=max(batches.workers, 1))
    if count is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE)
