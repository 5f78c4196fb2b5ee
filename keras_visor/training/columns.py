"""The columns of samples, as the steps of the recipe take them."""

from collections.abc import Sequence

from keras_visor.models.encoded_images import EncodedImages


def image_column(samples: dict) -> Sequence:
    """An entry for each prompt: `None` where it has no image.

    Args:
        samples: dict of columns: `prompts` and, if wanted, `images`, which
            may be one `EncodedImages` for all of them.

    Raises:
        ValueError: Images for more or fewer prompts.
    """
    count, images = len(samples["prompts"]), samples.get("images")
    if images is None or isinstance(images, EncodedImages):
        return [images] * count
    if len(images) == 1 and isinstance(images[0], EncodedImages):
        return [images[0]] * count
    if len(images) != count:
        raise ValueError(
            f"`images` must have one entry for each of the {count} prompts. "
            f"Received: {len(images)}"
        )
    return images
