"""Prompts whose pictures are visual tokens already."""

import numpy as np

# Text before the picture; the rest follows it.
TOKENS_BEFORE = 4
# Ids of the checkpoint's byte tokens, none of them special.
NUM_TOKENS = 256


def make_prompt(sizes, vision_length: int) -> dict[str, np.ndarray]:
    """One prompt: the backbone's inputs, with `vision` for the picture.

    Positions are those of the joint sequence: a little text, the picture, the
    question.
    """
    rng = np.random.default_rng(vision_length)
    text_length, width = sizes.text_tokens, sizes.text["hidden_size"]
    positions = np.arange(text_length, dtype="int32")
    positions[TOKENS_BEFORE:] += vision_length
    vision = rng.standard_normal((vision_length, width), "float32")
    inputs = {
        "token_ids": rng.integers(NUM_TOKENS, size=text_length, dtype="int32"),
        "padding_mask": np.ones(text_length, "bool"),
        "text_positions": positions,
        # As large as the embedding's rows.
        "vision": vision * np.float32(0.02),
        "vision_positions": np.arange(vision_length, dtype="int32")
        + TOKENS_BEFORE,
        "vision_mask": np.ones(vision_length, "bool"),
        "vision_image_ids": np.zeros(vision_length, "int32"),
    }
    return {name: values[None] for name, values in inputs.items()}


def repeat(inputs: dict, batch: int) -> dict:
    """A batch of the same prompt."""
    return {
        name: np.repeat(values, batch, axis=0)
        for name, values in inputs.items()
    }
