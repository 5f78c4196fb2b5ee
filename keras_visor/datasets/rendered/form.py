"""Forms: one to four fields, each with its name beside or above its value."""

import random
import re
from dataclasses import dataclass

from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import Source
from keras_visor.datasets.rendered.vocabulary import FIELDS
from keras_visor.datasets.rendered.vocabulary import MONTHS

# Mostly two or four: values in pairs of a kind, which names alone tell apart.
_NUM_FIELDS = (1, 2, 2, 3, 4, 4, 4, 4)
_TEXT_HEIGHTS = (0.088, 0.105)


@dataclass(frozen=True)
class Form(Document):
    kind = "form"
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Form":
        fields = [
            (name, _fill(kind, rng, source))
            for kind in rng.sample(list(FIELDS), 2)
            for name in rng.sample(FIELDS[kind], 2)
        ][: rng.choice(_NUM_FIELDS)]
        rng.shuffle(fields)
        return cls(background, tuple(fields))

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        beside = rng.random() < 0.5
        num_columns = 1 if beside else min(2, len(self.fields))
        num_rows = -(-len(self.fields) // num_columns)
        cell_width = 0.92 / num_columns
        row_height = rng.uniform(
            *((0.14, min(0.24, 0.92 / num_rows)) if beside else (0.3, 0.42))
        )
        left = rng.uniform(0.04, 0.08)
        top = rng.uniform(0.04, 0.96 - num_rows * row_height)
        value_offset = rng.uniform(0.4, 0.5) if beside else 0
        texts = [text for field in self.fields for text in field]
        text_height = canvas.fit(
            texts,
            rng.uniform(*_TEXT_HEIGHTS),
            min(cell_width - value_offset, value_offset or 1) - 0.06,
        )
        underlined = rng.random() < 0.5
        for place, (name, value) in enumerate(self.fields):
            row, column = divmod(place, num_columns)
            x = left + column * cell_width
            y = top + (row + (0.5 if beside else 0.28)) * row_height
            canvas.text((x, y), name, text_height, canvas.ink)
            x += value_offset
            y += 0 if beside else 0.44 * row_height
            role = {"beside" if beside else "above": name}
            gap = 0 if ":" in value else 0.05
            for word in re.split("(:)| ", value):
                if word:
                    canvas.text((x, y), word, text_height, canvas.ink, **role)
                    x += canvas.text_width(word, text_height) + gap
            if underlined:
                start = left + column * cell_width + value_offset
                below = y + 0.07
                end = left + (column + 1) * cell_width - 0.05
                canvas.line((start, below), (end, below), canvas.ink)


def _fill(kind: str, rng: random.Random, source: Source) -> str:
    if kind == "date":
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    if kind == "time":
        return f"{rng.randint(10, 19)}:{rng.choice(('00', '15', '30', '45'))}"
    if kind == "number":
        return str(rng.randint(10, 99))
    words = {
        "name": source.vocabulary.names,
        "city": source.vocabulary.cities,
        "team": source.vocabulary.teams,
    }
    return rng.choice(words[kind])


def ask_field(form: Form, rng: random.Random) -> Question:
    name, value = rng.choice(form.fields)
    text = rng.choice(
        [
            f"what does the form say for {name}?",
            f"what is filled in as {name}?",
            f"what stands in the field {name}?",
        ]
    )
    return Question(text, value)
