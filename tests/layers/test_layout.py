import pytest

import keras_visor
from keras_visor.layers.layout import check_layout
from keras_visor.layers.layout import complete_layout


@pytest.mark.parametrize(
    "num_layers, cross, self_attention, budgets",
    [
        (2, [0], [1], [[], [1]]),
        (6, [0, 3], [1, 4], [[], [4], [1, 4]]),
        (7, [0, 3, 6], [1, 4], [[], [4], [1, 4]]),
        (8, [0, 3, 6], [1, 4, 7], [[], [7], [4, 7], [1, 4, 7]]),
    ],
)
def test_uniform_layout_by_hand(num_layers, cross, self_attention, budgets):
    assert keras_visor.uniform_layout(num_layers) == {
        "cross_attention_layers": cross,
        "self_attention_layers": self_attention,
        "budgets": budgets,
    }


def test_uniform_layout_of_the_real_shape_passes_its_own_check():
    layout = keras_visor.uniform_layout(24)
    check_layout(24, **layout)
    assert len(layout["cross_attention_layers"]) == 8
    assert len(layout["self_attention_layers"]) == 8
    assert [len(budget) for budget in layout["budgets"]] == list(range(9))


@pytest.mark.parametrize("num_layers", [1, 0, -3])
def test_uniform_layout_refuses(num_layers):
    with pytest.raises(ValueError, match=f"num_layers={num_layers}"):
        keras_visor.uniform_layout(num_layers)


@pytest.mark.parametrize(
    "cross, self_attention, budgets",
    [
        ([], [0, 1, 2, 3], [[0, 1, 2, 3]]),
        ([3], [], [[]]),
        ([0], [1, 2], [[], [1], [2], [1, 2]]),
        ([0], [1, 2], [[1]]),
    ],
)
def test_check_accepts(cross, self_attention, budgets):
    check_layout(4, cross, self_attention, budgets)


@pytest.mark.parametrize(
    "cross, self_attention, budgets, message",
    [
        ([0, 4], [1], [[1]], r"`cross_attention_layers`.*0 to 3.*\[4\]"),
        ([-1], [1], [[1]], r"`cross_attention_layers`.*0 to 3.*\[-1\]"),
        ([0], [1.0], [[]], r"`self_attention_layers`.*0 to 3.*\[1.0\]"),
        ([0], [True], [[]], r"`self_attention_layers`.*0 to 3.*\[True\]"),
        ([3, 0], [1], [[1]], r"`cross_attention_layers`.*ascending.*\[3, 0\]"),
        ([0], [1, 1], [[1]], r"`self_attention_layers`.*once.*\[1, 1\]"),
        ([0, 2], [1, 2], [[]], r"disjoint.*\[2\]"),
        ([0], [1], [], r"`budgets` must hold at least one.*\[\]"),
        ([0], [1, 2], [[7]], r"`budgets`.*0 to 3.*\[7\]"),
        ([0], [1, 2], [[2, 1]], r"`budgets`.*ascending.*\[2, 1\]"),
        ([0], [1, 2], [[1, 3]], r"subset.*\[1, 3\], where \[3\] is not"),
        ([0], [1, 2], [[1], []], r"cheapest to the dearest.*\[\[1\], \[\]\]"),
        ([0], [1, 2], [[1], [1]], r"must differ.*\[\[1\], \[1\]\]"),
    ],
)
def test_check_refuses(cross, self_attention, budgets, message):
    with pytest.raises(ValueError, match=message):
        check_layout(4, cross, self_attention, budgets)


@pytest.mark.parametrize(
    "cross, self_attention, budgets, message",
    [
        (0, [1], [[1]], "`cross_attention_layers` must hold a list.*0"),
        ([0], 1, [[1]], "`self_attention_layers` must hold a list.*1"),
        ([0], [1], 1, "`budgets` must hold lists.*1"),
        ([0], [1], [1], "`budgets` must hold lists.*1"),
    ],
)
def test_what_is_no_list_is_refused(cross, self_attention, budgets, message):
    with pytest.raises(ValueError, match=message):
        complete_layout(4, cross, self_attention, budgets)


@pytest.mark.parametrize(
    "cross, self_attention, budgets, expected",
    [
        (None, None, None, ([], [0, 1, 2, 3], [[0, 1, 2, 3]])),
        (None, None, [[], [2]], ([], [0, 1, 2, 3], [[], [2]])),
        ([0], None, None, ([0], [], [[]])),
        (None, [1, 3], None, ([], [1, 3], [[], [3], [1, 3]])),
        ((0,), (1, 3), ((1,),), ([0], [1, 3], [[1]])),
    ],
)
def test_defaults_by_hand(cross, self_attention, budgets, expected):
    layout = complete_layout(4, cross, self_attention, budgets)
    assert tuple(layout.values()) == expected
    check_layout(4, **layout)
