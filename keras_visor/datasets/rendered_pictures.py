"""Rendered pictures with questions and answers, made up on the fly."""

import functools
import operator
import random
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_visor.datasets.rendered import chart
from keras_visor.datasets.rendered import document
from keras_visor.datasets.rendered import form
from keras_visor.datasets.rendered import grid
from keras_visor.datasets.rendered import letter
from keras_visor.datasets.rendered import scene
from keras_visor.datasets.rendered import table
from keras_visor.datasets.rendered.canvas import BACKGROUNDS
from keras_visor.datasets.rendered.canvas import Canvas
from keras_visor.datasets.rendered.fonts import FONTS
from keras_visor.datasets.rendered.fonts import UNSEEN_FONTS
from keras_visor.datasets.rendered.fonts import handwritten_digits
from keras_visor.datasets.rendered.vocabulary import SEEN
from keras_visor.datasets.rendered.vocabulary import UNSEEN

SPLITS = ("train", "validation", "test")
MIN_IMAGE_SIZE = 96

_DOCUMENTS = {
    kind.kind: kind
    for kind in (
        scene.Scene,
        table.Table,
        chart.Chart,
        letter.Letter,
        form.Form,
        grid.Grid,
    )
}


class _Family(NamedTuple):
    name: str
    group: str
    asked_of: type[document.Document]
    ask: Callable[..., document.Question | None]


_FAMILIES = (
    _Family("document_kind", "coarse", document.Document, document.ask_kind),
    _Family(
        "is_document_kind", "coarse", document.Document, document.ask_is_kind
    ),
    _Family("background", "coarse", document.Document, document.ask_background),
    _Family("shape_colour", "coarse", scene.Scene, scene.ask_shape_colour),
    _Family(
        "shape_of_colour", "coarse", scene.Scene, scene.ask_shape_of_colour
    ),
    _Family("shape_present", "coarse", scene.Scene, scene.ask_shape_present),
    _Family("shape_count", "coarse", scene.Scene, scene.ask_shape_count),
    _Family("header_colour", "coarse", table.Table, table.ask_header_colour),
    _Family("bar_present", "coarse", chart.Chart, chart.ask_bar_present),
    _Family("bar_count", "coarse", chart.Chart, chart.ask_bar_count),
    _Family("stamp_present", "coarse", letter.Letter, letter.ask_stamp_present),
    _Family("stamp_colour", "coarse", letter.Letter, letter.ask_stamp_colour),
    _Family("bar_label", "coarse", chart.Chart, chart.ask_bar_label),
    _Family("bar_colour", "coarse", chart.Chart, chart.ask_bar_colour),
    _Family("cell", "fine", table.Table, table.ask_cell),
    _Family("sum", "fine", table.Table, table.ask_sum),
    _Family("item", "fine", table.Table, table.ask_item),
    _Family("word_below", "fine", letter.Letter, letter.ask_word_below),
    _Family("word_beside", "fine", letter.Letter, letter.ask_word_beside),
    _Family("field", "fine", form.Form, form.ask_field),
    _Family("digit", "fine", grid.Grid, grid.ask_digit),
    _Family("longest_bar", "compare", chart.Chart, chart.ask_longest_bar),
    _Family("largest", "compare", table.Table, table.ask_largest),
    _Family("which_more", "compare", table.Table, table.ask_which_more),
)


def question_families() -> dict[str, tuple[str, ...]]:
    """Returns the names of the question families, by group.

    - `"coarse"`: answered from a glance at the picture: colours, shapes,
      presence, small numbers, kinds of document, a bar's label.
    - `"fine"`: lookups, which relate what stands at different places: a cell
      by row and column, an item by its value, a field of a form, the word
      below or beside another, a handwritten digit by row and column.
    - `"compare"`: the largest, or which of two is more.

    What a cross-attention-only model learns decides between coarse and fine,
    not how a question sounds. Fine families are easy on some pictures, such
    as a table of one row: the wording does not tell how hard a question is.

    Example:

    ```python
    keras_visor.datasets.question_families()["coarse"]
    # ("document_kind", "is_document_kind", "background", ...)
    ```
    """
    groups: dict[str, tuple[str, ...]] = {}
    for family in _FAMILIES:
        groups[family.group] = groups.get(family.group, ()) + (family.name,)
    return groups


class RenderedPictures:
    """Pictures of scenes and documents, with questions and answers.

    Scenes of coloured shapes, tables, bar charts, letters, forms and grids of
    handwritten digits. Needs the extra `keras-visor[datasets]`, for fonts and
    digits.

    A sequence of examples, each made from its split, seed and index alone: any
    example can be made at any time, in any process, and is always the same.
    Splits never share a random stream, whatever their seeds.

    Each example asks one question of every family that suits its picture (see
    `question_families`), in random order. The answers of a coarse family are
    balanced: its wording alone does not give them away.

    Args:
        split: string. `"train"`, `"validation"` or `"test"`.
        num_pictures: int. The number of examples.
        seed: int. Another seed gives other examples. Defaults to 0.
        image_size: int. The side of the square pictures in pixels, at least 96.
            Defaults to 112.
        rounds: int. How often a family is asked of a picture, for training;
            what comes out alike is asked once. Defaults to 1.
        unseen: string or `None`. `"font"` or `"words"`: pictures in fonts, or
            with words, that no other picture has. Defaults to `None`.
        kinds: sequence of strings, of `"scene"`, `"table"`, `"chart"`,
            `"letter"`, `"form"` and `"grid"`: what is drawn, more often what
            is named more often. Defaults to `None`: all six, evenly.

    Example:

    ```python
    pictures = keras_visor.datasets.RenderedPictures("train", 1000)
    example = pictures.example(0)
    example["image"]  # (112, 112, 3) uint8
    for question, answer, family in zip(
        example["questions"], example["answers"], example["families"]
    ):
        print(f"{family}: {question} {answer}")
    ```
    """

    def __init__(
        self,
        split: str,
        num_pictures: int,
        seed: int = 0,
        image_size: int = 112,
        rounds: int = 1,
        unseen: str | None = None,
        kinds: Sequence[str] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(
                f"`split` must be one of {SPLITS}. Received: split={split!r}"
            )
        if unseen not in (None, "font", "words"):
            raise ValueError(
                "`unseen` must be None, 'font' or 'words'. "
                f"Received: unseen={unseen!r}"
            )
        kinds = tuple(_DOCUMENTS) if kinds is None else tuple(kinds)
        if not kinds or not set(kinds) <= set(_DOCUMENTS):
            raise ValueError(
                f"`kinds` must name some of {tuple(_DOCUMENTS)}. "
                f"Received: kinds={kinds}"
            )
        self.split = split
        self.unseen = unseen
        self.kinds = kinds
        self.num_pictures = _at_least("num_pictures", num_pictures, 1)
        self.seed = _at_least("seed", seed, 0)
        self.image_size = _at_least("image_size", image_size, MIN_IMAGE_SIZE)
        self.rounds = _at_least("rounds", rounds, 1)

    def __len__(self) -> int:
        return self.num_pictures

    def __getitem__(self, index: int) -> dict:
        return self.example(index)

    def example(self, index: int) -> dict:
        """Makes one example.

        Args:
            index: int. From 0 to `len(self) - 1`.

        Returns:
            A dictionary of `"image"`, (image_size, image_size, 3) uint8, of
            three lists of strings of equal length, `"questions"`, `"answers"`
            and `"families"`, and of `"words"`, where each word on the picture
            stands: tuples of its text, its box (left, top, right, bottom) in
            fractions of the side, and the words beside and above it to which
            it belongs, or `None`.

        Raises:
            IndexError: if `index` is out of range.
        """
        index = operator.index(index)
        if not 0 <= index < self.num_pictures:
            raise IndexError(
                f"`index` must be from 0 to {self.num_pictures - 1}. "
                f"Received: index={index}"
            )
        rng = self._rng(index)
        background = rng.choice(BACKGROUNDS)
        source = document.Source(
            UNSEEN if self.unseen == "words" else SEEN,
            functools.partial(handwritten_digits, self.split),
        )
        shown = _DOCUMENTS[rng.choice(self.kinds)].sample(
            background, rng, source
        )
        font = rng.choice(UNSEEN_FONTS if self.unseen == "font" else FONTS)
        canvas = Canvas(self.image_size, background, rng, font)
        shown.draw(canvas, rng)
        image = canvas.finish()

        asked = {}
        for family in _FAMILIES * self.rounds:
            if isinstance(shown, family.asked_of):
                question = family.ask(shown, rng)
                if question is not None:
                    asked[family.name, question] = None
        asked = list(asked)
        rng.shuffle(asked)
        return {
            "image": image,
            "questions": [_spell(question.text, rng) for _, question in asked],
            "answers": [question.answer for _, question in asked],
            "families": [name for name, _ in asked],
            "words": canvas.words,
        }

    def _rng(self, index: int) -> random.Random:
        sequence = np.random.SeedSequence(
            self.seed, spawn_key=(SPLITS.index(self.split), index)
        )
        return random.Random(int(sequence.generate_state(1, np.uint64)[0]))


def _spell(text: str, rng: random.Random) -> str:
    # People begin a question either way.
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def _at_least(name: str, value: int, smallest: int) -> int:
    # True is an int to Python, but no number of pictures.
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r}"
        )
    if value < smallest:
        raise ValueError(
            f"`{name}` must be at least {smallest}. Received: {name}={value}"
        )
    return int(value)
