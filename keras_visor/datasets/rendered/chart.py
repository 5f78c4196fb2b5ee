"""Bar charts: two to five labelled bars, each in a colour of its own."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import article
from keras_visor.datasets.rendered.document import yes_or_no

TITLES = ("Sales", "Rain", "Visits", "Snow", "Trips", "Points")
# Two letters fit under the narrowest bar.
LABELS = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}

_TITLE_HEIGHT = 0.12
_LABEL_HEIGHT = 0.105


class Bar(NamedTuple):
    colour: str
    label: str
    length: float


@dataclass(frozen=True)
class Chart(Document):
    kind = "chart"
    title: str
    bars: tuple[Bar, ...]

    @classmethod
    def sample(cls, background: str, rng: random.Random) -> "Chart":
        count = rng.choice(list(COUNTS))
        colours = rng.sample(list(COLOURS), count)
        labels = rng.sample(LABELS, count)
        bars = tuple(
            Bar(colour, label, rng.uniform(0.25, 1))
            for colour, label in zip(colours, labels, strict=True)
        )
        return cls(background, rng.choice(TITLES), bars)

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        left = rng.uniform(0.02, 0.06)
        right = rng.uniform(0.94, 0.98)
        top = rng.uniform(0.16, 0.3)
        bottom = rng.uniform(0.75, 0.86)
        slot = (right - left) / len(self.bars)
        bar_width = slot * rng.uniform(0.55, 0.75)

        middle = ((left + right) / 2, 0.08)
        canvas.text(middle, self.title, _TITLE_HEIGHT, canvas.ink, "mm")
        for place, (colour, label, length) in enumerate(self.bars):
            x = left + (place + 0.5) * slot
            canvas.rectangle(
                x - bar_width / 2,
                bottom - length * (bottom - top),
                x + bar_width / 2,
                bottom,
                canvas.colour(colour),
            )
            below = (x, bottom + 0.08)
            canvas.text(below, label, _LABEL_HEIGHT, canvas.ink, "mm")
        canvas.line((left, bottom), (right, bottom), canvas.ink)


def ask_bar_present(chart: Chart, rng: random.Random) -> Question:
    present = rng.random() < 0.5
    shown = {bar.colour for bar in chart.bars}
    colour = rng.choice(
        [each for each in COLOURS if (each in shown) == present]
    )
    thing = f"{article(colour)} {colour} bar"
    text = rng.choice(
        [
            f"is there {thing}?",
            f"does the chart have {thing}?",
            f"can you see {thing}?",
        ]
    )
    return Question(text, yes_or_no(present))


def ask_bar_count(chart: Chart, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "how many bars are there?",
            "how many bars does the chart have?",
            "how many bars can you see?",
        ]
    )
    return Question(text, COUNTS[len(chart.bars)])
