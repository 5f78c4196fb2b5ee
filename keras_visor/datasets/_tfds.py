"""`tensorflow_datasets`, or a word on how to get it."""

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise ImportError(
        "The builders in keras_visor.datasets need tensorflow_datasets: "
        "pip install 'keras-visor[datasets]'"
    ) from error

__all__ = ["tfds"]
