"""What the tests of whole models share."""

import functools

import keras
import numpy as np
from keras import ops
from samples import SAMPLES

from keras_visor import VisorCausalLMPreprocessor


@functools.cache
def program(model, reducer=None):
    """The model's call, on JAX compiled once for each shape of its inputs.

    Eager JAX would compile every operation for itself. The reducer is the
    model's own: with another one the program is another.
    """
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(lambda inputs: model(inputs))
    return model


def outputs(model, inputs: dict) -> np.ndarray:
    inputs = {k: ops.convert_to_tensor(v) for k, v in inputs.items()}
    return ops.convert_to_numpy(
        ops.cast(
            program(model, getattr(model, "reducer", None))(inputs), "float32"
        )
    )


def batch(names=tuple(SAMPLES), **columns) -> dict:
    """Samples, by name, as `generate` takes them."""
    prompts, images = zip(*(SAMPLES[name] for name in names), strict=True)
    return {"prompts": list(prompts), "images": list(images), **columns}


def preprocess(lm, samples: dict, sequence_length: int = 40) -> dict:
    return lm.preprocessor.generate_preprocess(
        samples, sequence_length=sequence_length
    )


def own_preprocessor(lm):
    """One of the same parts, for another task to tell how many budgets it has.

    Fixtures are shared.
    """
    shared = lm.preprocessor
    return VisorCausalLMPreprocessor(shared.tokenizer, shared.image_converter)


def check_rows(values, expected, atol=5e-5) -> None:
    """Compare the rows of a padded batch with arrays without padding."""
    for row, array in zip(values, expected, strict=True):
        np.testing.assert_allclose(row[: len(array)], array, rtol=0, atol=atol)
