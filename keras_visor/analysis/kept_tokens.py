"""Which visual tokens a reducer kept, also drawn on the picture."""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from keras import ops
from PIL import Image

from keras_visor.preprocessing.rgb import to_rgb

HEIGHT = 320
GAP = 8

# How much is left of the picture where a token was left out.
FADED = 0.25


def kept_tokens(vision_positions, inputs: Mapping) -> np.ndarray:
    """Which visual tokens of a sample are there in a decoder layer.

    Args:
        vision_positions: int32 tensor (1, length). What
            `backbone.intermediates(inputs, reducer)` has under that name for
            the layer. A merged token counts where it stands.
        inputs: dict. The backbone's inputs, of that sample.

    Returns:
        A bool array (vision_length,), False at padding.
    """
    positions, before, mask = (
        ops.convert_to_numpy(values)[0]
        for values in (
            vision_positions,
            inputs["vision_positions"],
            inputs["vision_mask"],
        )
    )
    return np.isin(before, positions[positions >= 0]) & mask.astype(bool)


def kept_maps(
    vision_positions, inputs: Mapping, patches_per_side: int
) -> list[list[np.ndarray]]:
    """Which visual tokens are there, as they lie on the images.

    Args:
        vision_positions: int32 tensor (1, length), see `kept_tokens`.
        inputs: dict. The backbone's inputs, of one sample.
        patches_per_side: int. The image converter's.

    Returns:
        For each image a list of bool arrays (rows, columns): of its base
        tile and, if it has one, of its grid of tiles, newlines left out.

    Raises:
        ValueError: There is more than one sample.

    Example: see `draw_kept_tokens`.
    """
    if len(inputs["vision_mask"]) != 1:
        raise ValueError(
            "`inputs` must hold one sample. Received: "
            f"{len(inputs['vision_mask'])}"
        )
    kept = kept_tokens(vision_positions, inputs)
    image_ids, indices, weights = (
        ops.convert_to_numpy(inputs[name])[0]
        for name in ("vision_image_ids", "vision_indices", "vision_weights")
    )
    newline = (indices[:, 0] == 0) & (weights[:, 0] != 0)
    base = patches_per_side**2
    maps = []
    for image in range(image_ids.max() + 1):
        tokens = np.flatnonzero(image_ids == image)
        square = kept[tokens[:base]].reshape(patches_per_side, -1)
        rows = newline[tokens[base:]].sum()
        grid = kept[tokens[base:]].reshape(rows, -1)[:, :-1]
        maps.append([square, grid] if grid.size else [square])
    return maps


def draw_kept_tokens(
    images: Sequence, maps: Sequence[Sequence[np.ndarray]]
) -> Image.Image:
    """Draw the images, faded where visual tokens were left out.

    Args:
        images: list. The images of the prompt: paths, PIL images or arrays.
        maps: list. What `kept_maps` gives: a row of pictures an image, of its
            base tile and of its grid.

    Returns:
        A PIL image, RGB.

    Raises:
        ValueError: There is no image, or not one entry of `maps` for each.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    picture = keras_visor.datasets.RenderedPictures("test", 1).example(0)
    inputs = {"prompts": picture["questions"][:1], "images": [picture["image"]]}
    x = lm.preprocessor.generate_preprocess(inputs)
    reducer = keras_visor.reduction.VisionZip(0.25)
    seen = lm.backbone.intermediates(x, reducer)["vision_positions"]
    side = lm.preprocessor.image_converter.patches_per_side
    maps = keras_visor.analysis.kept_maps(seen[0], x, side)
    keras_visor.analysis.draw_kept_tokens([picture["image"]], maps)
    ```
    """
    if not len(images) or len(images) != len(maps):
        raise ValueError(
            "`images` and `maps` must have an entry for each image. Received: "
            f"{len(images)} images and {len(maps)} maps"
        )
    rows = [
        [_faded(image, kept, alone=len(images) == 1) for kept in image_maps]
        for image, image_maps in zip(images, maps, strict=True)
    ]
    width = max(sum(part.width + GAP for part in row) for row in rows)
    canvas = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP)), "white")
    for top, row in enumerate(rows):
        left = 0
        for part in row:
            canvas.paste(part, (left, top * (HEIGHT + GAP)))
            left += part.width + GAP
    return canvas


def _faded(image, kept, alone):
    picture = Image.fromarray(to_rgb(image))
    if not alone:  # Each of several images is padded to a square.
        side = max(picture.size)
        square = Image.new("RGB", (side, side), "white")
        square.paste(
            picture, ((side - picture.width) // 2, (side - picture.height) // 2)
        )
        picture = square
    width = max(round(HEIGHT * picture.width / picture.height), 1)
    picture = picture.resize((width, HEIGHT), Image.Resampling.LANCZOS)
    white = Image.new("RGB", picture.size, "white")
    mask = Image.fromarray(
        np.where(kept, 255, round(255 * FADED)).astype("uint8")
    )
    mask = mask.resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, white, mask)
