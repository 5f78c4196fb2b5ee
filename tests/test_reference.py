"""The reference against transformers, and against numbers made by hand."""

import copy

import numpy as np
import pytest
import torch
from made_checkpoints import default_visor_config
from made_checkpoints import make_checkpoint
from reference import Reference
from reference import Shape
from reference import Streams
from reference import cross_attention_update
from reference import position_convolution
from reference import routing


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype="uint8")


# Alone in its prompt, an image is tiled: "many tiles" is shrunk to nine tiles'
# worth of tokens, and of "thinner than a patch" the base tile alone is left.
PROMPTS = {
    "single image": ("a <image>\nWhat is this?", [picture(50, 70)]),
    "many tiles": ("<image>Read it.", [picture(150, 140)]),
    "strip": ("What is<image>?", [picture(160, 8)]),
    "thinner than a patch": ("What is<image>?", [picture(3, 160)]),
    "several images": (
        "<image><image>\nWhich of them,<image> or none?",
        [picture(30, 90, 1), picture(80, 20, 2), picture(28, 28, 3)],
    ),
    "text only": ("<|im_start|>user \nHow many?<|im_end|>", []),
}
IMAGE_PROMPTS = [name for name, (_, images) in PROMPTS.items() if images]

# For what is reckoned by hand: one head, no epsilon.
ONE_HEAD = Shape(
    num_heads=1,
    num_key_value_heads=1,
    rope_theta=1e6,
    epsilon=0.0,
    cross_attention_num_heads=1,
    cross_attention_num_key_value_heads=1,
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return Reference(make_checkpoint(tmp_path_factory.mktemp("dense")))


@pytest.fixture(scope="module")
def visor(tmp_path_factory):
    directory = tmp_path_factory.mktemp("visor")
    return Reference(
        make_checkpoint(directory, visor_config=default_visor_config())
    )


# === The base model is transformers' ===


@pytest.mark.parametrize("name", PROMPTS)
def test_dense_logits_are_those_of_transformers(dense, name):
    prompt, images = PROMPTS[name]
    logits = dense.logits(prompt, images, budget=0)
    expected = dense.dense_transformers_logits(prompt, images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.5  # or the tolerance would mean nothing


@pytest.mark.parametrize("spelling", ["hub", "new", "mixed"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_spelling_is_the_same_model(tmp_path, dense, spelling, tied):
    directory = make_checkpoint(
        tmp_path, spelling=spelling, tie_word_embeddings=tied, num_shards=3
    )
    reference = Reference(directory)
    prompt, images = PROMPTS["single image"]
    logits = reference.logits(prompt, images, budget=0)
    np.testing.assert_allclose(
        logits,
        reference.dense_transformers_logits(prompt, images),
        rtol=0,
        atol=1e-4,
    )
    same_as_tied = np.allclose(logits, dense.logits(prompt, images, 0))
    assert same_as_tied == tied


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_into_float32(tmp_path, dense, dtype):
    reference = Reference(make_checkpoint(tmp_path, dtype=dtype))
    prompt, images = PROMPTS["single image"]
    logits = reference.logits(prompt, images, budget=0)
    np.testing.assert_allclose(
        logits,
        reference.dense_transformers_logits(prompt, images),
        rtol=0,
        atol=1e-4,
    )
    assert not np.array_equal(logits, dense.logits(prompt, images, 0))


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_is_that_of_transformers(dense, name):
    prompt, images = PROMPTS[name]
    ids = dense.greedy(prompt, images, 0, max_new_tokens=8, stop_ids=[])
    assert ids == dense.transformers_greedy(prompt, images, 8, stop_ids=[])
    stopped = dense.greedy(prompt, images, 0, 8, stop_ids=[ids[2]])
    assert stopped == ids[: ids.index(ids[2]) + 1]


def test_answers_are_not_one_token_over_and_over(dense, visor):
    answers = [
        reference.greedy(prompt, images, 0, max_new_tokens=8, stop_ids=[])
        for reference in (dense, visor)
        for prompt, images in PROMPTS.values()
    ]
    assert np.mean([len(set(answer)) for answer in answers]) > 3


def test_visual_tokens_precede_the_final_norm_of_the_encoder(dense):
    """ "the last layer's output before any final norm"."""
    prepared = dense.prepare("<image>", [picture(28, 28)])
    encoder = dense.model.model.vision_tower
    outputs = []
    hook = encoder.encoder.layers[-1].register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    with torch.no_grad():
        encoder(prepared.model_inputs["pixel_values"][0])
        hook.remove()
        base_tile = dense.model.model.multi_modal_projector(outputs[0])[0]
    torch.testing.assert_close(prepared.visual_tokens[:16], base_tile)


# === Streams ===


def test_positions_are_those_of_the_expanded_prompt(dense):
    prompt = "ab<image>c<image>"
    prepared = dense.prepare(prompt, [picture(30, 90), picture(20, 20)])
    a_b, c = dense.tokenizer.encode("ab"), dense.tokenizer.encode("c")
    assert prepared.token_ids.tolist() == a_b + c
    # Each image is one tile of 16 tokens, and a newline.
    start = len(a_b)
    assert prepared.text_positions.tolist() == [*range(start), start + 17]
    assert prepared.vision_positions.tolist() == [
        *range(start, start + 17),
        *range(start + 18, start + 35),
    ]
    assert prepared.vision_image_ids.tolist() == [0] * 17 + [1] * 17


def test_only_self_attention_that_is_on_changes_the_visual_tokens(visor):
    prompt, images = PROMPTS["single image"]
    before = visor.prepare(prompt, images).visual_tokens.numpy()
    for budget, on in enumerate(visor.budgets):
        changed = []
        previous = before
        for layer, tokens in enumerate(
            visor.visual_tokens(prompt, images, budget)
        ):
            if not np.array_equal(tokens, previous):
                changed.append(layer)
            previous = tokens
        assert changed == on


# === VISOR ===


def test_convolution_by_hand_and_no_leak_between_images():
    """Kernel (1, 10, ..., 10^6): digits of the result show what was seen."""
    visual = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    image_ids = torch.tensor([0, 0, 0, 1, 1])
    weight = 10.0 ** torch.arange(7).reshape(1, 1, 7)
    out = position_convolution(visual, image_ids, weight, torch.tensor([0.5]))
    # Token 0 sees itself at the middle tap (10^3), token 1 at 10^4, ...
    assert out[:, 0].tolist() == [
        321000.5,
        32100.5,
        3210.5,
        54000.5,
        5400.5,
    ]


def test_a_token_before_the_image_gets_exactly_zero(visor):
    prepared = visor.prepare("one two<image> three", [picture(40, 40)])
    streams = visor.embed(prepared)
    update = cross_attention_update(
        streams, visor._scope("visor.cross_attention.0."), visor.shape
    )
    before = prepared.text_positions < prepared.vision_positions[0]
    assert 0 < before.sum() < len(before)
    assert (update[before] == 0).all()
    assert (update[~before].abs() > 1e-3).any(-1).all()


def test_cross_attention_by_hand():
    """Two visual tokens, one head of width 2, weights that do nothing."""
    one, zero = torch.ones(2), torch.zeros(2)
    weights = {
        "query_norm.weight": one,
        "key_value_norm.weight": 2 * one,
        "q_proj.weight": torch.eye(2),
        "q_proj.bias": zero,
        "k_proj.weight": torch.eye(2),
        "k_proj.bias": zero,
        "v_proj.weight": torch.eye(2),
        "v_proj.bias": torch.tensor([0.0, 5.0]),
        "o_proj.weight": 3 * torch.eye(2),
        "position.weight": torch.zeros(2, 1, 7),
        "position.bias": torch.tensor([0.0, 1.0]),
    }
    streams = Streams(
        text=torch.tensor([[7.0, 7.0], [0.0, 4.0]]),
        # With the bias of the convolution: (3, 3) and (0, 2).
        visual=torch.tensor([[3.0, 2.0], [0.0, 1.0]]),
        text_positions=torch.tensor([1, 3]),
        vision_positions=torch.tensor([0, 2]),
        vision_image_ids=torch.tensor([0, 1]),
    )
    update = cross_attention_update(streams, weights, ONE_HEAD)
    # Norm: (2, 2) and (0, 2 sqrt 2); queries (1, 1) and (0, sqrt 2).
    # Token 0 sees the first image only: value (2, 2 + 5), times 3.
    # Token 1 scores them 2 sqrt 2 / sqrt 2 = 2 and 4 / sqrt 2 = 2 sqrt 2.
    share = 1 / (1 + np.exp(2 * np.sqrt(2) - 2))
    second = 2 * share + 2 * np.sqrt(2) * (1 - share) + 5
    np.testing.assert_allclose(
        update, [[6, 21], [6 * share, 3 * second]], rtol=1e-6
    )


def test_later_images_change_nothing_before_them(visor):
    """The logits before an image don't know it, under any budget."""
    first, second, other = (picture(30, 30, seed) for seed in range(3))
    prompt = "<image>one<image>two"
    text_before = len(visor.tokenizer.encode("one"))
    for budget in range(len(visor.budgets)):
        one = visor.logits(prompt, [first, second], budget)
        two = visor.logits(prompt, [first, other], budget)
        np.testing.assert_array_equal(one[:text_before], two[:text_before])
        assert np.abs(one - two)[text_before:].max() > 0.1


def test_budgets_differ_and_images_matter(visor):
    prompt, images = PROMPTS["single image"]
    logits = [
        visor.logits(prompt, images, budget)
        for budget in range(len(visor.budgets))
    ]
    others = visor.logits(prompt, [picture(50, 70, seed=9)], budget=0)
    for one, two in [(0, 1), (1, 2), (0, 2)]:
        assert np.abs(logits[one] - logits[two])[-1].max() > 0.1
    assert np.abs(logits[0] - others)[-1].max() > 0.1


def test_without_images_every_budget_is_the_base(visor):
    prompt, images = PROMPTS["text only"]
    expected = visor.dense_transformers_logits(prompt, images)
    for budget in range(len(visor.budgets)):
        np.testing.assert_allclose(
            visor.logits(prompt, images, budget), expected, rtol=0, atol=1e-4
        )
        ids = visor.greedy(prompt, images, budget, 4, stop_ids=[])
        assert ids == visor.transformers_greedy(prompt, images, 4, [])


@pytest.mark.parametrize("name", IMAGE_PROMPTS)
def test_hidden_logits(dense, visor, name):
    """All layers: transformers. None: transformers, reading the text alone."""
    prompt, images = PROMPTS[name]
    np.testing.assert_allclose(
        dense.hidden_logits(prompt, images, list(range(6))),
        dense.dense_transformers_logits(prompt, images),
        rtol=0,
        atol=1e-4,
    )
    prepared = dense.prepare(prompt, images)
    with torch.no_grad():
        blind = dense.model(
            input_ids=prepared.token_ids[None],
            position_ids=prepared.text_positions[None],
        ).logits[0]
    np.testing.assert_allclose(
        dense.hidden_logits(prompt, images, []), blind, rtol=0, atol=1e-4
    )
    # A VISOR whose output projections are zero, as they are when it is made.
    silent = copy.copy(visor)
    silent.weights = dict(visor.weights)
    for layer in visor.visor_config["cross_attention_layers"]:
        name = f"visor.cross_attention.{layer}.o_proj.weight"
        silent.weights[name] = torch.zeros_like(visor.weights[name])
    for budget, on in enumerate(visor.budgets):
        np.testing.assert_array_equal(
            silent.logits(prompt, images, budget),
            dense.hidden_logits(prompt, images, on),
        )


# === Policy ===


def test_routing_by_hand():
    policy = {
        "norm.weight": torch.tensor([2.0, 1.0]),
        "fc1.weight": torch.tensor([[0.5, 0.0], [0.0, -1.0]]),
        "fc1.bias": torch.tensor([0.0, 0.0]),
        "fc2.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        "fc2.bias": torch.tensor([0.0, 0.0, 7.0]),
    }
    # The norm gives (2, 1), the first layer (1, -1); GELU(x) = x Phi(x).
    logits = routing(torch.tensor([4.0, 4.0]), policy, ONE_HEAD)
    np.testing.assert_allclose(
        logits, [0.841344746, -0.158655254, 7.0], rtol=1e-6
    )


def test_route_is_transformers_below_the_first_optional_layer(tmp_path):
    """Dense below layer 3, so transformers can run the routing token there."""
    visor_config = default_visor_config(
        cross_attention_layers=[],
        self_attention_layers=[0, 1, 2, 3, 4, 5],
        budgets=[[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 4, 3, 5]],
    )
    visor = Reference(make_checkpoint(tmp_path, visor_config=visor_config))
    assert visor.first_optional_layer() == 3
    for prompt, images in PROMPTS.values():
        prepared = visor.prepare(prompt, images)
        decoder = visor.model.model.language_model
        with torch.no_grad():
            joint = decoder.embed_tokens(prepared.input_ids)
            joint[prepared.vision_positions] = prepared.visual_tokens
            token = visor.weights["visor.policy.routing_token"]
            hidden = decoder(
                inputs_embeds=torch.cat((joint, token[None]))[None],
                output_hidden_states=True,
            ).hidden_states[3][0, -1]
            policy = visor._scope("visor.policy.")
            expected = routing(hidden, policy, visor.shape)
        np.testing.assert_allclose(
            visor.route(prompt, images), expected, rtol=0, atol=1e-4
        )


def test_first_optional_layer(visor):
    visor = copy.copy(visor)
    visor.budgets = [[], [4], [1, 4]]
    assert visor.first_optional_layer() == 1
    visor.budgets = [[1], [1, 4]]
    assert visor.first_optional_layer() == 4
    visor.budgets = [[1], [4]]
    assert visor.first_optional_layer() == 1


def test_route_sees_the_images_through_cross_attention(visor):
    prompt, images = PROMPTS["single image"]
    one = visor.route(prompt, images)
    two = visor.route(prompt, [picture(50, 70, seed=9)])
    assert one.shape == (len(visor.budgets),)
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize(
    ("rule", "tolerance", "logits", "chosen"),
    [
        ("argmax", 0.0, [0.0, 2.0, 1.0], 1),
        ("argmax", 0.0, [0.0, 2.0, 3.0], 2),
        # sigmoid: .5, .881, .731
        ("tolerance", 0.0, [0.0, 2.0, 1.0], 1),
        ("tolerance", 0.22, [0.0, 2.0, 1.0], 1),
        ("tolerance", 0.24, [0.0, 2.0, 1.0], 0),
        ("tolerance", 0.0, [0.0, 2.0, 3.0], 2),
    ],
)
def test_chosen_budget(visor, monkeypatch, rule, tolerance, logits, chosen):
    visor = copy.copy(visor)
    visor.visor_config = default_visor_config(
        policy_rule=rule, policy_tolerance=tolerance
    )
    monkeypatch.setattr(visor, "route", lambda *args: np.array(logits))
    assert visor.chosen_budget("<image>", [picture(9, 9)]) == chosen


def test_without_a_policy_the_full_budget_runs(tmp_path, dense):
    visor_config = default_visor_config(policy_hidden_dim=None)
    visor = Reference(make_checkpoint(tmp_path, visor_config=visor_config))
    assert visor.chosen_budget("<image>", [picture(9, 9)]) == 2
    assert dense.chosen_budget("<image>", [picture(9, 9)]) == 0
    with pytest.raises(ValueError, match="nothing to route"):
        visor.route("<image>", [picture(9, 9)])


# === The checkpoints ===


def test_checkpoints_follow_their_seed(tmp_path, dense):
    again = Reference(make_checkpoint(tmp_path / "again"))
    other = Reference(make_checkpoint(tmp_path / "other", seed=1))
    for name, tensor in dense.weights.items():
        assert torch.equal(tensor, again.weights[name])
        assert not torch.equal(tensor, other.weights[name])


def test_tokenizer_splits_as_qwen2_and_keeps_the_hubs_order(dense):
    tokenizer = dense.tokenizer
    ids = tokenizer.encode("<|endoftext|><|im_start|><|im_end|><image><video>")
    assert ids == [400, 401, 402, 403, 404]
    assert tokenizer.decode(0) == "!"
    text = "What's (a?\n\n 12 图片\tà gauche."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # One token where GPT-2's splitting gives two: a question's last mark with
    # the line break, a bracket with its letter, a blank with the line break.
    assert tokenizer.tokenize("?\n") == ["?Ċ"]
    assert tokenizer.tokenize("(a") == ["(a"]
    assert tokenizer.tokenize(" \n") == ["ĠĊ"]
    assert tokenizer.tokenize("12") == ["1", "2"]
