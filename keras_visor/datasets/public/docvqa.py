"""DocVQA as a TensorFlow Datasets builder."""

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

_FILES = {
    "train": "train_v1.0_withQT.json",
    "validation": "val_v1.0_withQT.json",
    "test": "test_v1.0.json",
}
_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_HEADER = {"dataset_split": str, "dataset_version": object, "data": object}
_FIELDS = {"questionId": int, "question": str, "image": str}
_UNUSED_FIELDS = (
    "question_types",
    "docId",
    "ucsf_document_id",
    "ucsf_document_page_no",
    "data_split",
)
_IMAGE_PREFIX = "documents/"


class DocVQA(QuestionBuilder):
    """The data set `docvqa`: questions about a scanned page.

    Single-page DocVQA, version 1.0. A question has one or more accepted
    answers; the first is what to train on. Splits: `"train"`, `"validation"`
    and `"test"`, whose answers are not public.

    See `QuestionBuilder` for what an example holds, and
    `keras_visor.datasets.anls` for the metric.

    Example:

    ```python
    import tensorflow_datasets as tfds

    import keras_visor.datasets.public.docvqa

    builder = keras_visor.datasets.public.docvqa.DocVQA()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads")
    )
    validation = builder.as_dataset("validation")
    ```
    """

    name = "docvqa"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into `manual_dir/docvqa/`, from "Single Document Visual Question
    Answering" at https://rrc.cvc.uab.es/?ch=17&com=downloads (after
    registration):
    - spdocvqa_qas/, out of spdocvqa_qas.zip, with train_v1.0_withQT.json,
      val_v1.0_withQT.json and test_v1.0.json;
    - spdocvqa_images/, out of spdocvqa_images.tar.gz.
    """
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="single_page",
            description="Task 1: a question about one page, without OCR.",
        )
    ]
    DESCRIPTION = (
        "Questions about scanned pages of letters, forms, reports and tables "
        "of the UCSF Industry Documents Library."
    )
    HOMEPAGE = "https://www.docvqa.org"
    CITATION = """
    @inproceedings{mathew2021docvqa,
      title={DocVQA: A Dataset for VQA on Document Images},
      author={Mathew, Minesh and Karatzas, Dimosthenis and Jawahar, C. V.},
      booktitle={WACV},
      year={2021}
    }
    """

    def _split_questions(self, folder: Path) -> dict[str, Iterator[Question]]:
        return {name: self._questions(folder, name) for name in _FILES}

    def _questions(self, folder: Path, name: str) -> Iterator[Question]:
        path = folder / "spdocvqa_qas" / _FILES[name]
        content = read_json(path)
        check_fields(content, path, _HEADER, ("dataset_name",))
        check_value(content, "dataset_version", "1.0", path)
        check_value(content, "dataset_split", _SPLITS[name], path)
        has_answers = name != "test"
        used, unused = _FIELDS, _UNUSED_FIELDS
        if has_answers:
            used = used | {"answers": list[str]}
        else:
            unused = (*unused, "answers")
        images = ImageFolder(folder / "spdocvqa_images")
        for where, entry in number_questions(content["data"], path):
            check_fields(entry, where, used, unused)
            answers = entry["answers"] if has_answers else []
            if has_answers and not answers:
                raise ValueError(f"{where}, field `answers`, is empty.")
            # The archive of images has another root than the files say.
            image = entry["image"].removeprefix(_IMAGE_PREFIX)
            yield Question(
                id=str(entry["questionId"]),
                text=entry["question"],
                image=images.find(image, where),
                answers=answers,
                response=answers[0] if answers else "",
            )
