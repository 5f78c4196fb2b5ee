"""`RenderedPictures` as a TensorFlow Datasets builder.

Needs the extra `keras-visor[datasets]`. Importing this module registers the
data set `rendered_pictures`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_visor.datasets._tfds import tfds
from keras_visor.datasets.rendered_pictures import RenderedPictures


@dataclass(kw_only=True)
class RenderedPicturesConfig(tfds.core.BuilderConfig):
    """How many pictures each split has, and how they are made.

    Args:
        num_train: int. Pictures of the split `"train"`. Defaults to 2000.
        num_validation: int. Pictures of the split `"validation"`. Defaults to
            500.
        num_test: int. Pictures of the split `"test"`. Defaults to 500.
        seed: int. As in `RenderedPictures`. Defaults to 0.
        image_size: int. As in `RenderedPictures`. Defaults to 112.
    """

    num_train: int = 2000
    num_validation: int = 500
    num_test: int = 500
    seed: int = 0
    image_size: int = 112


class RenderedPicturesTfds(tfds.core.GeneratorBasedBuilder):
    """The data set `rendered_pictures`: one example a picture.

    The examples are those of `keras_visor.datasets.RenderedPictures`, in its
    order, with the same keys; where a word belongs to none, `"beside"` or
    `"above"` is empty.

    Example:

    ```python
    import tensorflow_datasets as tfds

    import keras_visor.datasets.rendered_pictures_tfds

    train = tfds.load("rendered_pictures", split="train")
    ```
    """

    name = "rendered_pictures"
    # Inferring it takes importlib_resources, which tensorflow_datasets 4.9.10
    # forgets to install (tensorflow/datasets#11212).
    code_path = tfds.core.Path(__file__)
    VERSION = tfds.core.Version("3.0.0")
    RELEASE_NOTES = {
        "1.0.0": "Coarse questions.",
        "2.0.0": "Lookups and comparisons, forms and grids; where words stand.",
        "3.0.0": "Larger tables, forms and letters; grids in no order.",
    }
    BUILDER_CONFIGS = [
        RenderedPicturesConfig(
            name="documents",
            description="Questions to look at, to read and to compare.",
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.image_size
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Rendered scenes, tables, bar charts, letters, forms and "
                "grids of handwritten digits, with questions that need a "
                "glance, a lookup or a comparison, and short answers."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3)),
                    "questions": tfds.features.Sequence(tfds.features.Text()),
                    "answers": tfds.features.Sequence(tfds.features.Text()),
                    "families": tfds.features.Sequence(tfds.features.Text()),
                    "words": tfds.features.Sequence(
                        {
                            "text": tfds.features.Text(),
                            "box": tfds.features.Tensor(
                                shape=(4,), dtype=np.float32
                            ),
                            "beside": tfds.features.Text(),
                            "above": tfds.features.Text(),
                        }
                    ),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        config = self.builder_config
        return {
            "train": self._generate_examples("train", config.num_train),
            "validation": self._generate_examples(
                "validation", config.num_validation
            ),
            "test": self._generate_examples("test", config.num_test),
        }

    def _generate_examples(
        self, split: str, num_pictures: int
    ) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        pictures = RenderedPictures(
            split, num_pictures, config.seed, config.image_size
        )
        for index, example in enumerate(pictures):
            words = [
                {
                    "text": word.text,
                    "box": np.array(word.box, np.float32),
                    "beside": word.beside or "",
                    "above": word.above or "",
                }
                for word in example["words"]
            ]
            yield index, {**example, "words": words}
