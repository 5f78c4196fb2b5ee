"""What every kind of document has, and the questions that suit all of them."""

import abc
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar
from typing import NamedTuple

import numpy as np

from keras_visor.datasets.rendered.canvas import BACKGROUNDS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.vocabulary import Vocabulary

KINDS = ("scene", "table", "chart", "letter", "form", "grid")


class Question(NamedTuple):
    text: str
    answer: str


class Source(NamedTuple):
    """Where a document's words and handwritten digits come from."""

    vocabulary: Vocabulary
    digits: Callable[[], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Document(abc.ABC):
    """What a picture shows: everything that questions are asked about."""

    kind: ClassVar[str]
    background: str

    @classmethod
    @abc.abstractmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Document":
        """Makes up the content of a document."""

    @abc.abstractmethod
    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        """Draws the content, at places and sizes that `rng` decides."""


def ask_kind(document: Document, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "what kind of picture is this?",
            "what kind of document is this?",
            "what does the picture show?",
        ]
    )
    return Question(text, document.kind)


def ask_is_kind(document: Document, rng: random.Random) -> Question:
    present = rng.random() < 0.5
    others = [kind for kind in KINDS if kind != document.kind]
    kind = document.kind if present else rng.choice(others)
    text = rng.choice(
        [
            f"is this a {kind}?",
            f"does the picture show a {kind}?",
            f"is a {kind} shown here?",
        ]
    )
    return Question(text, yes_or_no(present))


def ask_background(document: Document, rng: random.Random) -> Question:
    first, second = rng.sample(BACKGROUNDS, 2)
    text = rng.choice(
        [
            f"is the background {first} or {second}?",
            f"is the picture {first} or {second}?",
            "how bright is the background?",
        ]
    )
    return Question(text, document.background)


def yes_or_no(present: bool) -> str:
    return "yes" if present else "no"


def article(noun: str) -> str:
    """Returns "a" or "an", whichever goes before `noun`."""
    return "an" if noun[0] in "aeiou" else "a"
