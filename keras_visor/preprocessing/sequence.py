"""Where text tokens and visual tokens stand in one prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class JointSequence:
    """One prompt as two streams, text and vision, and their positions.

    A position is a token's index in the prompt once every image has been
    expanded to its visual tokens; over both streams together, the positions
    are `0, 1, 2, ...`, each once.

    Args:
        token_ids: int32 array of shape `(text_length,)`.
        text_positions: int32 array of shape `(text_length,)`.
        vision_positions: int32 array of shape `(vision_length,)`.
        vision_image_ids: int32 array of shape `(vision_length,)`. The image
            that each visual token belongs to: 0, 1, 2 in the prompt's order.
    """

    token_ids: np.ndarray
    text_positions: np.ndarray
    vision_positions: np.ndarray
    vision_image_ids: np.ndarray


def joint_positions(
    text_runs: Sequence[Sequence[int]], vision_lengths: Sequence[int]
) -> JointSequence:
    """Lays out a prompt: a text run, an image, a text run, ..., a text run.

    Args:
        text_runs: sequence of sequences of int. The token ids before, between
            and after the images, as `prompt.split("<image>")` cuts the prompt:
            one run more than there are images. Runs may be empty.
        vision_lengths: sequence of int. The number of visual tokens of each
            image.

    Returns:
        A `JointSequence`.

    Raises:
        ValueError: The numbers of runs and images don't fit together, or a
            length is negative.

    Example:

    ```python
    joint = joint_positions([[5, 6], [7]], [3])
    joint.text_positions  # [0, 1, 5]
    joint.vision_positions  # [2, 3, 4]
    ```
    """
    if len(text_runs) != len(vision_lengths) + 1:
        raise ValueError(
            "`text_runs` must be one more than `vision_lengths`. Received: "
            f"{len(text_runs)} and {len(vision_lengths)}."
        )
    if any(length < 0 for length in vision_lengths):
        raise ValueError(
            "`vision_lengths` must be 0 or more. "
            f"Received: {list(vision_lengths)}."
        )
    # Text and images alternate: run 0, image 0, run 1, image 1, ..., run n.
    lengths = np.zeros(2 * len(text_runs) - 1, "int64")
    lengths[0::2] = [len(run) for run in text_runs]
    lengths[1::2] = vision_lengths
    segment_ids = np.repeat(np.arange(len(lengths)), lengths)
    is_vision = segment_ids % 2 == 1
    return JointSequence(
        token_ids=np.array(
            [token_id for run in text_runs for token_id in run], "int32"
        ),
        text_positions=np.flatnonzero(~is_vision).astype("int32"),
        vision_positions=np.flatnonzero(is_vision).astype("int32"),
        vision_image_ids=(segment_ids[is_vision] // 2).astype("int32"),
    )
