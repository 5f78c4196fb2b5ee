"""Bar charts: two to five labelled bars, each in a colour of its own."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import Source
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
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Chart":
        del source  # Its words are common to all charts.
        count = rng.choice(list(COUNTS))
        colours = rng.sample(list(COLOURS), count)
        labels = rng.sample(LABELS, count)
        bars = tuple(
            Bar(colour, label, length)
            for colour, label, length in zip(
                colours, labels, _sample_lengths(count, rng), strict=True
            )
        )
        return cls(background, rng.choice(TITLES), bars)

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        left = rng.uniform(0.02, 0.06)
        right = rng.uniform(0.94, 0.98)
        top = rng.uniform(0.16, 0.3)
        bottom = rng.uniform(0.75, 0.86)
        slot = (right - left) / len(self.bars)
        bar_width = slot * rng.uniform(0.55, 0.75)

        label_height = canvas.fit(LABELS, _LABEL_HEIGHT, slot - 0.02)
        middle = ((left + right) / 2, 0.08)
        canvas.text(middle, self.title, _TITLE_HEIGHT, canvas.ink, "mm")
        for place, (colour, label, length) in enumerate(self.bars):
            x = left + (place + 0.5) * slot
            box = (
                x - bar_width / 2,
                bottom - length * (bottom - top),
                x + bar_width / 2,
                bottom,
            )
            canvas.rectangle(*box, canvas.colour(colour))
            canvas.note(f"{colour} bar", box, above=label)
            below = (x, bottom + 0.08)
            canvas.text(
                below, label, label_height, canvas.ink, "mm", above=colour
            )
        canvas.line((left, bottom), (right, bottom), canvas.ink)


def _sample_lengths(count: int, rng: random.Random) -> list[float]:
    """Lengths of which the longest stands out."""
    longest = rng.uniform(0.6, 1)
    others = [rng.uniform(0.25, longest - 0.08) for _ in range(count - 1)]
    lengths = [longest, *others]
    rng.shuffle(lengths)
    return lengths


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


def ask_bar_label(chart: Chart, rng: random.Random) -> Question:
    bar = rng.choice(chart.bars)
    text = rng.choice(
        [
            f"what is the label of the {bar.colour} bar?",
            f"which day has the {bar.colour} bar?",
            f"what is written under the {bar.colour} bar?",
        ]
    )
    return Question(text, bar.label)


def ask_bar_colour(chart: Chart, rng: random.Random) -> Question:
    bar = rng.choice(chart.bars)
    text = rng.choice(
        [
            f"what colour is the bar of {bar.label}?",
            f"what color is the bar {bar.label}?",
            f"which colour does {bar.label} have?",
        ]
    )
    return Question(text, bar.colour)


def ask_longest_bar(chart: Chart, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "which day has the longest bar?",
            "what is the label of the longest bar?",
            "on which day was it the most?",
        ]
    )
    return Question(text, max(chart.bars, key=lambda bar: bar.length).label)
