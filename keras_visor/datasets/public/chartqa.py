"""ChartQA as a TensorFlow Datasets builder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_visor.datasets._tfds import tfds
from keras_visor.datasets.public.data_file import check_fields
from keras_visor.datasets.public.data_file import number_questions
from keras_visor.datasets.public.data_file import read_json
from keras_visor.datasets.public.image_folder import ImageFolder
from keras_visor.datasets.public.question_builder import Question
from keras_visor.datasets.public.question_builder import QuestionBuilder

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_FIELDS = {"imgname": str, "query": str, "label": str}


@dataclass(kw_only=True)
class ChartQAConfig(tfds.core.BuilderConfig):
    """Who wrote the questions.

    Args:
        sources: tuple of strings, of `"human"` and `"augmented"`. Whose
            questions are read, in this order.
    """

    sources: tuple[str, ...]


class ChartQA(QuestionBuilder):
    """The data set `chartqa`: questions about bar, line and pie charts.

    Some were written by people (`"human"`), some generated from the charts'
    summaries (`"augmented"`). Each is a config; `"all"`, the default, has
    both. Splits: `"train"`, `"validation"` and `"test"`. An example's id is
    its source and its place in the file, such as `"human/1"`. The one answer
    may be a list, written `"[Yes, No]"`.

    See `QuestionBuilder` for what an example holds, and
    `keras_visor.datasets.relaxed_accuracy` for the metric.

    Example:

    ```python
    import tensorflow_datasets as tfds

    import keras_visor.datasets.public.chartqa

    builder = keras_visor.datasets.public.chartqa.ChartQA(config="human")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads")
    )
    test = builder.as_dataset("test")
    ```
    """

    name = "chartqa"
    VERSION = tfds.core.Version("1.0.1")
    RELEASE_NOTES = {
        "1.0.0": "First release.",
        "1.0.1": "Prompts ask for a single word, as lmms-eval's do.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into `manual_dir/chartqa/` what is in the folder "ChartQA Dataset" of
    https://github.com/vis-nlp/ChartQA: the folders train, val and test, each
    with its two files of questions, such as train/train_human.json and
    train/train_augmented.json, and its folder png.
    """
    BUILDER_CONFIGS = [
        ChartQAConfig(
            name="all",
            description="The questions of both sources.",
            sources=("human", "augmented"),
        ),
        ChartQAConfig(
            name="human",
            description="Questions that people wrote.",
            sources=("human",),
        ),
        ChartQAConfig(
            name="augmented",
            description="Questions generated from summaries.",
            sources=("augmented",),
        ),
    ]
    DESCRIPTION = (
        "Questions about real charts that need reading values, comparing and "
        "calculating."
    )
    HOMEPAGE = "https://github.com/vis-nlp/ChartQA"
    CITATION = """
    @inproceedings{masry2022chartqa,
      title={ChartQA: A Benchmark for Question Answering about Charts with
             Visual and Logical Reasoning},
      author={Masry, Ahmed and Long, Do and Tan, Jia Qing and Joty, Shafiq and
              Hoque, Enamul},
      booktitle={Findings of ACL},
      year={2022}
    }
    """

    def _split_questions(self, folder: Path) -> dict[str, Iterator[Question]]:
        return {
            name: self._questions(folder, split)
            for name, split in _SPLITS.items()
        }

    def _questions(self, folder: Path, split: str) -> Iterator[Question]:
        images = ImageFolder(folder / split / "png")
        for source in self.builder_config.sources:
            path = folder / split / f"{split}_{source}.json"
            questions = number_questions(read_json(path), path)
            for number, (where, entry) in enumerate(questions, start=1):
                check_fields(entry, where, _FIELDS)
                yield Question(
                    id=f"{source}/{number}",
                    text=entry["query"],
                    image=images.find(entry["imgname"], where),
                    answers=[entry["label"]],
                    response=entry["label"],
                )
