"""The surface that documents are drawn on: background, ink, pen and noise."""

import functools
import random

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

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


class Canvas:
    """A square picture in the making.

    Places and lengths are fractions of the picture's side, with (0, 0) at the
    top left.

    Args:
        image_size: int. The side of the picture in pixels.
        background: string. `"light"` or `"dark"`.
        rng: `random.Random`. Decides tint, gradient, ink, jitter and noise.
    """

    def __init__(
        self, image_size: int, background: str, rng: random.Random
    ) -> None:
        self._size = image_size
        self._rng = rng
        self._noise = np.random.default_rng(rng.getrandbits(64))
        self._image = Image.fromarray(self._paper(background))
        self._pen = ImageDraw.Draw(self._image)
        self.ink = (rng.randint(*_INK_TONE[background]),) * 3

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

    def text(self, place, text, height, fill, anchor="lm") -> None:
        """Draws text; `anchor` as in Pillow: "lm" is left, middle."""
        self._pen.text(
            self._pixels([place])[0],
            text,
            fill=fill,
            font=_font(self._text_pixels(height)),
            anchor=anchor,
        )

    def text_width(self, text: str, height: float) -> float:
        font = _font(self._text_pixels(height))
        return font.getlength(text) / self._size

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

    def _text_pixels(self, height: float) -> int:
        return round(height * self._size)


@functools.cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    # The font that ships inside Pillow: the same letters on every machine.
    return ImageFont.load_default(pixels)
