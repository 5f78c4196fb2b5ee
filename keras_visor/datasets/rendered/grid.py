"""Grids: digits written by hand, in lettered columns and named rows."""

import random
from dataclasses import dataclass

import numpy as np

from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import Source

ROWS = ("top", "mid", "low")
COLUMNS = ("A", "B", "C")

_LABEL_HEIGHT = 0.1
_MAX_DIGIT = 0.18


@dataclass(frozen=True)
class Grid(Document):
    kind = "grid"
    digits: tuple[tuple[str, ...], ...]
    strokes: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Grid":
        num_rows = rng.randint(1, len(ROWS))
        num_columns = rng.randint(1, len(COLUMNS))
        written = source.digits()
        digits = tuple(
            tuple(rng.choice("0123456789") for _ in range(num_columns))
            for _ in range(num_rows)
        )
        strokes = tuple(
            tuple(written[d][rng.randrange(len(written[d]))] for d in row)
            for row in digits
        )
        return cls(background, digits, strokes)

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        num_rows, num_columns = len(self.digits), len(self.digits[0])
        cell = rng.uniform(0.2, 0.23)
        labels = rng.uniform(0.26, 0.29)
        left = rng.uniform(0.02, 0.98 - labels - num_columns * cell)
        top = rng.uniform(0.02, 0.82 - num_rows * cell)
        x0, y0 = left + labels, top + 0.15
        right, bottom = x0 + num_columns * cell, y0 + num_rows * cell
        for column in range(num_columns):
            where = (x0 + (column + 0.5) * cell, top + 0.08)
            name = COLUMNS[column]
            canvas.text(where, name, _LABEL_HEIGHT, canvas.ink, "mm")
        height = canvas.fit(ROWS, _LABEL_HEIGHT, labels - 0.03)
        for row in range(num_rows):
            where = (left + 0.01, y0 + (row + 0.5) * cell)
            canvas.text(where, ROWS[row], height, canvas.ink)
        if rng.random() < 0.5:
            for row in range(num_rows + 1):
                y = y0 + row * cell
                canvas.line((x0, y), (right, y), canvas.ink)
            for column in range(num_columns + 1):
                x = x0 + column * cell
                canvas.line((x, y0), (x, bottom), canvas.ink)
        for row, digits in enumerate(self.digits):
            for column, digit in enumerate(digits):
                canvas.handwriting(
                    (x0 + (column + 0.5) * cell, y0 + (row + 0.5) * cell),
                    rng.uniform(0.14, _MAX_DIGIT),
                    digit,
                    self.strokes[row][column],
                    beside=ROWS[row],
                    above=COLUMNS[column],
                )


def ask_digit(grid: Grid, rng: random.Random) -> Question:
    row = rng.randrange(len(grid.digits))
    column = rng.randrange(len(grid.digits[0]))
    text = rng.choice(
        [
            f"which digit is in row {ROWS[row]}, column {COLUMNS[column]}?",
            f"what is written in column {COLUMNS[column]}, row {ROWS[row]}?",
            f"what does {ROWS[row]} {COLUMNS[column]} say?",
        ]
    )
    return Question(text, grid.digits[row][column])
