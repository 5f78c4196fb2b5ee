"""What each visual token shows and belongs to: strong supervision.

Answers alone teach a small model in hours what a label on each visual token
teaches it in minutes: which word stands there, which colour or second digit,
and which words name its row and its column. The labels come from the renderer
and are used in training only.
"""

import keras
import numpy as np
from keras import ops
from model import PATCHES_PER_SIDE

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.chart import LABELS
from keras_visor.datasets.rendered.document import KINDS
from keras_visor.datasets.rendered.grid import COLUMNS as LETTERS
from keras_visor.datasets.rendered.grid import ROWS
from keras_visor.datasets.rendered.scene import SHAPES
from keras_visor.datasets.rendered.table import SUM
from keras_visor.datasets.rendered.vocabulary import COLUMNS
from keras_visor.datasets.rendered.vocabulary import FIELDS
from keras_visor.datasets.rendered.vocabulary import MONTHS
from keras_visor.datasets.rendered.vocabulary import SEEN

ROLES = ("word", "second", "beside", "above")
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
            *ROWS,
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
# After the picture in small, rows of patches that end in a newline.
_FIRST = PATCHES_PER_SIDE**2
_MARGIN = 0.02


def label_tokens(examples):
    """Labels for the visual tokens of whole pictures.

    Args:
        examples: list of what `RenderedPictures` gives.

    Returns:
        Three arrays: int32 (batch, labelled), which visual tokens have labels,
        the first one where there are fewer; int32 (batch, labelled, roles),
        indices into `WORDS`; and float32 weights of that shape, 0 where a
        token has no such label.
    """
    found = [_label_picture(example["words"]) for example in examples]
    most = max(1, *(len(tokens) for tokens in found))
    places = np.zeros((len(found), most), "int32")
    labels = np.zeros((len(found), most, len(ROLES)), "int32")
    weights = np.zeros(labels.shape, "float32")
    for row, tokens in enumerate(found):
        for column, (place, words) in enumerate(tokens.items()):
            places[row, column] = place
            for role, word in enumerate(words):
                if word in _INDEX:
                    labels[row, column, role] = _INDEX[word]
                    weights[row, column, role] = 1.0
    return places, labels, weights


def _label_picture(words):
    """From visual tokens to what they show and belong to, by role."""
    grid = np.arange(_ROWS)
    centres = (grid + 0.5) / _ROWS
    tokens = {}
    for text, (left, top, right, bottom), beside, above in words:
        across = (left - _MARGIN < centres) & (centres < right + _MARGIN)
        down = (top < centres) & (centres < bottom)
        if not down.any():
            down = abs(centres - (top + bottom) / 2) <= 0.5 / _ROWS
        for row in grid[down]:
            for column in grid[across]:
                place = _FIRST + row * (_ROWS + 1) + column
                tokens[place] = (*_parts(text), beside, above)
    return tokens


def _parts(text):
    """A number's digits, a thing and its colour, or a word and nothing."""
    if text.isdigit() and len(text) == 2:
        return text[0], text[1]
    if " " in text:
        colour, thing = text.split()
        return thing, colour
    return text, None


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

    def build(self, vision_shape, places_shape):
        width = vision_shape[-1]
        self.maps = [
            self.add_weight((width, width), initializer="identity", name=role)
            for role in ROLES
        ]

    def call(self, vision, places):
        rows = ops.transpose(ops.sum(self._embed(self._ids), axis=1))
        vision = ops.take_along_axis(vision, places[:, :, None], axis=1)
        vision = ops.rms_normalization(vision)
        return {
            role: ops.matmul(ops.matmul(vision, mapping), rows)
            for role, mapping in zip(ROLES, self.maps, strict=True)
        }
