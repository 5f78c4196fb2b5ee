import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_visor.preprocessing.sequence import joint_positions


def test_two_images():
    # Expanded: 7 8 [a a a] 9 [b b] 5
    joint = joint_positions([[7, 8], [9], [5]], [3, 2])
    assert joint.token_ids.tolist() == [7, 8, 9, 5]
    assert joint.text_positions.tolist() == [0, 1, 5, 8]
    assert joint.vision_positions.tolist() == [2, 3, 4, 6, 7]
    assert joint.vision_image_ids.tolist() == [0, 0, 0, 1, 1]


def test_adjacent_images_and_empty_runs():
    joint = joint_positions([[], [], []], [1, 2])
    assert joint.token_ids.tolist() == []
    assert joint.text_positions.tolist() == []
    assert joint.vision_positions.tolist() == [0, 1, 2]
    assert joint.vision_image_ids.tolist() == [0, 1, 1]


def test_text_only():
    joint = joint_positions([[4, 4, 2]], [])
    assert joint.text_positions.tolist() == [0, 1, 2]
    assert joint.vision_positions.shape == joint.vision_image_ids.shape == (0,)


def test_all_int32():
    for segments in (([[]], []), ([np.arange(3), [1]], [2])):
        joint = joint_positions(*segments)
        for array in dataclasses.astuple(joint):
            assert array.dtype == np.int32 and array.ndim == 1


@given(st.data())
def test_equals_expanding_the_placeholders(data):
    lengths = data.draw(st.lists(st.integers(0, 5), max_size=4))
    text = st.lists(st.integers(0, 151_999), max_size=4)
    runs = [data.draw(text) for _ in range(len(lengths) + 1)]
    expanded = [("text", token) for token in runs[0]]
    for image, (length, run) in enumerate(zip(lengths, runs[1:], strict=True)):
        expanded += [("vision", image)] * length
        expanded += [("text", token) for token in run]

    joint = joint_positions(runs, lengths)
    rebuilt = {}
    for place, token in zip(joint.text_positions, joint.token_ids, strict=True):
        rebuilt[int(place)] = ("text", token)
    for place, image in zip(
        joint.vision_positions, joint.vision_image_ids, strict=True
    ):
        rebuilt[int(place)] = ("vision", image)
    assert rebuilt == dict(enumerate(expanded))


def test_numbers_must_fit():
    with pytest.raises(ValueError, match="Received: 2 and 2"):
        joint_positions([[1], [2]], [3, 3])
    with pytest.raises(ValueError, match="`vision_lengths`.*-1"):
        joint_positions([[1], [2]], [-1])
