"""From pictures to tiles and the sparse gather that packs their features."""

from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
from PIL import Image

from keras_visor.models.encoded_images import image_list
from keras_visor.models.loader import VisorPresetMixin
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.preprocessing.llava_onevision import image_tiles
from keras_visor.preprocessing.llava_onevision import packed_tokens
from keras_visor.preprocessing.rgb import to_rgb


@keras.saving.register_keras_serializable("keras_visor")
class VisorImageConverter(VisorPresetMixin, keras_hub.layers.ImageConverter):
    """Converts the images of one prompt as LLaVA-OneVision does.

    An image that is alone in its prompt becomes a base tile and the tiles of
    its best resolution; several images become one base tile each. Pixels and
    packing are those of `LlavaOnevisionImageProcessor` and
    `LlavaOnevisionModel.pack_image_features` of `transformers`.

    Args:
        tile_size: int. Height and width of a tile in pixels. Defaults to
            `384`.
        patches_per_side: int. Features of the vision encoder along a side of
            a tile. Defaults to `27`.
        grid_pinpoints: list of (height, width). The resolutions to tile an
            image at. Defaults to `None`: all grids of 1x1 to 6x6 tiles.
        max_tiles: int. Beyond the features of this many tiles the packed grid
            is shrunk. Defaults to `9`.
        image_mean: list of 3 floats. Defaults to `(0.5, 0.5, 0.5)`.
        image_std: list of 3 floats. Defaults to `(0.5, 0.5, 0.5)`.
        rescale_factor: float. Multiplies the 8-bit pixels. Defaults to
            `1 / 255`.
        resample: int. Pillow's filter. Defaults to bicubic.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        images: list of the images of one prompt, or one image: paths, PIL
            images, or arrays (height, width[, 1, 3 or 4]).

    Returns:
        A dict of
        - `images`: float32 (tiles, tile_size, tile_size, 3).
        - `vision_indices`: int32 (vision_length, 4).
        - `vision_weights`: float32 (vision_length, 4).
        - `image_lengths`: list of int, visual tokens of each image.

    Example:
    ```python
    converter = keras_visor.VisorImageConverter()
    converter([np.zeros((480, 640, 3), "uint8")])["image_lengths"]
    ```
    """

    backbone_cls = VisorBackbone

    def __init__(
        self,
        tile_size: int = 384,
        patches_per_side: int = 27,
        grid_pinpoints: Sequence[tuple[int, int]] | None = None,
        max_tiles: int = 9,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        rescale_factor: float = 1 / 255,
        resample: int = Image.Resampling.BICUBIC,
        **kwargs,
    ):
        super().__init__(image_size=(tile_size, tile_size), **kwargs)
        if grid_pinpoints is None:
            sides = [tile_size * count for count in range(1, 7)]
            grid_pinpoints = [(h, w) for h in sides for w in sides]
        unfit = [
            tuple(pinpoint)
            for pinpoint in grid_pinpoints
            if any(side < 1 or side % tile_size for side in pinpoint)
        ]
        if unfit:
            raise ValueError(
                "`grid_pinpoints` must hold positive multiples of "
                f"`tile_size`, {tile_size}. Received: {unfit}"
            )
        # Never called: Pillow resizes. `quantize` asks whether it is built.
        self.resizing.built = True
        self.tile_size = tile_size
        self.patches_per_side = patches_per_side
        self.grid_pinpoints = [tuple(pinpoint) for pinpoint in grid_pinpoints]
        self.max_tiles = max_tiles
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.rescale_factor = rescale_factor
        self.resample = int(resample)

    def call(self, images) -> dict:
        pictures = [
            to_rgb(image, name=f"images[{index}]")
            for index, image in enumerate(image_list(images))
        ]
        alone = len(pictures) == 1
        tiles, indices, weights = [], [], []
        first_row = 0
        for picture in pictures:
            tiles.append(
                image_tiles(
                    picture,
                    alone=alone,
                    tile_size=self.tile_size,
                    grid_pinpoints=self.grid_pinpoints,
                    image_mean=self.image_mean,
                    image_std=self.image_std,
                    rescale_factor=self.rescale_factor,
                    resample=self.resample,
                )
            )
            rows, weight = packed_tokens(
                picture.shape[:2],
                alone=alone,
                tile_size=self.tile_size,
                patches_per_side=self.patches_per_side,
                grid_pinpoints=self.grid_pinpoints,
                max_tiles=self.max_tiles,
            )
            # Row 0 is the newline, which all images share.
            indices.append(np.where(rows > 0, rows + first_row, 0))
            weights.append(weight)
            first_row += len(tiles[-1]) * self.patches_per_side**2
        empty = np.zeros((0, 4))
        tile_shape = (0, self.tile_size, self.tile_size, 3)
        return {
            "images": np.concatenate([np.zeros(tile_shape, "float32"), *tiles]),
            "vision_indices": np.concatenate([empty, *indices]).astype("int32"),
            "vision_weights": np.concatenate([empty, *weights]).astype(
                "float32"
            ),
            "image_lengths": [len(rows) for rows in indices],
        }

    def get_config(self):
        # Not the base class's: its resizing is replaced.
        config = keras.layers.Layer.get_config(self)
        config.update(
            {
                "tile_size": self.tile_size,
                "patches_per_side": self.patches_per_side,
                "grid_pinpoints": self.grid_pinpoints,
                "max_tiles": self.max_tiles,
                "image_mean": self.image_mean,
                "image_std": self.image_std,
                "rescale_factor": self.rescale_factor,
                "resample": self.resample,
            }
        )
        return config
