import numpy as np
import pytest
from keras import ops
from samples import picture
from samples import question

from keras_visor import VisorCausalLM

# Text tokens of prompt and response together.
LENGTH = 40


@pytest.fixture(scope="session")
def load_small(small_directory):
    """Makes the same small model again and again."""

    def load(**arguments):
        lm = VisorCausalLM.from_preset(small_directory, **arguments)
        lm.preprocessor.sequence_length = LENGTH
        return lm

    return load


@pytest.fixture(scope="session")
def samples():
    """Ten samples of two kinds, by turns; each kind has its own words."""
    kinds = (
        ("Is (a small) circle here?\n", "yes"),
        ("Read the value!", "no, it isn't"),
    )
    texts = [kinds[row % 2] for row in range(10)]
    return {
        "prompts": [question(text, 1) for text, _ in texts],
        "responses": [response for _, response in texts],
        "images": [picture(24, 50, seed) for seed in range(10)],
    }


@pytest.fixture(scope="session")
def weights_of():
    def weights_of(model):
        # By index: paths repeat.
        return [np.array(ops.convert_to_numpy(w)) for w in model.weights]

    return weights_of
