import types

import numpy as np
import pytest

import keras_visor
from keras_visor import reduction
from keras_visor.analysis import count_flops


def stub(**changes):
    """Six layers of width 8: heads of width 2, key/value width 4."""
    attributes = {
        "num_layers": 6,
        "hidden_dim": 8,
        "intermediate_dim": 10,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "cross_attention_num_heads": 4,
        "cross_attention_num_key_value_heads": 1,
        "position_kernel_size": 7,
        **keras_visor.uniform_layout(6),
        **changes,
    }
    return types.SimpleNamespace(**attributes)


def qwen2_0_5b():
    return stub(
        num_layers=24,
        hidden_dim=896,
        intermediate_dim=4864,
        num_query_heads=14,
        num_key_value_heads=2,
        cross_attention_num_heads=14,
        cross_attention_num_key_value_heads=2,
        **keras_visor.uniform_layout(24),
    )


# By hand, 3 text and 5 visual tokens. A token's matrices: query and output
# 2 * 64, key and value 2 * 32, feed-forward 3 * 80: 432, doubled 864.
TEXT_LAYER = 3 * 864 + 4 * 8 * 9  # 2880
JOINT_LAYER = 8 * 864 + 4 * 8 * 64  # 8960
# Query and output 3 * 2 * 128; key and value (width 2) 5 * 2 * 32; attention
# 4 * 3 * 5 * 8; convolution 2 * 5 * 8 * 7.
CROSS = 768 + 320 + 480 + 560  # 2128


@pytest.mark.parametrize(
    "budget, expected",
    [
        (0, 6 * TEXT_LAYER + 2 * CROSS),
        (1, 5 * TEXT_LAYER + JOINT_LAYER + 2 * CROSS),
        (2, 4 * TEXT_LAYER + 2 * JOINT_LAYER + 2 * CROSS),
        (None, 6 * JOINT_LAYER),
    ],
)
def test_by_hand(budget, expected):
    assert (TEXT_LAYER, JOINT_LAYER, CROSS) == (2880, 8960, 2128)
    flops = count_flops(stub(), 3, 5, budget)
    assert flops == expected
    assert type(flops) is int


def test_fewer_visual_tokens():
    """ceil(0.5 * 5) = 3 visual tokens."""
    reducer = reduction.VisionZip(0.5)
    joint_layer = 6 * 864 + 4 * 8 * 36
    cross = 768 + 3 * 2 * 32 + 4 * 3 * 3 * 8 + 2 * 3 * 8 * 7
    for budget, expected in (
        (1, 5 * TEXT_LAYER + joint_layer + 2 * cross),
        (None, 6 * joint_layer),
    ):
        flops = count_flops(stub(), 3, 5, budget, reducer)
        assert flops == expected == count_flops(stub(), 3, 3, budget)
    whole = count_flops(stub(), 3, 5, 1, reduction.VisionZip(1))
    assert whole == count_flops(stub(), 3, 5, 1)


def test_fewer_visual_tokens_after_some_layers():
    few = 6 * 864 + 4 * 8 * 36
    reducer = reduction.FastV(0.5, layer=1)
    flops = count_flops(stub(), 3, 5, None, reducer)
    assert flops == 2 * JOINT_LAYER + 4 * few
    # Cross-attention at 0 and 3, self-attention at 4; then ceil(0.5 * 3).
    cross = 768 + 3 * 2 * 32 + 4 * 3 * 3 * 8 + 2 * 3 * 8 * 7
    reducer = reduction.PyramidDrop(0.5, layers=[0, 3])
    fewer = 5 * 864 + 4 * 8 * 25
    flops = count_flops(stub(), 3, 5, 1, reducer)
    assert flops == 5 * TEXT_LAYER + CROSS + cross + fewer


def test_cross_attention_head_layout_counts():
    full_heads = stub(cross_attention_num_key_value_heads=4)
    added = count_flops(full_heads, 3, 5, 0) - count_flops(stub(), 3, 5, 0)
    # Two layers, keys and values each 6 wider, 5 tokens, 8 inputs, doubled.
    assert added == 2 * 2 * 6 * 5 * 8 * 2


@pytest.mark.parametrize("budget", [None, 0, 1, 2])
def test_no_image_no_image_work(budget):
    assert count_flops(stub(), 3, 0, budget) == 6 * TEXT_LAYER


def test_a_token_and_layer_of_the_paper():
    """29.8 MFLOP a token a layer at Qwen2-0.5B's shape."""
    backbone = qwen2_0_5b()
    attention = 4 * 896
    a_token = count_flops(backbone, 1, 0) // 24 - attention
    assert a_token == 29_818_880
    # However many tokens there are, and wherever they come from.
    total = count_flops(backbone, 60, 3699)
    assert total == 24 * (3759 * a_token + attention * 3759**2)


def test_saving_of_the_paper():
    """8.6x with two to three of the eight self-attention layers on."""
    backbone = qwen2_0_5b()
    dense = count_flops(backbone, 64, 3699)
    two, three = (count_flops(backbone, 64, 3699, index) for index in (2, 3))
    assert dense / three < 8.6 < dense / two


@pytest.mark.parametrize("vision_length", [1, 192, 3699])
def test_budgets_ascend(vision_length):
    backbone = qwen2_0_5b()
    counts = [
        count_flops(backbone, 64, vision_length, index)
        for index in range(len(backbone.budgets))
    ]
    assert len(counts) == 9
    assert all(a < b for a, b in zip(counts, counts[1:], strict=False))


def test_numpy_integers_do_not_overflow():
    lengths = np.int32(64), np.int32(3699)
    backbone = qwen2_0_5b()
    for budget in (None, np.int64(8)):
        flops = count_flops(backbone, *lengths, budget)
        expected = budget if budget is None else 8
        assert flops == count_flops(backbone, 64, 3699, expected)
        assert type(flops) is int


@pytest.mark.parametrize("budget", [3, -1])
def test_refuses_unknown_budgets(budget):
    with pytest.raises(
        ValueError, match=f"`budget` .* from 0 to 2.*Received: {budget}"
    ):
        count_flops(stub(), 3, 5, budget)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((-1, 5), ValueError, "`text_length` .*0 or more.*-1"),
        ((3, -2), ValueError, "`vision_length` .*0 or more.*-2"),
        ((3.0, 5), TypeError, "`text_length` must be an integer.*3.0"),
        ((3, None), TypeError, "`vision_length` must be an integer.*None"),
        ((3, 5, "full"), TypeError, "`budget` must be an integer.*'full'"),
        ((3, 5, True), TypeError, "`budget` must be an integer.*True"),
        ((3, 5, 0, "hired:0.5"), TypeError, "`reducer` must be one.*hired"),
        (
            (3, 5, None, reduction.FastV(0.5, layer=99)),
            ValueError,
            r"`reducer` .*layers from 0 to 5.*layer=99.*\[99\]",
        ),
        (
            (3, 5, 0, reduction.FastV(0.5, layer=-1)),
            ValueError,
            "`reducer` .*layer=-1",
        ),
    ],
)
def test_refuses_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        count_flops(stub(), *arguments)
