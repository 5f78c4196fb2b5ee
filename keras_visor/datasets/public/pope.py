"""POPE as a TensorFlow Datasets builder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_visor.datasets._tfds import tfds
from keras_visor.datasets.public.data_file import check_fields
from keras_visor.datasets.public.data_file import read_json_lines
from keras_visor.datasets.public.image_folder import ImageFolder
from keras_visor.datasets.public.question_builder import Question
from keras_visor.datasets.public.question_builder import QuestionBuilder

_FIELDS = {"question_id": int, "image": str, "text": str, "label": str}
# In one of the three files.
_UNUSED_FIELDS = ("image_id",)


@dataclass(kw_only=True)
class PopeConfig(tfds.core.BuilderConfig):
    """Which objects are asked for in vain.

    Args:
        kinds: tuple of strings, of `"random"`, `"popular"` and
            `"adversarial"`. Whose questions are read, in this order.
    """

    kinds: tuple[str, ...]


class Pope(QuestionBuilder):
    """The data set `pope`: is there such an object in the image?

    Half of the questions name an object that is not there: a random one, a
    popular one of the whole set, or one that often comes with those there
    (`"adversarial"`). Each is a config, as POPE reports them; `"all"`, the
    default, has all three, as lmms-eval scores them. There is one split,
    `"test"`. An example's id is its kind and number, such as `"random/1"`.

    See `QuestionBuilder` for what an example holds, and
    `keras_visor.datasets.pope_scores` for the metric.

    Example:

    ```python
    import tensorflow_datasets as tfds

    import keras_visor.datasets.public.pope

    builder = keras_visor.datasets.public.pope.Pope(config="adversarial")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="downloads")
    )
    test = builder.as_dataset("test")
    ```
    """

    name = "pope"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into `manual_dir/pope/`:
    - coco_pope_random.json, coco_pope_popular.json and
      coco_pope_adversarial.json, from the folder output/coco of
      https://github.com/AoiDragon/POPE;
    - val2014/, the images of http://images.cocodataset.org/zips/val2014.zip.
    """
    BUILDER_CONFIGS = [
        PopeConfig(
            name="all",
            description="The questions of all three kinds.",
            kinds=("random", "popular", "adversarial"),
        ),
        PopeConfig(
            name="random",
            description="Absent objects are random.",
            kinds=("random",),
        ),
        PopeConfig(
            name="popular",
            description="Absent objects are frequent in the whole set.",
            kinds=("popular",),
        ),
        PopeConfig(
            name="adversarial",
            description="Absent objects often come with those present.",
            kinds=("adversarial",),
        ),
    ]
    DESCRIPTION = (
        "Polling-based Object Probing Evaluation: yes-or-no questions on "
        "which objects an image of COCO shows."
    )
    HOMEPAGE = "https://github.com/AoiDragon/POPE"
    CITATION = """
    @inproceedings{li2023evaluating,
      title={Evaluating Object Hallucination in Large Vision-Language Models},
      author={Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and
              Zhao, Wayne Xin and Wen, Ji-Rong},
      booktitle={EMNLP},
      year={2023}
    }
    """

    def _split_questions(self, folder: Path) -> dict[str, Iterator[Question]]:
        return {"test": self._questions(folder)}

    def _questions(self, folder: Path) -> Iterator[Question]:
        images = ImageFolder(folder / "val2014")
        for kind in self.builder_config.kinds:
            path = folder / f"coco_pope_{kind}.json"
            for where, entry in read_json_lines(path):
                check_fields(entry, where, _FIELDS, _UNUSED_FIELDS)
                label = entry["label"]
                if label not in ("yes", "no"):
                    raise ValueError(
                        f"{where}, field `label`, must be 'yes' or 'no'. "
                        f"Received: {label!r}"
                    )
                yield Question(
                    id=f"{kind}/{entry['question_id']}",
                    text=entry["text"],
                    image=images.find(entry["image"], where),
                    answers=[label],
                    response=label,
                )
