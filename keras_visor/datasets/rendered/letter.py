"""Letters: a heading, lines of text, and in half of them a coloured stamp."""

import random
from dataclasses import dataclass

from keras_visor.datasets.rendered.canvas import COLOURS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.document import Document
from keras_visor.datasets.rendered.document import Question
from keras_visor.datasets.rendered.document import Source
from keras_visor.datasets.rendered.document import yes_or_no

_NUM_LINES = (1, 2, 3, 4, 4)
_NUM_PLACES = (1, 2, 3, 3)
_HEADING_HEIGHT = 0.13
_TEXT_HEIGHTS = (0.088, 0.1)
_LINE_HEIGHT = 0.125
_STAMP_RADIUS = 0.09


@dataclass(frozen=True)
class Letter(Document):
    """Its words stand under each other, at one to three places a line."""

    kind = "letter"
    heading: str
    lines: tuple[tuple[str, ...], ...]
    stamp_colour: str | None

    @classmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Letter":
        num_lines = rng.choice(_NUM_LINES)
        num_places = rng.choice(_NUM_PLACES)
        words = rng.sample(source.vocabulary.words, num_lines * num_places)
        lines = tuple(
            tuple(words[line::num_lines]) for line in range(num_lines)
        )
        stamped = rng.random() < 0.5
        stamp_colour = rng.choice(list(COLOURS)) if stamped else None
        heading = rng.choice(source.vocabulary.headings)
        return cls(background, heading, lines, stamp_colour)

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        left = rng.uniform(0.04, 0.08)
        y = rng.uniform(0.08, 0.12)
        canvas.text((left, y), self.heading, _HEADING_HEIGHT, canvas.ink)
        y += 0.04
        widest = 0.9 / len(self.lines[0])
        place_width = rng.uniform(0.28, min(0.36, widest))
        text_height = canvas.fit(
            [word for words in self.lines for word in words],
            rng.uniform(*_TEXT_HEIGHTS),
            place_width - 0.03,
        )
        above = (None,) * len(self.lines[0])
        for words in self.lines:
            y += _LINE_HEIGHT
            for place, word in enumerate(words):
                canvas.text(
                    (left + place * place_width, y),
                    word,
                    text_height,
                    canvas.ink,
                    beside=words[place - 1] if place else None,
                    above=above[place],
                )
            above = words
        if self.stamp_colour is not None:
            # Below the text, which stays readable.
            x = rng.uniform(0.13, 0.87)
            y = rng.uniform(y + 0.16, 0.88)
            radius = _STAMP_RADIUS
            fill = canvas.colour(self.stamp_colour)
            box = (x - radius, y - radius, x + radius, y + radius)
            canvas.ellipse(*box, fill)
            canvas.note(f"{self.stamp_colour} stamp", box)


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


def ask_word_below(letter: Letter, rng: random.Random) -> Question | None:
    line = rng.randrange(len(letter.lines))
    if line == 0:
        return None
    place = rng.randrange(len(letter.lines[0]))
    word = letter.lines[line - 1][place]
    text = rng.choice(
        [
            f"which word is below {word}?",
            f"what is written under {word}?",
            f"under the word {word}, what does it say?",
        ]
    )
    return Question(text, letter.lines[line][place])


def ask_word_beside(letter: Letter, rng: random.Random) -> Question | None:
    words = rng.choice(letter.lines)
    if len(words) == 1:
        return None
    place = rng.randrange(1, len(words))
    word = words[place - 1]
    text = rng.choice(
        [
            f"which word comes after {word}?",
            f"what is written right of {word}?",
            f"in its line, what follows {word}?",
        ]
    )
    return Question(text, words[place])
