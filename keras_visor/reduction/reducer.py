"""What every token reducer has, and how many tokens a rate keeps."""

from fractions import Fraction

import numpy as np

from keras_visor.layers.streams import Streams
from keras_visor.reduction.vision_sources import VisionSources

# Rates are fractions with at most this denominator, so that a count of tokens
# times a numerator stays within 32 bits.
FINEST_RATE = 10_000


class Reducer:
    """Leaves out some of the visual tokens.

    The base class of `keras_visor.reduction`. A reducer acts once before the
    decoder (`reduce`), or after some of its layers (`rates_after`). It has
    no weights, treats each sample apart from its neighbours and from padding,
    and gives static shapes. Equal ones compare equal, and all of them can
    be hashed and serialized by Keras.

    Args:
        rate: float. The share of a sample's visual tokens to keep, above 0
            and at most 1: of n tokens `ceil(rate * n)` are kept.

    Raises:
        TypeError: The rate is no number.
        ValueError: The rate is not above 0 and at most 1.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.reducer = keras_visor.reduction.HiRED(0.5)
    lm.reducer.vision_length_before(99, num_layers=6)  # 50 everywhere
    ```
    """

    # Whether `reduce` reads `sources.attention`.
    needs_attention = False

    def __init__(self, rate: float):
        self.rate = check_rate(rate)

    def reduce(self, streams: Streams, sources: VisionSources) -> Streams:
        """Leave visual tokens out, before the decoder's first layer.

        Args:
            streams: `Streams` with visual tokens.
            sources: `VisionSources`. Where each of them came from.

        Returns:
            `Streams` with fewer visual tokens, in the order and at the
            positions that they had.
        """
        return streams

    def rates_after(self, num_layers: int) -> dict[int, float]:
        """The decoder layers after which visual tokens are left out.

        The tokens that stay are those that the prompt's last text token
        attends to most in that layer, the mean over its heads.

        Args:
            num_layers: int. How many layers the decoder has.

        Returns:
            A dict from layer index to the share that is kept there.
        """
        return {}

    def vision_length_before(
        self, vision_length: int, num_layers: int
    ) -> list[int]:
        """How many visual tokens there are before each decoder layer.

        Args:
            vision_length: int. Visual tokens before the reduction.
            num_layers: int. How many layers the decoder has.

        Returns:
            A list of `num_layers` ints.
        """
        rates = self.rates_after(num_layers)
        lengths = []
        for layer in range(num_layers):
            lengths.append(vision_length)
            if layer in rates:
                vision_length = kept_count(vision_length, rates[layer])
        return lengths

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {"rate": self.rate}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)

    def __eq__(self, other):
        return (
            type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self):
        return hash((type(self), repr(sorted(self.get_config().items()))))

    def __repr__(self):
        arguments = ", ".join(f"{k}={v}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class EarlyReducer(Reducer):
    """A reducer that acts before the decoder's first layer."""

    def vision_length_before(self, vision_length, num_layers):
        return [kept_count(vision_length, self.rate)] * num_layers


def kept_count(count, rate: float):
    """`ceil(rate * count)`, exactly, of an int, an array or a tensor."""
    numerator, denominator = as_fraction(rate)
    return (count * numerator + denominator - 1) // denominator


def as_fraction(rate: float) -> tuple[int, int]:
    """Numerator and denominator of a rate."""
    fraction = Fraction(rate).limit_denominator(FINEST_RATE)
    return max(fraction, Fraction(1, FINEST_RATE)).as_integer_ratio()


def check_rate(rate: float) -> float:
    """The rate as a float, or an error that says what a rate is."""
    try:
        if isinstance(rate, (bool, np.bool_, str, bytes)):
            raise TypeError
        number = float(rate)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`rate` must be a number. Received: rate={rate!r}"
        ) from error
    if not 0 < number <= 1:
        raise ValueError(
            "`rate`, the share of the visual tokens to keep, must be above 0 "
            f"and at most 1. Received: rate={rate}"
        )
    return number
