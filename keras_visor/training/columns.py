"""The columns of samples, as the steps of the recipe take them."""

from collections.abc import Sequence

from keras_visor.models.encoded_images import EncodedImages


def image_column(samples: dict) -> Sequence:
    """An entry for each prompt: `None` where it has no image.

    Args:
        samples: dict of columns: `prompts` and, if wanted, `images`, which
            may be one `EncodedImages` for all of them.
    """
    count, images = len(samples["prompts"]), samples.get("images")
    if images is None or isinstance(images, EncodedImages):
        return [images] * count
    return images
