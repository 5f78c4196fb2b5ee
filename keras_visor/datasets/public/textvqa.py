"""TextVQA as a TensorFlow Datasets builder."""

import collections
from collections.abc import Iterator
from pathlib import Path

from keras_visor.datasets._tfds import tfds
from keras_visor.datasets.public.data_file import check_fields
from keras_visor.datasets.public.data_file import check_value
from keras_visor.datasets.public.data_file import number_questions
from keras_visor.datasets.public.data_file import read_json
from keras_visor.datasets.public.image_folder import ImageFolder
from keras_visor.datasets.public.question_builder import Question
from keras_visor.datasets.public.question_builder import QuestionBuilder

_VERSION = "0.5.1"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_NUM_ANSWERS = 10
_HEADER = {"dataset_type": str, "dataset_version": object, "data": object}
_FIELDS = {"question_id": int, "image_id": str, "question": str}
_UNUSED_FIELDS = (
    "question_tokens",
    "image_classes",
    "image_width",
    "image_height",
    "flickr_original_url",
    "flickr_300k_url",
    "set_name",
)


class TextVQA(QuestionBuilder):
    """The data set `textvqa`: questions that need the text in a photograph.

    Version 0.5.1. Each question has the answers of ten people; the most
    frequent one is what to train on. Splits: `"train"`, `"validation"` and
    `"test"`, whose answers are not public. The question begins with a capital
    letter, the rest small, as lmms-eval asks it.

    See `QuestionBuilder` for what an example holds, and
    `keras_visor.datasets.vqa_accuracy` for the metric.

    Example:

    ```python
    import tensorflow_datasets as tfds

    import keras_visor.datasets.public.textvqa

    builder = keras_visor.datasets.public.textvqa.TextVQA()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads")
    )
    validation = builder.as_dataset("validation")
    ```
    """

    name = "textvqa"
    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES = {_VERSION: "The version of the published files."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into `manual_dir/textvqa/`, from https://textvqa.org/dataset:
    - TextVQA_0.5.1_train.json, TextVQA_0.5.1_val.json and
      TextVQA_0.5.1_test.json;
    - train_images/, out of train_val_images.zip, which has the images of the
      validation split too;
    - test_images/, out of test_images.zip.
    """
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="questions", description="Questions and images, without OCR."
        )
    ]
    DESCRIPTION = (
        "Questions about photographs of OpenImages that can be answered only "
        "by reading the text in them, each with ten answers."
    )
    HOMEPAGE = "https://textvqa.org"
    CITATION = """
    @inproceedings{singh2019towards,
      title={Towards VQA Models That Can Read},
      author={Singh, Amanpreet and Natarajan, Vivek and Shah, Meet and
              Jiang, Yu and Chen, Xinlei and Batra, Dhruv and Parikh, Devi and
              Rohrbach, Marcus},
      booktitle={CVPR},
      year={2019}
    }
    """

    def _split_questions(self, folder: Path) -> dict[str, Iterator[Question]]:
        return {
            name: self._questions(folder, split)
            for name, split in _SPLITS.items()
        }

    def _questions(self, folder: Path, split: str) -> Iterator[Question]:
        path = folder / f"TextVQA_{_VERSION}_{split}.json"
        content = read_json(path)
        check_fields(content, path, _HEADER, ("dataset_name",))
        check_value(content, "dataset_version", _VERSION, path)
        check_value(content, "dataset_type", split, path)
        has_answers = split != "test"
        used, unused = _FIELDS, _UNUSED_FIELDS
        if has_answers:
            used = used | {"answers": list[str]}
        else:
            unused = (*unused, "answers")
        images = ImageFolder(
            folder / ("train_images" if has_answers else "test_images")
        )
        for where, entry in number_questions(content["data"], path):
            check_fields(entry, where, used, unused)
            answers = entry["answers"] if has_answers else []
            if has_answers and len(answers) != _NUM_ANSWERS:
                raise ValueError(
                    f"{where}, field `answers`, must hold {_NUM_ANSWERS} "
                    f"answers. Received: {len(answers)}"
                )
            counts = collections.Counter(answers).most_common(1)
            yield Question(
                id=str(entry["question_id"]),
                text=entry["question"].capitalize(),
                image=images.find(f"{entry['image_id']}.jpg", where),
                answers=answers,
                response=counts[0][0] if counts else "",
            )
