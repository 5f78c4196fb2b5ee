"""Tables: a coloured header row, an item a row, a number in each other cell."""

import random
from dataclasses import dataclass

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question

# At most four letters: the narrowest column holds no more.
COLUMNS = ("cost", "mass", "size", "age", "days", "rank", "sold", "left")
ITEMS = (
    "tea", "milk", "salt", "rice", "oats", "corn", "fish", "eggs",
    "pear", "plum", "lime", "nuts", "bean", "beef", "jam", "cake",
)  # fmt: skip

_TEXT_HEIGHT = 0.105
_LIGHT_COLOURS = ("yellow", "orange")


@dataclass(frozen=True)
class Table(Document):
    kind = "table"
    header_colour: str
    columns: tuple[str, ...]
    items: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @classmethod
    def sample(cls, background: str, rng: random.Random) -> "Table":
        columns = rng.sample(COLUMNS, rng.randint(1, 2))
        items = rng.sample(ITEMS, rng.randint(2, 4))
        values = tuple(
            tuple(str(rng.randint(10, 99)) for _ in columns) for _ in items
        )
        return cls(
            background,
            rng.choice(list(COLOURS)),
            tuple(columns),
            tuple(items),
            values,
        )

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        num_rows = 1 + len(self.items)
        num_columns = 1 + len(self.columns)
        row_height = rng.uniform(0.14, min(0.2, 0.94 / num_rows))
        column_width = rng.uniform(0.31, 0.94 / num_columns)
        height = num_rows * row_height
        width = num_columns * column_width
        left = rng.uniform(0.03, 0.97 - width)
        top = rng.uniform(0.03, 0.97 - height)
        right, bottom = left + width, top + height

        header_fill = canvas.colour(self.header_colour)
        canvas.rectangle(left, top, right, top + row_height, header_fill)
        if rng.random() < 0.5:
            for row in range(num_rows + 1):
                y = top + row * row_height
                canvas.line((left, y), (right, y), canvas.ink)
            for column in range(num_columns + 1):
                x = left + column * column_width
                canvas.line((x, top), (x, bottom), canvas.ink)

        header_ink = (
            (0, 0, 0)
            if self.header_colour in _LIGHT_COLOURS
            else (255, 255, 255)
        )
        rows = [("", *self.columns)]
        rows += [
            (item, *row)
            for item, row in zip(self.items, self.values, strict=True)
        ]
        for row, texts in enumerate(rows):
            y = top + (row + 0.5) * row_height
            for column, text in enumerate(texts):
                x = left + column * column_width + 0.025
                fill = header_ink if row == 0 else canvas.ink
                canvas.text((x, y), text, _TEXT_HEIGHT, fill)


def ask_header_colour(table: Table, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "what colour is the header?",
            "what color is the header?",
            "which colour does the top row of the table have?",
        ]
    )
    return Question(text, table.header_colour)
