"""What the tests of the models ask: prompts and their images.

Each prompt has 33 to 37 text tokens and, where it has images, 49 to 56 visual
tokens of a `made_checkpoints` model: one bucket each, so that all of them run
in the same few compiled programs.
"""

import numpy as np

# Text tokens of prompt and answer together, in the tests that generate.
MAX_LENGTH = 56


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype="uint8")


def question(text: str, num_images: int = 0) -> str:
    """The chat template, by hand."""
    images = "<image>" * num_images
    return f"<|im_start|>user {images}\n{text}<|im_end|><|im_start|>assistant\n"


SAMPLES = {
    "one image": (
        question("What is the colour of the largest shape here? Is it red?", 1),
        [picture(24, 50)],
    ),
    "strip": (
        question(
            "Read the small value in this strip (it's the longest one)!", 1
        ),
        [picture(10, 100, 1)],
    ),
    "several images": (
        question("How many of them have a red circle or a bar?", 3),
        [picture(30, 30, 2), picture(90, 20, 3), picture(25, 31, 4)],
    ),
    "conversation": (
        "<|im_start|>user <image><image>\nThe two?<|im_end|>"
        "<|im_start|>assistant\nNo.<|im_end|>"
        "<|im_start|>user <image>\nThis one?<|im_end|>"
        "<|im_start|>assistant\n",
        [picture(28, 28, 5), picture(60, 40, 6), picture(33, 77, 7)],
    ),
    "text only": (
        question("How many rows are in the small table? Is it more than 12?"),
        [],
    ),
}
# Shrunk to nine tiles' worth of visual tokens; lengths of its own.
MANY_TILES = (question("Describe it.", 1), [picture(160, 150, 8)])
