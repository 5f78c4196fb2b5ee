"""The fonts that pictures are written in, and the digits written by hand.

They come with Pillow, matplotlib and scikit-learn, whose versions decide how
a letter looks: the same on every machine with the same versions.
"""

import functools
import pathlib

import numpy as np
from PIL import ImageFont

FONTS = (
    "Aileron",
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSerif",
)
# Kept apart, to test whether reading generalises.
UNSEEN_FONTS = ("STIXGeneral", "cmss10")


@functools.cache
def load_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    if name == "Aileron":
        return ImageFont.load_default(pixels)
    return ImageFont.truetype(_font_folder() / f"{name}.ttf", pixels)


@functools.cache
def _font_folder() -> pathlib.Path:
    try:
        import matplotlib
    except ImportError as error:
        raise _missing("matplotlib", "its fonts") from error
    return pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")


@functools.cache
def handwritten_digits(split: str) -> dict[str, np.ndarray]:
    """Digits that people wrote: UCI's optical digits, by way of scikit-learn.

    Args:
        split: string. `"train"`, `"validation"` or `"test"`, which share no
            digit: 60, 15 and 25 % of the 1,797.

    Returns:
        A dictionary from each digit, `"0"` to `"9"`, to its float32 images
        (count, 8, 8), 0 for paper and 1 for ink.
    """
    try:
        import sklearn.datasets
    except ImportError as error:
        raise _missing("scikit-learn", "its handwritten digits") from error
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype("float32") / 16
    part = np.arange(len(images)) % 20
    first, last = {"train": (0, 12), "validation": (12, 15), "test": (15, 20)}[
        split
    ]
    chosen = (first <= part) & (part < last)
    return {
        str(digit): images[chosen & (labels == digit)] for digit in range(10)
    }


def _missing(package: str, what: str) -> ImportError:
    return ImportError(
        f"Rendered pictures need {package} for {what}: "
        "`pip install keras-visor[datasets]`"
    )
