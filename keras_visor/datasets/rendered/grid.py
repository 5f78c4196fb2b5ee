"""Grids: digits written by hand, a team a row, in lettered columns."""

import random
from dataclasses import dataclass

import numpy as np

from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import Source

COLUMNS = ("A", "B", "C")

# Mostly large, as tables are.
_NUM_ROWS = _NUM_COLUMNS = (1, 2, 3, 3)
_LABEL_HEIGHT = 0.1
_MAX_DIGIT = 0.18


@dataclass(frozen=True)
class Grid(Document):
    """Neither teams nor letters stand in an order that tells their places."""

    kind = "grid"
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    digits: tuple[tuple[str, ...], ...]
    strokes: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Grid":
        rows = rng.sample(source.vocabulary.teams, rng.choice(_NUM_ROWS))
        columns = rng.sample(COLUMNS, rng.choice(_NUM_COLUMNS))
        written = source.digits()
        digits = tuple(
            tuple(rng.choice("0123456789") for _ in columns) for _ in rows
        )
        strokes = tuple(
            tuple(written[d][rng.randrange(len(written[d]))] for d in row)
            for row in digits
        )
        return cls(background, tuple(rows), tuple(columns), digits, strokes)

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        num_rows, num_columns = len(self.rows), len(self.columns)
        cell = rng.uniform(0.2, 0.23)
        labels = rng.uniform(0.26, 0.29)
        left = rng.uniform(0.02, 0.98 - labels - num_columns * cell)
        top = rng.uniform(0.02, 0.82 - num_rows * cell)
        x0, y0 = left + labels, top + 0.15
        right, bottom = x0 + num_columns * cell, y0 + num_rows * cell
        for column, name in enumerate(self.columns):
            where = (x0 + (column + 0.5) * cell, top + 0.08)
            canvas.text(where, name, _LABEL_HEIGHT, canvas.ink, "mm")
        height = canvas.fit(self.rows, _LABEL_HEIGHT, labels - 0.03)
        for row, name in enumerate(self.rows):
            where = (left + 0.01, y0 + (row + 0.5) * cell)
            canvas.text(where, name, height, canvas.ink)
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
                    beside=self.rows[row],
                    above=self.columns[column],
                )


def ask_digit(grid: Grid, rng: random.Random) -> Question:
    row = rng.randrange(len(grid.rows))
    column = rng.randrange(len(grid.columns))
    team, letter = grid.rows[row], grid.columns[column]
    text = rng.choice(
        [
            f"which digit is in row {team}, column {letter}?",
            f"what is written in column {letter}, row {team}?",
            f"what does {team} {letter} say?",
        ]
    )
    return Question(text, grid.digits[row][column])
