"""ScienceQA as a TensorFlow Datasets builder."""

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_visor.datasets._tfds import tfds
from keras_visor.datasets.public.data_file import check_fields
from keras_visor.datasets.public.data_file import read_json
from keras_visor.datasets.public.image_folder import ImageFolder
from keras_visor.datasets.public.question_builder import Question
from keras_visor.datasets.public.question_builder import QuestionBuilder

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_FIELDS = {
    "question": str,
    "choices": list[str],
    "answer": int,
    "hint": str,
    "image": str | None,
    "split": str,
}
_UNUSED_FIELDS = (
    "task",
    "grade",
    "subject",
    "topic",
    "category",
    "skill",
    "lecture",
    "solution",
)
_OTHER_SPLITS = ("trainval", "minival", "minitest")


class ScienceQA(QuestionBuilder):
    """The data set `scienceqa`: questions of school science, with options.

    The questions that come with a picture, as vision-language models are
    compared on (often called ScienceQA-IMG). A question is its context, if
    any, the question proper and the options with their letters; the answer is
    a letter. Splits: `"train"`, `"validation"` and `"test"`.

    See `QuestionBuilder` for what an example holds, and
    `keras_visor.datasets.option_accuracy` for the metric.

    Example:

    ```python
    import tensorflow_datasets as tfds

    import keras_visor.datasets.public.scienceqa

    builder = keras_visor.datasets.public.scienceqa.ScienceQA()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads")
    )
    test = builder.as_dataset("test")
    ```
    """

    name = "scienceqa"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into `manual_dir/scienceqa/`:
    - problems.json and pid_splits.json, from the folder data/scienceqa of
      https://github.com/lupantech/ScienceQA;
    - images/, with the folders train, val and test that its
      tools/download.sh fetches.
    """
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="image",
            description="The questions that come with a picture.",
        )
    ]
    DESCRIPTION = (
        "Multiple-choice questions of natural, social and language science "
        "from elementary and high school, with pictures."
    )
    HOMEPAGE = "https://scienceqa.github.io"
    CITATION = """
    @inproceedings{lu2022learn,
      title={Learn to Explain: Multimodal Reasoning via Thought Chains for
             Science Question Answering},
      author={Lu, Pan and Mishra, Swaroop and Xia, Tony and Qiu, Liang and
              Chang, Kai-Wei and Zhu, Song-Chun and Tafjord, Oyvind and
              Clark, Peter and Kalyan, Ashwin},
      booktitle={NeurIPS},
      year={2022}
    }
    """

    def _split_questions(self, folder: Path) -> dict[str, Iterator[Question]]:
        problems_path = folder / "problems.json"
        problems = read_json(problems_path)
        if not isinstance(problems, dict):
            raise ValueError(f"{problems_path} must hold an object.")
        splits_path = folder / "pid_splits.json"
        ids = read_json(splits_path)
        kinds = {split: list[str] for split in _SPLITS.values()}
        check_fields(ids, splits_path, kinds, _OTHER_SPLITS)
        for split in _SPLITS.values():
            for id_ in ids[split]:
                if id_ not in problems:
                    raise ValueError(
                        f"{problems_path} has no problem {id_!r}, which is in "
                        f"the split `{split}` of {splits_path}."
                    )
        return {
            name: self._questions(
                folder, split, {id_: problems[id_] for id_ in ids[split]}
            )
            for name, split in _SPLITS.items()
        }

    def _questions(
        self, folder: Path, split: str, problems: dict[str, Any]
    ) -> Iterator[Question]:
        images = ImageFolder(folder / "images" / split)
        for id_, problem in problems.items():
            where = f"{folder / 'problems.json'}, problem {id_!r}"
            check_fields(problem, where, _FIELDS, _UNUSED_FIELDS)
            if problem["split"] != split:
                raise ValueError(
                    f"{where}, field `split`, must be {split!r} as in "
                    f"pid_splits.json. Received: {problem['split']!r}"
                )
            choices, answer = problem["choices"], problem["answer"]
            if not 0 <= answer < len(choices):
                raise ValueError(
                    f"{where}, field `answer`, must be from 0 to "
                    f"{len(choices) - 1}. Received: {answer}"
                )
            if problem["image"] is None:
                continue
            letter = string.ascii_uppercase[answer]
            yield Question(
                id=id_,
                text=_question(problem),
                image=images.find(f"{id_}/{problem['image']}", where),
                answers=[letter],
                response=letter,
            )


def _question(problem: dict[str, Any]) -> str:
    """The wording of lmms-eval (`tasks/scienceqa/utils.py`)."""
    lines = [problem["question"]]
    if problem["hint"]:
        lines.insert(0, f"Context: {problem['hint']}")
    letters = zip(string.ascii_uppercase, problem["choices"], strict=False)
    return "\n".join(lines + [f"{letter}. {text}" for letter, text in letters])
