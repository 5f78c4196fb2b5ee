"""Pictures of a data set, with errors that name the file."""

from pathlib import Path

import numpy as np
from PIL import Image

from keras_visor.preprocessing.rgb import to_rgb

_ORIENTATION = 0x0112


class ImageFolder:
    """The pictures of one folder.

    What TensorFlow decodes to the picture that `generate` would see goes into
    the data set as it is, undecoded (of a JPEG, its pixels differ a little).
    Anything else, such as a picture with transparency or one that EXIF turns,
    goes in as pixels.

    Args:
        path: path. The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Many questions share a picture; a plain one is decoded once.
        self._plain: set[str] = set()

    def find(self, name: str, where: str) -> str | np.ndarray:
        """Returns a picture as `tfds.features.Image` takes it.

        Args:
            name: string. Its name in the folder.
            where: string. Which question asks for it, to be named in errors.

        Returns:
            Its path, or its pixels, (height, width, 3) uint8.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a picture, or is damaged or truncated.
        """
        path = self.path / name
        if name in self._plain:
            return str(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, asked for by {where}.")
        pixels = to_rgb(path, f"the image of {where}")
        with Image.open(path) as image:
            plain = (
                image.format in ("JPEG", "PNG")
                and image.mode in ("L", "RGB")
                and not image.has_transparency_data
                and image.getexif().get(_ORIENTATION, 1) == 1
            )
        if not plain:
            return pixels
        self._plain.add(name)
        return str(path)
