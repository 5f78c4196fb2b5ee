"""Pages full of words, on which an encoder learns to read.

Documents have few words each. A page has eighteen things, words, numbers,
handwritten digits and coloured shapes, and every patch that shows one has
labels: the word, its second part, and the letter at the patch's middle.
"""

import random

import keras
import numpy as np
from model import PATCHES_PER_SIDE
from model import TILE_SIZE
from supervision import WORDS
from supervision import label_words

from keras_visor.datasets.rendered.canvas import BACKGROUNDS
from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.fonts import FONTS
from keras_visor.datasets.rendered.fonts import handwritten_digits
from keras_visor.datasets.rendered.scene import SHAPES

LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PATCHES = (2 * PATCHES_PER_SIDE) ** 2

_SIDE = 2 * TILE_SIZE
_COLUMNS, _ROWS = 3, 6
_THINGS = ("word", "number", "handwriting", "shape")
_SHARES = (60, 20, 12, 8)
_WORDS = tuple(word for word in WORDS if not word.isdigit())


class Pages(keras.utils.PyDataset):
    """Batches of pages: tiles, and labels and weights by role."""

    def __init__(self, steps, batch_size, seed):
        super().__init__(workers=1)
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        batch = [
            _page(random.Random(f"{self.seed} {index} {sample}"))
            for sample in range(self.batch_size)
        ]
        pictures, labels, weights = map(np.stack, zip(*batch, strict=True))
        tiles = pictures.reshape(-1, 2, TILE_SIZE, 2, TILE_SIZE, 3)
        tiles = tiles.swapaxes(2, 3).reshape(-1, TILE_SIZE, TILE_SIZE, 3)
        names = ("word", "second", "letter")
        return (
            tiles / np.float32(127.5) - 1,
            {name: labels[..., role] for role, name in enumerate(names)},
            {name: weights[..., role] for role, name in enumerate(names)},
        )


def _page(rng):
    canvas = Canvas(_SIDE, rng.choice(BACKGROUNDS), rng, rng.choice(FONTS))
    height = rng.uniform(0.085, 0.11)
    letters = []
    for cell in range(_COLUMNS * _ROWS):
        row, column = divmod(cell, _COLUMNS)
        x = (column + rng.uniform(0.02, 0.12)) / _COLUMNS
        y = (row + rng.uniform(0.35, 0.65)) / _ROWS
        (thing,) = rng.choices(_THINGS, _SHARES)
        if thing == "shape":
            shape, colour = rng.choice(list(SHAPES)), rng.choice(list(COLOURS))
            radius = rng.uniform(0.07, 0.09)
            x += radius
            SHAPES[shape](canvas, x, y, radius, canvas.colour(colour))
            box = (x - radius, y - radius, x + radius, y + radius)
            canvas.note(f"{colour} {shape}", box)
        elif thing == "handwriting":
            digit = rng.choice("0123456789")
            strokes = handwritten_digits("train")[digit]
            strokes = strokes[rng.randrange(len(strokes))]
            side = rng.uniform(0.14, 0.18)
            canvas.handwriting((x + side / 2, y), side, digit, strokes)
        else:
            text = rng.choice(_WORDS)
            if thing == "number":
                text = str(rng.randint(1, 99))
            size = canvas.fit([text], height, 0.31)
            canvas.text((x, y), text, size, canvas.ink)
            _, top, _, bottom = canvas.words[-1].box
            for end in range(1, len(text) + 1):
                start, stop = (
                    x + canvas.text_width(text[:length], size)
                    for length in (end - 1, end)
                )
                letters.append((text[end - 1], (start, top, stop, bottom)))
    labels = np.zeros((PATCHES, 3), "int32")
    weights = np.zeros((PATCHES, 3), "float32")
    places, words, shares = label_words(canvas.words)
    labels[places, :2], weights[places, :2] = words[:, :2], shares[:, :2]
    patches = np.arange(2 * PATCHES_PER_SIDE)
    centres = (patches + 0.5) / len(patches)
    for letter, (left, top, right, bottom) in letters:
        across = patches[(left <= centres) & (centres < right)]
        down = patches[(top <= centres) & (centres < bottom)]
        found = np.add.outer(down * len(patches), across).ravel()
        labels[found, 2], weights[found, 2] = LETTERS.index(letter), 1.0
    return canvas.finish(), labels, weights
