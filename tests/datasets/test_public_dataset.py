import subprocess
import sys

import pytest

from keras_visor import datasets
from keras_visor.datasets import public_datasets

RIGHT = {
    "pope": ("Yes", ["yes"]),
    "scienceqa": ("B", ["B"]),
    "textvqa": ("the nokia", ["nokia"] * 4 + ["other"] * 6),
    "docvqa": ("1/8/93", ["1/8/93"]),
    "chartqa": ("41", ["42"]),
}


def test_what_there_is():
    groups = {name: each.group for name, each in public_datasets().items()}
    assert groups == {
        "pope": "easy",
        "scienceqa": "easy",
        "textvqa": "hard",
        "docvqa": "hard",
        "chartqa": "hard",
    }
    metrics = {name: each.metric for name, each in public_datasets().items()}
    assert metrics == {
        "pope": datasets.pope_f1,
        "scienceqa": datasets.option_accuracy,
        "textvqa": datasets.vqa_accuracy,
        "docvqa": datasets.anls,
        "chartqa": datasets.relaxed_accuracy,
    }


@pytest.mark.parametrize("name", public_datasets())
def test_metric_takes_lists_of_answers(name):
    prediction, answers = RIGHT[name]
    assert public_datasets()[name].metric([prediction], [answers]) == 1


@pytest.mark.parametrize("name", public_datasets())
def test_builder_bears_the_name(name):
    pytest.importorskip("tensorflow_datasets")
    dataset = public_datasets()[name]
    builder_cls = dataset.builder_cls()
    assert builder_cls.name == dataset.name == name
    assert f"manual_dir/{name}/" in builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS


def test_only_builders_need_tensorflow_datasets():
    program = (
        # A module that is None in sys.modules cannot be imported.
        "import sys; sys.modules['tensorflow_datasets'] = None\n"
        "from keras_visor.datasets import public_datasets\n"
        "print('the table is there')\n"
        "public_datasets()['pope'].builder_cls()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert result.stdout == "the table is there\n"
    assert "pip install 'keras-visor[datasets]'" in result.stderr
