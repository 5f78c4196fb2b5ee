"""How the LLaVA-OneVision family cuts images into tiles and visual tokens.

An image that is alone in its prompt is seen twice: as a whole, squeezed into
one *base tile*, and enlarged, its aspect kept, in the middle of a grid of tiles
whose size, the *best resolution*, is chosen among the checkpoint's grid
pinpoints. Several images of one prompt are one base tile each.

The vision encoder makes `patches_per_side**2` patch features of each tile.
Packed in order, the base tile's come first, then the grid's, row by row across
its tiles, without those that lie in the padding, each row ended by a learned
`image_newline`.

Sizes are (height, width) throughout.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from keras_visor.preprocessing.rgb import MAX_IMAGE_PIXELS


def select_best_resolution(
    size: tuple[int, int], grid_pinpoints: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Chooses the resolution that keeps most of an image's pixels.

    Of those that keep equally many, the one with the least padding is taken.
    Follows `transformers.image_processing_utils.select_best_resolution`.

    Args:
        size: tuple of 2 ints. The image's height and width.
        grid_pinpoints: sequence of (height, width). The resolutions to choose
            from.

    Returns:
        tuple of 2 ints. The height and width of the best resolution.

    Example:

    ```python
    select_best_resolution((300, 700), [(384, 384), (384, 768)])  # (384, 768)
    ```
    """
    _check_image_size(size)
    if not len(grid_pinpoints):
        raise ValueError("`grid_pinpoints` must not be empty.")

    def kept_and_padding(resolution):
        kept = _kept_pixels(size, resolution)
        return kept, kept - resolution[0] * resolution[1]

    height, width = max(grid_pinpoints, key=kept_and_padding)
    return height, width


def image_tiles(
    image: np.ndarray,
    *,
    alone: bool,
    tile_size: int,
    grid_pinpoints: Sequence[tuple[int, int]],
    image_mean: Sequence[float],
    image_std: Sequence[float],
    rescale_factor: float = 1 / 255,
    resample: int = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Cuts an image into the tiles that the vision encoder sees.

    The pixels are those of `transformers.LlavaOnevisionImageProcessorPil`, bit
    for bit, with the channels last.

    Args:
        image: uint8 array of shape `(height, width, 3)`. RGB pixels, see
            `to_rgb`.
        alone: bool. Whether the prompt has no other image. If so, the base
            tile comes first, then the tiles of the best resolution, row by
            row; if not, there is one tile, the image padded to a square with
            the mean colour.
        tile_size: int. The side of a tile, in pixels.
        grid_pinpoints: sequence of (height, width). The resolutions to choose
            from, whole tiles each.
        image_mean: sequence of 3 floats, subtracted after rescaling.
        image_std: sequence of 3 floats, divided by.
        rescale_factor: float. Multiplies the 8-bit pixels. Defaults to
            `1 / 255`.
        resample: int. Pillow's number of the resampling filter. Defaults to
            `3`, bicubic.

    Returns:
        float32 array of shape `(tiles, tile_size, tile_size, 3)`.

    Raises:
        TypeError: `image` is not uint8.
        ValueError: `image` is of another shape or empty; the mean and the
            deviation aren't three numbers each; a pinpoint isn't made of whole
            tiles; or, of several images, one is so elongated that padding it
            to a square would exceed `MAX_IMAGE_PIXELS`.

    Example:

    ```python
    tiles = image_tiles(
        np.zeros((300, 700, 3), "uint8"),
        alone=True,
        tile_size=384,
        grid_pinpoints=[(384, 384), (384, 768)],
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    tiles.shape  # (3, 384, 384, 3): base tile, left tile, right tile
    ```
    """
    if image.dtype != np.uint8:
        raise TypeError(f"`image` must be uint8. Received: {image.dtype}.")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "`image` must have shape (height, width, 3). "
            f"Received: {image.shape}."
        )
    size = image.shape[:2]
    _check_image_size(size)
    for name, value in (("image_mean", image_mean), ("image_std", image_std)):
        if len(value) != 3:
            raise ValueError(f"`{name}` must be 3 numbers. Received: {value}.")

    picture = Image.fromarray(image)
    if alone:
        rows, columns = _grid_shape(size, tile_size, grid_pinpoints)
        pixels = [_resize(picture, tile_size, tile_size, resample)]
        canvas = _resize_and_pad(
            picture, rows * tile_size, columns * tile_size, resample
        )
        pixels += [
            tile
            for band in np.split(canvas, rows, axis=0)
            for tile in np.split(band, columns, axis=1)
        ]
    else:
        background = tuple(int(mean * 255) for mean in image_mean)
        square = _pad_to_square(picture, background)
        pixels = [_resize(square, tile_size, tile_size, resample)]

    mean = np.array(image_mean, "float32")
    std = np.array(image_std, "float32")
    # Double precision, then rounded, as transformers rescales.
    scale = np.float64(rescale_factor)
    return np.stack(
        [((tile * scale).astype("float32") - mean) / std for tile in pixels]
    )


def packed_tokens(
    size: tuple[int, int],
    *,
    alone: bool,
    tile_size: int,
    patches_per_side: int,
    grid_pinpoints: Sequence[tuple[int, int]],
    max_tiles: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Says which patch features make up an image's visual tokens.

    Visual token `i` is the sum over `j` of
    `weights[i, j] * features[indices[i, j]]`, where row 0 of `features` is
    `image_newline` and the patches of all tiles follow: patch `p` of tile `t`,
    both counted row by row and tile 0 being the base tile, is row
    `1 + t * patches_per_side**2 + p`. A token that is one row unchanged has
    the weights `(1, 0, 0, 0)`.

    A grid of many more patches than `max_tiles` tiles have (1.21 times as many)
    is shrunk to that many bilinearly, which is where a token blends four rows.

    The result is that of `pack_image_features` and `unpad_image` in
    `transformers.models.llava_onevision.modeling_llava_onevision`.

    Args:
        size: tuple of 2 ints. The image's height and width.
        alone: bool. Whether the prompt has no other image, see `image_tiles`.
        tile_size: int. The side of a tile, in pixels.
        patches_per_side: int. The number of patches along a side of a tile.
        grid_pinpoints: sequence of (height, width). The resolutions to choose
            from, whole tiles each.
        max_tiles: int. The 9 of `"anyres_max_9"`.

    Returns:
        A tuple of `indices`, int32 of shape `(vision_length, 4)`, and
        `weights`, float32 of the same shape.

    Raises:
        ValueError: `size` isn't two positive integers, a pinpoint isn't made
            of whole tiles, or shrinking would leave no row or no column of
            patches (`transformers` fails there too).

    Example:

    ```python
    indices, weights = packed_tokens(
        (300, 700),
        alone=True,
        tile_size=384,
        patches_per_side=27,
        grid_pinpoints=[(384, 384), (384, 768)],
        max_tiles=9,
    )
    tokens = (features[indices] * weights[..., None]).sum(axis=1)
    ```
    """
    _check_image_size(size)
    patches_per_tile = patches_per_side**2
    base_tile = 1 + np.arange(patches_per_tile)
    if not alone:
        return _plain_copies(np.append(base_tile, 0))

    rows, columns = _grid_shape(size, tile_size, grid_pinpoints)
    grid = np.arange(rows * columns * patches_per_tile)
    grid = grid.reshape(rows, columns, patches_per_side, patches_per_side)
    grid = grid.swapaxes(1, 2)  # rows of tiles, rows of patches in them, ...
    grid = grid.reshape(rows * patches_per_side, columns * patches_per_side)
    grid = _unpad(1 + patches_per_tile + grid, size)

    height, width = grid.shape
    ratio = math.sqrt(height * width / (max_tiles * patches_per_tile))
    if ratio > 1.1:  # a side; 1.21 in patches
        indices, weights = _shrink(
            grid, int(height // ratio), int(width // ratio)
        )
    else:
        indices, weights = _plain_copies(grid)

    end_of_row = ((0, 0), (0, 1), (0, 0))
    indices = np.pad(indices, end_of_row)  # Source row 0 is the newline.
    weights = np.pad(weights, end_of_row)
    weights[:, -1, 0] = 1

    base_indices, base_weights = _plain_copies(base_tile)
    return (
        np.concatenate([base_indices, indices.reshape(-1, 4)]),
        np.concatenate([base_weights, weights.reshape(-1, 4)]),
    )


def _check_image_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(
            "`size` must be a height and a width, 1 or more each. "
            f"Received: {tuple(size)}."
        )


def _kept_pixels(size: tuple[int, int], resolution: tuple[int, int]) -> int:
    height, width = size
    scale = min(resolution[1] / width, resolution[0] / height)
    return min(int(width * scale) * int(height * scale), width * height)


def _grid_shape(
    size: tuple[int, int],
    tile_size: int,
    grid_pinpoints: Sequence[tuple[int, int]],
) -> tuple[int, int]:
    """The rows and columns of tiles of an image's best resolution."""
    height, width = select_best_resolution(size, grid_pinpoints)
    if height % tile_size or width % tile_size:
        raise ValueError(
            "`grid_pinpoints` must be multiples of `tile_size`. Received: "
            f"{(height, width)} and tile_size={tile_size}."
        )
    return height // tile_size, width // tile_size


def _resize(
    picture: Image.Image, height: int, width: int, resample: int
) -> np.ndarray:
    return np.asarray(picture.resize((width, height), resample))


def _resize_and_pad(
    picture: Image.Image, height: int, width: int, resample: int
) -> np.ndarray:
    """Fits a picture, its aspect kept, into the middle of a black canvas."""
    scale_height = height / picture.height
    scale_width = width / picture.width
    if scale_width < scale_height:
        new_width = width
        new_height = min(math.ceil(picture.height * scale_width), height)
    else:
        new_height = height
        new_width = min(math.ceil(picture.width * scale_height), width)
    top = (height - new_height) // 2
    left = (width - new_width) // 2
    canvas = np.zeros((height, width, 3), "uint8")
    canvas[top : top + new_height, left : left + new_width] = _resize(
        picture, new_height, new_width, resample
    )
    return canvas


def _pad_to_square(
    picture: Image.Image, background: tuple[int, int, int]
) -> Image.Image:
    side = max(picture.size)
    if side**2 > MAX_IMAGE_PIXELS:
        raise ValueError(
            "Several images of one prompt are padded to squares, and `image` "
            f"of {picture.height} x {picture.width} pixels would exceed the "
            f"{MAX_IMAGE_PIXELS} pixels accepted. Shrink it first."
        )
    square = Image.new("RGB", (side, side), background)
    square.paste(
        picture, ((side - picture.width) // 2, (side - picture.height) // 2)
    )
    return square


def _unpad(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Drops the rows or columns that hold padding alone.

    Of an extremely elongated image no row or no column may be left.
    """
    height, width = size
    grid_height, grid_width = grid.shape
    if width / height > grid_width / grid_height:
        new_height = int(round(height * (grid_width / width), 7))
        padding = (grid_height - new_height) // 2
        return grid[padding : grid_height - padding]
    new_width = int(round(width * (grid_height / height), 7))
    padding = (grid_width - new_width) // 2
    return grid[:, padding : grid_width - padding]


def _plain_copies(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are one source row each: shape `(...)` -> `(..., 4)`."""
    indices = np.zeros((*rows.shape, 4), "int32")
    weights = np.zeros((*rows.shape, 4), "float32")
    indices[..., 0] = rows
    weights[..., 0] = 1
    return indices, weights


def _shrink(
    grid: np.ndarray, new_height: int, new_width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that blend the four grid cells around each shrunken cell."""
    if new_height < 1 or new_width < 1:
        raise ValueError(
            f"A grid of {grid.shape[0]} x {grid.shape[1]} patches cannot be "
            f"shrunk to {new_height} x {new_width}: `max_tiles` is too small "
            "for `grid_pinpoints` of this shape."
        )
    top, down = _bilinear(grid.shape[0], new_height)
    left, across = _bilinear(grid.shape[1], new_width)
    indices = [
        grid[np.ix_(y, x)] for y in (top, top + 1) for x in (left, left + 1)
    ]
    weights = [
        np.outer(y, x) for y in (1 - down, down) for x in (1 - across, across)
    ]
    return np.stack(indices, -1).astype("int32"), np.stack(weights, -1)


def _bilinear(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell before each new cell's centre, and the next one's weight.

    Shrinking keeps the centres inside: none comes before the first cell or
    after the last. `torch.nn.functional.interpolate(align_corners=False)`
    computes them in single precision with a fused multiply-add, that is with
    one rounding at the end; so does this, and the weights are equal.
    """
    scale = np.float64(np.float32(length) / np.float32(new_length))
    centres = scale * (np.arange(new_length) + 0.5) - 0.5
    centres = centres.astype("float32")
    before = centres.astype("int64")
    return before, centres - before.astype("float32")
