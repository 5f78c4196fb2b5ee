"""Pictures of any kind, as upright 8-bit RGB."""

import os

import numpy as np
from PIL import Image
from PIL import ImageOps

# What Pillow itself takes for a decompression bomb: 256 MiB of RGB pixels.
MAX_IMAGE_PIXELS = 89_478_485


def to_rgb(
    image: object,
    name: str = "images",
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> np.ndarray:
    """Reads one picture as an array of 8-bit RGB pixels.

    Files and PIL images are turned upright by their EXIF orientation; of an
    animation, the current frame (the first one, for files) is taken. Palettes,
    CMYK and the like go through Pillow's own conversion, without colour
    profiles. Grey is tripled. Transparency is laid over white: each channel is
    the integer nearest to `(value * alpha + 255 * (255 - alpha)) / 255`.
    16 bits become 8 by `round(value * 255 / 65535)`; of files with 16-bit
    *colour*, Pillow hands out the upper 8 bits only.

    Args:
        image: string, `os.PathLike`, PIL image or array. A file's path, a PIL
            image, or anything with `__array__` (NumPy arrays and the tensors
            of jax, torch and TensorFlow) of shape `(height, width)` or
            `(height, width, channels)` with 1, 3 or 4 channels. Arrays hold
            uint8; uint16, whose white is 65535; or integers of another type
            that all lie in 0..255.
        name: string. What to call the picture in errors. Defaults to
            `"images"`.
        max_pixels: int. The largest `height * width` accepted, checked before
            anything is decoded. Defaults to `MAX_IMAGE_PIXELS`.

    Returns:
        A C-contiguous uint8 array of shape `(height, width, 3)`. It may share
        the memory of an array that was RGB already.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an image, or is damaged or truncated; the
            picture is empty or has too many pixels; an array has another
            shape, or values outside 0..255.
        TypeError: `image` is of another type, or its pixels are no integers.

    Example:

    ```python
    to_rgb("photo.jpg").shape  # (height, width, 3)
    to_rgb(np.array([[0, 255]], "uint8"))  # [[[0, 0, 0], [255, 255, 255]]]
    ```
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_file(image, name, max_pixels)
    if isinstance(image, Image.Image):
        return _convert_pil(image, f"`{name}`: the PIL image", max_pixels)
    if hasattr(image, "__array__"):
        return _convert_array(image, f"`{name}`: the array", max_pixels)
    raise TypeError(
        f"`{name}` must hold paths, PIL images or arrays. "
        f"Received: {type(image).__name__}."
    )


def _read_file(
    path: str | os.PathLike, name: str, max_pixels: int
) -> np.ndarray:
    path = os.fsdecode(path)
    # Somebody's base64 text may be megabytes long.
    shown = repr(path if len(path) <= 300 else path[:300] + "...")
    source = f"`{name}`: the file {shown}"
    if not os.path.exists(path):
        hint = (
            " URLs are not fetched; download the picture first."
            if "://" in path
            else ""
        )
        raise FileNotFoundError(f"{source} does not exist.{hint}")
    if not os.path.isfile(path):
        raise ValueError(f"{source} is a directory or a device.")
    try:
        opened = Image.open(path)
    except Exception as error:  # Parsers of damaged headers raise anything.
        raise ValueError(
            f"{source} cannot be opened as an image: {error}"
        ) from error
    with opened:
        return _convert_pil(opened, source, max_pixels)


def _convert_pil(
    image: Image.Image, source: str, max_pixels: int
) -> np.ndarray:
    _check_size(image.height, image.width, source, max_pixels)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # Decoders of damaged data raise anything.
        raise ValueError(
            f"{source} cannot be decoded; is it damaged or truncated? {error}"
        ) from error
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _convert_grey16(image, source)
    if image.mode == "F":
        raise TypeError(
            f"{source} has floating-point pixels (mode 'F'). "
            "Pass 8-bit pixels instead."
        )
    try:
        if image.has_transparency_data:
            # Rounds to the nearest integer, for all values and alphas.
            image = Image.alpha_composite(
                Image.new("RGBA", image.size, "white"), image.convert("RGBA")
            )
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise ValueError(
            f"{source} has mode {image.mode!r}, which Pillow cannot turn into "
            f"RGB: {error}"
        ) from error


def _convert_grey16(image: Image.Image, source: str) -> np.ndarray:
    # Pillow's conversions would clip at 255, or drop the transparent level.
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(
            f"{source} has mode {image.mode!r} and must hold values of "
            f"0..65535. Received: {levels.min()}..{levels.max()}."
        )
    grey = _scale_16_to_8(levels)
    if image.info.get("transparency") is not None:
        grey[levels == image.info["transparency"]] = 255
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def _convert_array(image: object, source: str, max_pixels: int) -> np.ndarray:
    try:
        array = np.asarray(image)
    except Exception as error:  # Tensors refuse in their own ways.
        raise TypeError(
            f"{source} ({type(image).__name__}) cannot be turned into a NumPy "
            f"array: {error}"
        ) from error
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if not grey and not colour:
        raise ValueError(
            f"{source} must have shape (height, width) or (height, width, "
            f"channels) with 1, 3 or 4 channels. Received: {array.shape}."
        )
    _check_size(*array.shape[:2], source, max_pixels)
    array = _to_8_bits(array, source)
    if grey:
        array = array[:, :, np.newaxis]
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return _convert_pil(Image.fromarray(array), source, max_pixels)
    return np.ascontiguousarray(array)


def _to_8_bits(array: np.ndarray, source: str) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{source} must hold integers; pass uint8 pixels of 0..255. "
            f"Received: {array.dtype}."
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _scale_16_to_8(array)
    if array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{source} of {array.dtype} must hold values of 0..255. "
            f"Received: {array.min()}..{array.max()}."
        )
    return array.astype(np.uint8, copy=False)


def _scale_16_to_8(levels: np.ndarray) -> np.ndarray:
    # round(v * 255 / 65535) is round(v / 257); 257 is odd, so nothing ties.
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _check_size(height: int, width: int, source: str, max_pixels: int) -> None:
    if height == 0 or width == 0:
        raise ValueError(f"{source} is empty: {height} x {width} pixels.")
    if height * width > max_pixels:
        raise ValueError(
            f"{source} has {height} x {width} pixels, more than the "
            f"{max_pixels} accepted. Shrink it first."
        )
