"""Tables: a coloured header row, an item a row, a number in each other cell."""

import random
from dataclasses import dataclass

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import Source
from keras_visor.datasets.rendered.vocabulary import COLUMNS

# A last row may add the others up, to two digits too.
SUM = "sum"

# Mostly large, so that what belongs together stands apart; some are small.
_NUM_COLUMNS = (1, 2, 2, 2)
_NUM_ITEMS = (1, 2, 3, 4, 5, 5, 6, 6)
_TEXT_HEIGHTS = (0.088, 0.105)
_LIGHT_COLOURS = ("yellow", "orange")


@dataclass(frozen=True)
class Table(Document):
    kind = "table"
    header_colour: str
    columns: tuple[str, ...]
    items: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    has_sum: bool

    @classmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Table":
        columns = rng.sample(COLUMNS, rng.choice(_NUM_COLUMNS))
        items = rng.sample(source.vocabulary.items, rng.choice(_NUM_ITEMS))
        has_sum = 2 <= len(items) <= 5 and rng.random() < 0.5
        largest = 99 // len(items) if has_sum else 99
        values = tuple(
            tuple(rng.randint(10, largest) for _ in columns) for _ in items
        )
        return cls(
            background,
            rng.choice(list(COLOURS)),
            tuple(columns),
            tuple(items),
            values,
            has_sum,
        )

    def column(self, name: str) -> tuple[int, ...]:
        place = self.columns.index(name)
        return tuple(row[place] for row in self.values)

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [
            (item, *map(str, row))
            for item, row in zip(self.items, self.values, strict=True)
        ]
        if self.has_sum:
            sums = (str(sum(self.column(name))) for name in self.columns)
            rows.append((SUM, *sums))
        return [("", *self.columns), *rows]

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        rows = self._rows()
        num_columns = 1 + len(self.columns)
        row_height = rng.uniform(0.125, min(0.2, 0.94 / len(rows)))
        column_width = rng.uniform(0.3, 0.94 / num_columns)
        height = len(rows) * row_height
        width = num_columns * column_width
        left = rng.uniform(0.03, 0.97 - width)
        top = rng.uniform(0.03, 0.97 - height)
        right, bottom = left + width, top + height

        header_fill = canvas.colour(self.header_colour)
        canvas.rectangle(left, top, right, top + row_height, header_fill)
        if rng.random() < 0.5:
            for row in range(len(rows) + 1):
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
        text_height = canvas.fit(
            [text for row in rows for text in row],
            rng.uniform(*_TEXT_HEIGHTS),
            column_width - 0.04,
        )
        for row, texts in enumerate(rows):
            y = top + (row + 0.5) * row_height
            for column, text in enumerate(texts):
                if text:
                    canvas.text(
                        (left + column * column_width + 0.025, y),
                        text,
                        text_height,
                        header_ink if row == 0 else canvas.ink,
                        beside=texts[0] if row and column else None,
                        above=rows[0][column] if row and column else None,
                    )


def ask_header_colour(table: Table, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "what colour is the header?",
            "what color is the header?",
            "which colour does the top row of the table have?",
        ]
    )
    return Question(text, table.header_colour)


def ask_cell(table: Table, rng: random.Random) -> Question:
    column = rng.choice(table.columns)
    row = rng.randrange(len(table.items))
    item = table.items[row]
    text = rng.choice(
        [
            f"what is the {column} of {item}?",
            f"which {column} does {item} have?",
            f"which number is in row {item}, column {column}?",
        ]
    )
    return Question(text, str(table.column(column)[row]))


def ask_sum(table: Table, rng: random.Random) -> Question | None:
    if not table.has_sum:
        return None
    column = rng.choice(table.columns)
    text = rng.choice(
        [
            f"what is the sum of the column {column}?",
            f"which {column} is given as the sum?",
            f"what does the column {column} add up to?",
        ]
    )
    return Question(text, str(sum(table.column(column))))


def ask_item(table: Table, rng: random.Random) -> Question | None:
    column = rng.choice(table.columns)
    values = table.column(column)
    single = [value for value in values if values.count(value) == 1]
    if not single:
        return None
    value = rng.choice(single)
    text = rng.choice(
        [
            f"which item has the {column} {value}?",
            f"whose {column} is {value}?",
            f"what has {value} as its {column}?",
        ]
    )
    return Question(text, table.items[values.index(value)])


def ask_largest(table: Table, rng: random.Random) -> Question | None:
    column = rng.choice(table.columns)
    values = table.column(column)
    if len(values) < 2 or values.count(max(values)) > 1:
        return None
    text = rng.choice(
        [
            f"which item has the largest {column}?",
            f"what has the most {column}?",
            f"whose {column} is the largest?",
        ]
    )
    return Question(text, table.items[values.index(max(values))])


def ask_which_more(table: Table, rng: random.Random) -> Question | None:
    if len(table.items) < 2:
        return None
    column = rng.choice(table.columns)
    first, second = rng.sample(range(len(table.items)), 2)
    values = table.column(column)
    if values[first] == values[second]:
        return None
    one, other = table.items[first], table.items[second]
    text = rng.choice(
        [
            f"which has more {column}, {one} or {other}?",
            f"is the {column} of {one} or of {other} larger?",
            f"{one} or {other}, whose {column} is larger?",
        ]
    )
    return Question(text, one if values[first] > values[second] else other)
