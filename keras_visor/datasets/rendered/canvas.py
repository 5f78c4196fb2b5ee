"""The surface that documents are drawn on: background, ink, pen and noise."""

import random
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageDraw

from keras_visor.datasets.rendered.fonts import load_font

BACKGROUNDS = ("light", "dark")

# Readable on a light and on a dark background, and far enough apart to be told
# from each other under jitter and noise.
COLOURS = {
    "red": (215, 40, 45),
    "orange": (245, 135, 25),
    "yellow": (235, 210, 45),
    "green": (40, 160, 70),
    "blue": (60, 100, 225),
    "purple": (150, 60, 190),
}

_COLOUR_JITTER = 12
_BACKGROUND_TONE = {"light": (205, 245), "dark": (10, 55)}
_INK_TONE = {"light": (0, 50), "dark": (215, 255)}
_TINT = 8
_GRADIENT = 10
_MAX_NOISE = 8


class Word(NamedTuple):
    """A word or a coloured thing on a picture, and what it belongs to.

    `text` is what is written, or colour and thing, as in "red star". `box` is
    (left, top, right, bottom) in fractions of the side. `beside` and `above`
    are the words that name its row and its column, or `None`.
    """

    text: str
    box: tuple[float, float, float, float]
    beside: str | None
    above: str | None


class Canvas:
    """A square picture in the making.

    Places and lengths are fractions of the picture's side, with (0, 0) at the
    top left.

    Args:
        image_size: int. The side of the picture in pixels.
        background: string. `"light"` or `"dark"`.
        rng: `random.Random`. Decides tint, gradient, ink, jitter and noise.
        font: string. One of `fonts.FONTS` or `fonts.UNSEEN_FONTS`.
    """

    def __init__(
        self,
        image_size: int,
        background: str,
        rng: random.Random,
        font: str = "Aileron",
    ) -> None:
        self._size = image_size
        self._font = font
        self._rng = rng
        self._noise = np.random.default_rng(rng.getrandbits(64))
        self._image = Image.fromarray(self._paper(background))
        self._pen = ImageDraw.Draw(self._image)
        self.ink = (rng.randint(*_INK_TONE[background]),) * 3
        self.words: list[Word] = []

    def _paper(self, background: str) -> np.ndarray:
        tone = self._rng.randint(*_BACKGROUND_TONE[background])
        tint = [tone + self._rng.randint(-_TINT, _TINT) for _ in range(3)]
        down = self._rng.uniform(-_GRADIENT, _GRADIENT)
        across = self._rng.uniform(-_GRADIENT, _GRADIENT)
        ramp = np.linspace(-1, 1, self._size)
        slope = down * ramp[:, None, None] + across * ramp[None, :, None]
        return np.clip(slope + tint, 0, 255).astype(np.uint8)

    def colour(self, name: str) -> tuple[int, int, int]:
        """Returns the RGB values of a colour, slightly off its mean."""
        jitter = (
            self._rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER) for _ in range(3)
        )
        return tuple(
            min(max(channel + offset, 0), 255)
            for channel, offset in zip(COLOURS[name], jitter, strict=True)
        )

    def rectangle(self, left, top, right, bottom, fill) -> None:
        self._pen.rectangle(self._pixels([(left, top), (right, bottom)]), fill)

    def ellipse(self, left, top, right, bottom, fill) -> None:
        self._pen.ellipse(self._pixels([(left, top), (right, bottom)]), fill)

    def polygon(self, points, fill) -> None:
        self._pen.polygon(self._pixels(points), fill)

    def line(self, start, end, fill) -> None:
        self._pen.line(self._pixels([start, end]), fill)

    def text(
        self,
        place,
        text,
        height,
        fill,
        anchor="lm",
        beside=None,
        above=None,
    ) -> None:
        """Draws text; `anchor` as in Pillow: "lm" is left, middle."""
        options = {"font": self._sized(height), "anchor": anchor}
        (where,) = self._pixels([place])
        self._pen.text(where, text, fill=fill, **options)
        box = self._pen.textbbox(where, text, **options)
        self._note(text, box, beside, above)

    def handwriting(
        self, place, side, digit, strokes, beside=None, above=None
    ) -> None:
        """Draws a digit's `strokes`, an array of ink, around a place."""
        pixels = max(round(side * self._size), 8)
        ((x, y),) = self._pixels([place])
        left, top = x - pixels // 2, y - pixels // 2
        mask = Image.fromarray((strokes * 255).astype(np.uint8)).resize(
            (pixels, pixels), Image.Resampling.BICUBIC
        )
        self._image.paste(self.ink, (left, top), mask)
        box = (left, top, left + pixels, top + pixels)
        self._note(digit, box, beside, above)

    def fit(self, texts, height, width) -> float:
        """The greatest height, `height` at most, at which texts fit."""
        while max(self.text_width(text, height) for text in texts) > width:
            height -= 0.5 / self._size
        return height

    def text_width(self, text: str, height: float) -> float:
        return self._sized(height).getlength(text) / self._size

    def _sized(self, height):
        return load_font(self._font, round(height * self._size))

    def _note(self, text, box, beside, above) -> None:
        box = tuple(edge / self._size for edge in box)
        self.note(text, box, beside, above)

    def note(self, text, box, beside=None, above=None) -> None:
        """Notes where something is that has been drawn."""
        self.words.append(Word(text, box, beside, above))

    def finish(self) -> np.ndarray:
        """Returns the picture, (image_size, image_size, 3) uint8, with noise.

        How strong the noise is differs from picture to picture.
        """
        pixels = np.asarray(self._image)
        noise = self._noise.standard_normal(pixels.shape, dtype=np.float32)
        noise *= self._rng.uniform(0, _MAX_NOISE)
        return np.clip(pixels + noise, 0, 255).astype(np.uint8)

    def _pixels(self, points):
        # Both ends belong to what Pillow draws, so the last pixel is size - 1.
        scale = self._size - 1
        return [(round(x * scale), round(y * scale)) for x, y in points]
