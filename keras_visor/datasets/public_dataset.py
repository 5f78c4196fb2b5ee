"""The public data sets: how each is asked, scored and read."""

import importlib
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_visor.datasets.metrics import anls
from keras_visor.datasets.metrics import option_accuracy
from keras_visor.datasets.metrics import pope_f1
from keras_visor.datasets.metrics import pope_scores
from keras_visor.datasets.metrics import relaxed_accuracy
from keras_visor.datasets.metrics import vqa_accuracy

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


@dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """How a public data set is asked, scored and read.

    Args:
        name: string. Its TFDS name.
        group: string. `"easy"` or `"hard"`: the cluster that the VISOR paper
            (arXiv 2603.23495) puts it in.
        prompt: string. What a model is asked, with `{question}` for the
            question: the wording of lmms-eval, with which LLaVA-OneVision was
            evaluated.
        metric: callable. From predictions (a string a question) and answers
            (a list of strings a question) to a float from 0 to 1.
        split: string. The split to evaluate: the test split, or the validation
            split where the answers of the test split are not public.
        builder: string. Module and class of its TFDS builder.
        scores: callable. From the same to a dict of floats by name, what is
            reported beside the metric. Defaults to `None`: nothing.

    Example:

    ```python
    dataset = keras_visor.datasets.public_datasets()["docvqa"]
    prompt = dataset.prompt.format(question="What is the date?")
    score = dataset.metric(["1/8/93"], [["1/8/93", "Jan 8, 1993"]])
    ```
    """

    name: str
    group: str
    prompt: str
    metric: Callable[[Sequence[str], Sequence[Sequence[str]]], float]
    split: str
    builder: str
    scores: (
        Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]
        | None
    ) = None

    def builder_cls(self) -> "type[tfds.core.GeneratorBasedBuilder]":
        """Imports the builder, which needs `keras-visor[datasets]`."""
        module, _, name = self.builder.rpartition(".")
        return getattr(importlib.import_module(module), name)


_WORD_OR_PHRASE = (
    "{question}\nAnswer the question using a single word or phrase."
)
_SINGLE_WORD = "{question}\nAnswer the question with a single word."
_LETTER = (
    "{question}\nAnswer with the option's letter from the given choices "
    "directly."
)

_DATASETS = (
    PublicDataset(
        name="pope",
        group="easy",
        prompt=_WORD_OR_PHRASE,
        metric=pope_f1,
        split="test",
        builder="keras_visor.datasets.public.pope.Pope",
        scores=pope_scores,
    ),
    PublicDataset(
        name="scienceqa",
        group="easy",
        prompt=_LETTER,
        metric=option_accuracy,
        split="test",
        builder="keras_visor.datasets.public.scienceqa.ScienceQA",
    ),
    PublicDataset(
        name="textvqa",
        group="hard",
        prompt=_WORD_OR_PHRASE,
        metric=vqa_accuracy,
        split="validation",
        builder="keras_visor.datasets.public.textvqa.TextVQA",
    ),
    PublicDataset(
        name="docvqa",
        group="hard",
        prompt=_WORD_OR_PHRASE,
        metric=anls,
        split="validation",
        builder="keras_visor.datasets.public.docvqa.DocVQA",
    ),
    PublicDataset(
        name="chartqa",
        group="hard",
        prompt=_SINGLE_WORD,
        metric=relaxed_accuracy,
        split="test",
        builder="keras_visor.datasets.public.chartqa.ChartQA",
    ),
)


def public_datasets() -> dict[str, PublicDataset]:
    """Returns the public data sets by name.

    Example:

    ```python
    for name, dataset in keras_visor.datasets.public_datasets().items():
        print(f"{name}: {dataset.group}, {dataset.metric.__name__}")
    # pope: easy, pope_f1
    # scienceqa: easy, option_accuracy
    # ...
    ```
    """
    return {dataset.name: dataset for dataset in _DATASETS}
