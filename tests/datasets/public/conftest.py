import numpy as np
import pytest

from keras_visor.datasets import public_datasets

tfds = pytest.importorskip("tensorflow_datasets")

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "white": (255, 255, 255)}


@pytest.fixture
def folder(request, tmp_path):
    """The files of the module's data set as published, but small."""
    folder = tmp_path / "manual" / request.module.NAME
    request.module.make_files(folder)
    return folder


@pytest.fixture
def prepare(request, tmp_path):
    """Makes the module's builder and prepares the data set from `folder`."""
    builder_cls = public_datasets()[request.module.NAME].builder_cls()

    def prepare(config=None):
        builder = builder_cls(data_dir=tmp_path / "data", config=config)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=tmp_path / "manual"
            )
        )
        return builder

    return prepare


@pytest.fixture
def read(prepare):
    """Reads a split of the module's data set."""

    def read(split, config=None):
        dataset = prepare(config).as_dataset(split)
        return [decode(example) for example in tfds.as_numpy(dataset)]

    return read


def decode(example):
    """With strings in place of bytes, and the colour of a plain image."""
    image = example.pop("images")
    (pixel,) = np.unique(image.reshape(-1, 3), axis=0)
    (colour,) = (
        name
        for name, value in COLOURS.items()
        if np.abs(pixel - np.array(value)).max() < 4  # JPEG.
    )
    return {
        **{
            key: [text.decode() for text in value]
            if isinstance(value, np.ndarray)
            else value.decode()
            for key, value in example.items()
        },
        "image": (*image.shape, colour),
    }
