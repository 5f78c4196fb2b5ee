"""What each visual token shows and belongs to: strong supervision.

Answers alone teach a small model in hours what a label on each visual token
teaches it in minutes: which word stands there, which colour or second digit,
which words name its row and its column, and a bar's place among the bars. The
labels come from the renderer and are used in training only.
"""

import keras
import numpy as np
from keras import ops
from model import PATCHES_PER_SIDE

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.chart import LABELS
from keras_visor.datasets.rendered.document import KINDS
from keras_visor.datasets.rendered.grid import COLUMNS as LETTERS
from keras_visor.datasets.rendered.scene import SHAPES
from keras_visor.datasets.rendered.table import SUM
from keras_visor.datasets.rendered.vocabulary import COLUMNS
from keras_visor.datasets.rendered.vocabulary import FIELDS
from keras_visor.datasets.rendered.vocabulary import MONTHS
from keras_visor.datasets.rendered.vocabulary import SEEN

ROLES = ("word", "second", "beside", "above", "rank")
WORDS = tuple(
    dict.fromkeys(
        (
            *"0123456789",
            *COLOURS,
            *SHAPES,
            "bar",
            "stamp",
            *LABELS,
            *KINDS,
            *LETTERS,
            SUM,
            *COLUMNS,
            *(name for pair in FIELDS.values() for name in pair),
            *MONTHS,
            *(word for words in SEEN for word in words),
        )
    )
)

_INDEX = {word: index for index, word in enumerate(WORDS)}
_ROWS = 2 * PATCHES_PER_SIDE
_PATCHES = _ROWS**2
# After the picture in small, rows of patches that end in a newline.
_FIRST = PATCHES_PER_SIDE**2
_MARGIN = 0.02


def label_tokens(examples):
    """Labels for the visual tokens of whole pictures.

    Args:
        examples: list of what `RenderedPictures` gives.

    Returns:
        Three arrays: int32 (batch, patches), which visual tokens have labels,
        padded with 0 to as many as there are patches, so that JAX compiles
        once; int32 (batch, patches, roles), indices into `WORDS`; and float32
        weights of that shape, 0 where a token has no such label.
    """
    found = [label_words(example["words"]) for example in examples]
    places = np.zeros((len(found), _PATCHES), "int32")
    labels = np.zeros((len(found), _PATCHES, len(ROLES)), "int32")
    weights = np.zeros(labels.shape, "float32")
    for row, (patches, words, shares) in enumerate(found):
        places[row, : len(patches)] = visual_tokens(patches)
        labels[row, : len(patches)] = words
        weights[row, : len(patches)] = shares
    return places, labels, weights


def visual_tokens(patches):
    """Visual tokens that are patches of the whole picture, row by row."""
    # The picture in small comes first, and each row ends in a newline.
    return _FIRST + patches + patches // _ROWS


def label_patches(box):
    """Patches of the whole picture, row by row, that a box is said to fill."""
    left, top, right, bottom = box
    grid = np.arange(_ROWS)
    centres = (grid + 0.5) / _ROWS
    across = (left - _MARGIN < centres) & (centres < right + _MARGIN)
    down = (top < centres) & (centres < bottom)
    if not down.any():
        down = abs(centres - (top + bottom) / 2) <= 0.5 / _ROWS
    return np.add.outer(grid[down] * _ROWS, grid[across]).ravel()


def label_words(words):
    """Labels for the patches that show words.

    Args:
        words: list of what `RenderedPictures` gives as `"words"`.

    Returns:
        Three arrays: int (labelled,), patches of the whole picture, row by
        row; int32 (labelled, roles), indices into `WORDS`; and float32
        weights of that shape, 0 where a patch has no such label.
    """
    patches = {
        patch: (*_parts(word.text), word.beside, word.above, rank)
        for word, rank in zip(words, _ranks(words), strict=True)
        for patch in label_patches(word.box).tolist()
    }
    known = [[word in _INDEX for word in roles] for roles in patches.values()]
    labels = [
        [_INDEX.get(word, 0) for word in roles] for roles in patches.values()
    ]
    return (
        np.array(list(patches), "int32"),
        np.array(labels, "int32").reshape(-1, len(ROLES)),
        np.array(known, "float32").reshape(-1, len(ROLES)),
    )


def _parts(text):
    """A number's digits, a thing and its colour, or a word and nothing."""
    if text.isdigit() and len(text) == 2:
        return text[0], text[1]
    if " " in text:
        colour, thing = text.split()
        return thing, colour
    return text, None


def _ranks(words):
    """A bar's place by length, "1" for the longest, and `None` for the rest.

    Numbers of a column have none: the upper ones do not see the lower.
    """
    lengths = [
        word.box[3] - word.box[1] if word.text.endswith(" bar") else None
        for word in words
    ]
    return [
        length and str(1 + sum(other > length for other in lengths if other))
        for length in lengths
    ]


class TokenLabels(keras.layers.Layer):
    """Scores visual tokens against the embeddings of `WORDS`, by role.

    The embeddings are the language model's own, so that a token that shows a
    word, or belongs to it, comes to resemble it. A role looks at the token
    through a matrix of its own, which starts as the identity.

    Args:
        tokenizer: The model's tokenizer.
        embed: function from token ids to their embeddings.
    """

    def __init__(self, tokenizer, embed, **kwargs):
        super().__init__(**kwargs)
        self._embed = embed
        # As a question has the word, and as an answer does.
        self._ids = np.array(
            [
                [tokenizer(form)[-1] for form in (word, f" {word}")]
                for word in WORDS
            ]
        )

    def build(self, vision_shape):
        width = vision_shape[-1]
        self.maps = [
            self.add_weight((width, width), initializer="identity", name=role)
            for role in ROLES
        ]

    def call(self, vision):
        rows = ops.transpose(ops.sum(self._embed(self._ids), axis=1))
        vision = ops.rms_normalization(vision)
        return {
            role: ops.matmul(ops.matmul(vision, mapping), rows)
            for role, mapping in zip(ROLES, self.maps, strict=True)
        }
