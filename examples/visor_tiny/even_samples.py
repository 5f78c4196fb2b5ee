"""Questions about fresh pictures, evenly over the question families."""

import collections
import itertools

import numpy as np
from rich.progress import track

from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import question_families

GROUPS = tuple(question_families())
# Text tokens of a question and its answer, with room to spare.
MAX_LENGTH = 64
BATCH_SIZE = 32


def share_out(count):
    """How many samples each group has: two fifths, two fifths and one."""
    return {
        "coarse": 2 * count // 5,
        "fine": 2 * count // 5,
        "compare": count // 5,
    }


def draw_samples(split, counts, seed=0, unseen=None):
    """One question a picture, the families of a group equally often.

    Args:
        split: string. `"train"`, `"validation"` or `"test"`.
        counts: dict from group ("coarse", "fine", "compare") to the number of
            samples.
        seed: int. Another seed gives other pictures. Defaults to 0.
        unseen: As in `RenderedPictures`. Defaults to `None`.

    Returns:
        A dict of columns: `prompts`, `responses`, `images`, `families` and
        `groups`.
    """
    pictures = RenderedPictures(split, 10**9, seed=seed, unseen=unseen)
    asked = {}
    for group, families in question_families().items():
        number = counts.get(group, 0)
        for place, family in enumerate(families):
            share = number // len(families) + (place < number % len(families))
            asked[family] = share
    group_of = {
        family: group
        for group, families in question_families().items()
        for family in families
    }
    columns = collections.defaultdict(list)
    for picture in range(10**9):
        if not any(asked.values()):
            return dict(columns)
        example = pictures.example(picture)
        chosen = max(
            range(len(example["families"])),
            key=lambda at: asked[example["families"][at]],
        )
        family = example["families"][chosen]
        if asked[family]:
            asked[family] -= 1
            columns["prompts"].append(example["questions"][chosen])
            columns["responses"].append(example["answers"][chosen])
            columns["images"].append(example["image"])
            columns["families"].append(family)
            columns["groups"].append(group_of[family])


def encoded(lm, samples):
    """The same samples; what is done with them shares the encoder's work."""
    images = samples["images"]
    starts = track(range(0, len(images), BATCH_SIZE), "Encoding")
    batches = [lm.encode(images[at : at + BATCH_SIZE]) for at in starts]
    return {**samples, "images": list(itertools.chain(*batches))}


def rows_of(names):
    """Pairs of each name of a column and its rows, a bool array."""
    names = np.array(names)
    return [(name, names == name) for name in np.unique(names).tolist()]
