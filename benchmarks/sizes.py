"""How large the benchmark's models and prompts are: real, or quick to run."""

from dataclasses import dataclass

from real_shape_checkpoint import TEXT
from real_shape_checkpoint import VISION

# Where only the language model counts: visual tokens are given, and the
# checkpoint has an encoder because it must.
TINY_VISION = {
    **VISION,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 28,
}
TINY_TEXT = {
    **TEXT,
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        text: dict. The language model's config.
        vision: dict. The encoder's config, for the rows from picture to first
            token.
        visual_tokens: Lengths at which all peers are compared.
        longer: Lengths at which the minimal budget goes on alone.
        decoded_visual_tokens: Length for decoding, routing and the cache.
        text_tokens: Length of the prompt's text.
        new_tokens: How many tokens are decoded.
        batches: Batch sizes of decoding.
        mixed_batch: Batch size of the rows with mixed budgets.
        sides: Height and width, in pixels, of the pictures that are encoded.
        roofline: Width of the bare matmul.
    """

    text: dict
    vision: dict
    visual_tokens: tuple[int, ...]
    longer: tuple[int, ...]
    decoded_visual_tokens: int
    text_tokens: int
    new_tokens: int
    batches: tuple[int, ...]
    mixed_batch: int
    sides: tuple[int, ...]
    roofline: int


REAL = Sizes(
    text=TEXT,
    vision=VISION,
    visual_tokens=(1_485, 3_699, 7_371),
    longer=(14_742, 29_484),
    decoded_visual_tokens=3_699,
    text_tokens=64,
    new_tokens=64,
    batches=(1, 8),
    mixed_batch=8,
    # One tile and nine, beside the picture in small.
    sides=(384, 1152),
    roofline=2048,
)
# Few shapes, which are what takes the time: they are compiled.
QUICK = Sizes(
    text=TINY_TEXT,
    vision=TINY_VISION,
    visual_tokens=(24,),
    longer=(48,),
    decoded_visual_tokens=24,
    text_tokens=16,
    new_tokens=4,
    batches=(1,),
    mixed_batch=4,
    sides=(28,),
    roofline=64,
)
