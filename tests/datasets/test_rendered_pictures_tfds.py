import subprocess
import sys

import numpy as np
import pytest

from keras_visor.datasets import RenderedPictures

LISTS = ("questions", "answers", "families")


def test_reads_back_what_the_generator_makes(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from keras_visor.datasets import rendered_pictures_tfds

    config = rendered_pictures_tfds.RenderedPicturesConfig(
        name="tiny",
        num_train=5,
        num_validation=2,
        num_test=3,
        seed=7,
        image_size=96,
    )
    builder = tfds.builder(
        "rendered_pictures", data_dir=tmp_path, config=config
    )
    builder.download_and_prepare()
    for split, size in {"train": 5, "validation": 2, "test": 3}.items():
        stored = list(tfds.as_numpy(builder.as_dataset(split)))
        made = RenderedPictures(split, size, seed=7, image_size=96)
        assert len(stored) == size
        for read, example in zip(stored, made, strict=True):
            np.testing.assert_array_equal(read["image"], example["image"])
            for key in LISTS:
                assert [text.decode() for text in read[key]] == example[key]
            words = example["words"]
            for key in ("text", "beside", "above"):
                assert [text.decode() for text in read["words"][key]] == [
                    getattr(word, key) or "" for word in words
                ]
            np.testing.assert_allclose(
                read["words"]["box"], [word.box for word in words], rtol=1e-6
            )


def test_only_the_builder_needs_tensorflow_datasets():
    program = (
        # A module that is None in sys.modules cannot be imported.
        "import sys; sys.modules['tensorflow_datasets'] = None\n"
        "import keras_visor.datasets\n"
        "print('the generator is there')\n"
        "import keras_visor.datasets.rendered_pictures_tfds\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert result.stdout == "the generator is there\n"
    assert result.returncode != 0
    assert "pip install 'keras-visor[datasets]'" in result.stderr
