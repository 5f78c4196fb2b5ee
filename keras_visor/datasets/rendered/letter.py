"""Letters: a heading, lines of text, and in half of them a coloured stamp."""

import random
from dataclasses import dataclass

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import yes_or_no

HEADINGS = ("Notice", "Invoice", "Dear Ann", "Dear Bob", "Report", "Order")
WORDS = (
    "we", "you", "the", "and", "to", "of", "for", "at", "as", "by",
    "send", "pay", "meet", "note", "sign", "call", "box", "desk", "door",
    "week", "noon", "room", "team", "form", "book", "home", "new", "next",
)  # fmt: skip

_HEADING_HEIGHT = 0.15
_TEXT_HEIGHT = 0.105
_LINE_HEIGHT = 0.125
_WORD_GAP = 0.05
_MAX_LINE_LETTERS = 11
_STAMP_RADIUS = 0.1


@dataclass(frozen=True)
class Letter(Document):
    kind = "letter"
    heading: str
    lines: tuple[tuple[str, ...], ...]
    stamp_colour: str | None

    @classmethod
    def sample(cls, background: str, rng: random.Random) -> "Letter":
        lines = tuple(_sample_line(rng) for _ in range(rng.randint(2, 4)))
        stamped = rng.random() < 0.5
        stamp_colour = rng.choice(list(COLOURS)) if stamped else None
        return cls(background, rng.choice(HEADINGS), lines, stamp_colour)

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        left = rng.uniform(0.04, 0.08)
        y = rng.uniform(0.08, 0.12)
        canvas.text((left, y), self.heading, _HEADING_HEIGHT, canvas.ink)
        y += 0.04
        for words in self.lines:
            y += _LINE_HEIGHT
            x = left
            for word in words:
                canvas.text((x, y), word, _TEXT_HEIGHT, canvas.ink)
                x += canvas.text_width(word, _TEXT_HEIGHT) + _WORD_GAP
        if self.stamp_colour is not None:
            # Below the text, which stays readable.
            x = rng.uniform(0.13, 0.87)
            y = rng.uniform(y + 0.17, 0.88)
            radius = _STAMP_RADIUS
            fill = canvas.colour(self.stamp_colour)
            canvas.ellipse(x - radius, y - radius, x + radius, y + radius, fill)


def _sample_line(rng: random.Random) -> tuple[str, ...]:
    words = rng.sample(WORDS, rng.randint(2, 3))
    if sum(map(len, words)) > _MAX_LINE_LETTERS:
        words.pop()
    return tuple(words)


def ask_stamp_present(letter: Letter, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "is there a stamp?",
            "does the letter have a stamp?",
            "can you see a stamp?",
        ]
    )
    return Question(text, yes_or_no(letter.stamp_colour is not None))


def ask_stamp_colour(letter: Letter, rng: random.Random) -> Question | None:
    if letter.stamp_colour is None:
        return None
    text = rng.choice(
        [
            "what colour is the stamp?",
            "what color is the stamp?",
            "which colour does the stamp have?",
        ]
    )
    return Question(text, letter.stamp_colour)
