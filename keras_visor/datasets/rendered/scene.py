"""Scenes: one to three coloured shapes, each at a place of its own."""

import itertools
import math
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

COUNTS = ("one", "two", "three")

_QUARTERS = tuple(itertools.product((0.25, 0.75), repeat=2))
_MIN_RADIUS = 0.1
_MAX_RADIUS = 0.21
_MARGIN = 0.02


def _draw_circle(canvas, x, y, radius, fill):
    canvas.ellipse(x - radius, y - radius, x + radius, y + radius, fill)


def _draw_square(canvas, x, y, radius, fill):
    canvas.rectangle(x - radius, y - radius, x + radius, y + radius, fill)


def _draw_triangle(canvas, x, y, radius, fill):
    top, bottom = y - radius, y + radius
    canvas.polygon([(x, top), (x + radius, bottom), (x - radius, bottom)], fill)


def _draw_cross(canvas, x, y, radius, fill):
    arm = radius / 3
    canvas.rectangle(x - radius, y - arm, x + radius, y + arm, fill)
    canvas.rectangle(x - arm, y - radius, x + arm, y + radius, fill)


def _draw_star(canvas, x, y, radius, fill):
    points = []
    for corner in range(10):
        reach = radius if corner % 2 == 0 else 0.4 * radius
        angle = math.pi * corner / 5
        points.append(
            (x + reach * math.sin(angle), y - reach * math.cos(angle))
        )
    canvas.polygon(points, fill)


SHAPES = {
    "circle": _draw_circle,
    "square": _draw_square,
    "triangle": _draw_triangle,
    "cross": _draw_cross,
    "star": _draw_star,
}


class ColouredShape(NamedTuple):
    colour: str
    shape: str


_COLOURED_SHAPES = tuple(
    ColouredShape(colour, shape) for colour in COLOURS for shape in SHAPES
)


@dataclass(frozen=True)
class Scene(Document):
    kind = "scene"
    shapes: tuple[ColouredShape, ...]

    @classmethod
    def sample(
        cls, background: str, rng: random.Random, source: Source
    ) -> "Scene":
        del source  # There is nothing to read in a scene.
        count = rng.randint(1, len(COUNTS))
        return cls(background, tuple(rng.choices(_COLOURED_SHAPES, k=count)))

    def draw(self, canvas: Canvas, rng: random.Random) -> None:
        quarters = rng.sample(_QUARTERS, len(self.shapes))
        for (colour, shape), (x, y) in zip(self.shapes, quarters, strict=True):
            radius = rng.uniform(_MIN_RADIUS, _MAX_RADIUS)
            slack = 0.25 - _MARGIN - radius
            x += rng.uniform(-slack, slack)
            y += rng.uniform(-slack, slack)
            SHAPES[shape](canvas, x, y, radius, canvas.colour(colour))
            box = (x - radius, y - radius, x + radius, y + radius)
            canvas.note(f"{colour} {shape}", box)


def ask_shape_colour(scene: Scene, rng: random.Random) -> Question | None:
    shapes = [shape for _, shape in scene.shapes]
    single = [each for each in scene.shapes if shapes.count(each.shape) == 1]
    if not single:
        return None
    colour, shape = rng.choice(single)
    text = rng.choice(
        [
            f"what colour is the {shape}?",
            f"what color is the {shape}?",
            f"which colour does the {shape} have?",
        ]
    )
    return Question(text, colour)


def ask_shape_of_colour(scene: Scene, rng: random.Random) -> Question | None:
    colours = [colour for colour, _ in scene.shapes]
    single = [each for each in scene.shapes if colours.count(each.colour) == 1]
    if not single:
        return None
    colour, shape = rng.choice(single)
    text = rng.choice(
        [
            f"what is the {colour} shape?",
            f"what shape is {colour}?",
            f"which shape is {colour}?",
        ]
    )
    return Question(text, shape)


def ask_shape_present(scene: Scene, rng: random.Random) -> Question:
    present = rng.random() < 0.5
    colour, shape = (
        rng.choice(scene.shapes) if present else _absent_shape(scene, rng)
    )
    thing = f"{article(colour)} {colour} {shape}"
    text = rng.choice(
        [
            f"is there {thing}?",
            f"does the picture show {thing}?",
            f"can you see {thing}?",
        ]
    )
    return Question(text, yes_or_no(present))


def _absent_shape(scene: Scene, rng: random.Random) -> ColouredShape:
    # Half of those asked for in vain share a colour or a shape with something
    # in the picture, so that looking for one of the two is not enough.
    colours = {colour for colour, _ in scene.shapes}
    shapes = {shape for _, shape in scene.shapes}
    resembling = rng.random() < 0.5
    return rng.choice(
        [
            each
            for each in _COLOURED_SHAPES
            if each not in scene.shapes
            and (each.colour in colours or each.shape in shapes) == resembling
        ]
    )


def ask_shape_count(scene: Scene, rng: random.Random) -> Question:
    text = rng.choice(
        [
            "how many shapes are there?",
            "how many shapes does the picture show?",
            "how many shapes can you see?",
        ]
    )
    return Question(text, COUNTS[len(scene.shapes) - 1])
