"""What the builders of the public data sets have in common."""

import abc
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_visor.datasets._tfds import tfds
from keras_visor.datasets.public_dataset import public_datasets


class Question(NamedTuple):
    """One question about one picture."""

    id: str
    text: str  # What is asked, without the instruction that the prompt adds.
    image: str | np.ndarray  # As `ImageFolder.find` gives it.
    answers: list[str]  # Empty where they are not public.
    response: str  # What to train on, "" where the answers are not public.


class QuestionBuilder(
    tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True
):
    """Base of the builders of public data sets.

    An example has `"id"`, `"question"`, `"prompts"`, `"images"` (height,
    width, 3) uint8, `"answers"` (a sequence, empty where they are not public),
    `"responses"` (what to train on) and `"group"` (`"easy"` or `"hard"`).
    `"prompts"`, `"images"` and `"responses"` are what `fit` and `generate`
    take. A subclass gives the texts below and `_split_questions`.

    Example:

    ```python
    columns = ("prompts", "images", "responses")
    dataset = builder.as_dataset("train")
    dataset = dataset.map(lambda x: {name: x[name] for name in columns})
    # The images are of many sizes.
    lm.fit(dataset.ragged_batch(8))
    ```
    """

    # Inferring it takes importlib_resources, which tensorflow_datasets 4.9.10
    # forgets to install (tensorflow/datasets#11212).
    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    DESCRIPTION: str
    HOMEPAGE: str
    CITATION: str

    @abc.abstractmethod
    def _split_questions(self, folder: Path) -> dict[str, Iterator[Question]]:
        """Returns the questions of each split, from files in `folder`."""

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "id": text,
                    "question": text,
                    "prompts": text,
                    "images": tfds.features.Image(shape=(None, None, 3)),
                    "answers": tfds.features.Sequence(text),
                    "responses": text,
                    "group": text,
                }
            ),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            # The published order.
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        folder = Path(dl_manager.manual_dir) / self.name
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is missing.\n"
                + inspect.cleandoc(self.MANUAL_DOWNLOAD_INSTRUCTIONS)
            )
        return {
            split: self._generate_examples(questions)
            for split, questions in self._split_questions(folder).items()
        }

    def _generate_examples(
        self, questions: Iterator[Question]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        dataset = public_datasets()[self.name]
        for index, question in enumerate(questions):
            yield (
                index,
                {
                    "id": question.id,
                    "question": question.text,
                    "prompts": dataset.prompt.format(question=question.text),
                    "images": question.image,
                    "answers": question.answers,
                    "responses": question.response,
                    "group": dataset.group,
                },
            )
