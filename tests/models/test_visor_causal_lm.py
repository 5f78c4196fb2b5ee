"""Answers of the task, against the reference and against `transformers`."""

import copy
import dataclasses
import functools
import warnings

import keras
import keras_hub
import numpy as np
import pytest
import torch
from keras import ops
from model_checks import batch
from model_checks import check_rows
from model_checks import outputs
from model_checks import preprocess
from PIL import Image
from samples import MANY_TILES
from samples import MAX_LENGTH
from samples import SAMPLES
from samples import picture
from samples import question

from keras_visor import EncodedImages
from keras_visor import VisorCausalLM
from keras_visor import uniform_layout
from keras_visor.generation.generator import Generator
from keras_visor.reduction import VisionZip

BUDGETS = [0, 1, 2]
NUM_TOKENS = 37  # of the longest prompt


def with_many_tiles(**columns):
    prompt, images = MANY_TILES
    samples = batch(**columns)
    samples["prompts"].append(prompt)
    samples["images"].append(images)
    return samples


def ask(lm, samples, **arguments):
    """The answers alone."""
    arguments = {"max_length": MAX_LENGTH, "strip_prompt": True, **arguments}
    return lm.generate(samples, **arguments)


@functools.cache
def expected_answer(reference, name, budget):
    prompt, images = SAMPLES[name]
    length = len(reference.prepare(prompt, images).token_ids)
    ids = reference.greedy(prompt, images, budget, MAX_LENGTH - length)
    return reference.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def fresh(dense_directory):
    """A VISOR made from a plain checkpoint."""
    return VisorCausalLM.from_preset(dense_directory, **uniform_layout(6))


# === Logits ===


def test_dense_logits_are_those_of_transformers(dense, dense_reference):
    assert dense.backbone.budgets == [[0, 1, 2, 3, 4, 5]]
    samples = with_many_tiles()
    expected = [
        dense_reference.dense_transformers_logits(prompt, images)
        for prompt, images in zip(*samples.values(), strict=True)
    ]
    # `transformers` itself is up to 5e-5 away from its own double precision.
    check_rows(outputs(dense, preprocess(dense, samples)), expected, 1e-4)
    assert np.concatenate(expected).std() > 0.5


@pytest.mark.parametrize("budget", BUDGETS)
def test_logits_of_every_budget(visor, visor_reference, budget):
    # Within 5e-5 of the reference, any two backends are within 1e-4.
    samples = with_many_tiles(budget=[budget] * 6)
    expected = [
        visor_reference.logits(prompt, images, budget)
        for prompt, images in zip(
            samples["prompts"], samples["images"], strict=True
        )
    ]
    check_rows(outputs(visor, preprocess(visor, samples)), expected)


def test_a_call_is_not_compiled(visor, visor_reference):
    """`lm(x)` as a user writes it."""
    inputs = preprocess(visor, batch(["one image"]))
    expected = visor_reference.logits(*SAMPLES["one image"], budget=2)
    check_rows(ops.convert_to_numpy(visor(inputs)), [expected])


def test_alone_and_in_a_mixed_batch(visor):
    budgets = [1, 2, 0, 1, 2, 0]
    samples = with_many_tiles(budget=budgets)
    mixed = outputs(visor, preprocess(visor, samples))
    for row, name in enumerate(SAMPLES):
        inputs = preprocess(visor, batch([name], budget=[budgets[row]]))
        alone = outputs(visor, inputs)[0, inputs["padding_mask"][0]]
        check_rows(mixed[row : row + 1], [alone])


def test_text_alone_is_the_base_under_every_budget(visor, dense_reference):
    prompt, images = SAMPLES["text only"]
    expected = dense_reference.dense_transformers_logits(prompt, images)
    ids = dense_reference.transformers_greedy(
        prompt, images, MAX_LENGTH - NUM_TOKENS
    )
    answer = dense_reference.tokenizer.decode(ids, skip_special_tokens=True)
    for budget in BUDGETS:
        samples = batch(["text only"], budget=[budget])
        check_rows(outputs(visor, preprocess(visor, samples)), [expected])
        assert ask(visor, batch(["text only"]), budget=budget) == [answer]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_fresh_visor_hides_the_visual_tokens(fresh, dense_reference, budget):
    samples = with_many_tiles(budget=[budget] * 6)
    layers = [[], [4], [1, 4]][budget]
    expected = [
        dense_reference.hidden_logits(prompt, images, layers)
        for prompt, images in zip(
            samples["prompts"], samples["images"], strict=True
        )
    ]
    check_rows(outputs(fresh, preprocess(fresh, samples)), expected, 1e-4)


# === Greedy answers ===


@pytest.mark.parametrize("name", SAMPLES)
def test_dense_answers_are_those_of_transformers(dense, dense_reference, name):
    prompt, images = SAMPLES[name]
    length = len(dense_reference.prepare(prompt, images).token_ids)
    ids = dense_reference.transformers_greedy(
        prompt, images, MAX_LENGTH - length
    )
    answer = dense_reference.tokenizer.decode(ids, skip_special_tokens=True)
    assert ask(dense, batch([name])) == [answer]


@pytest.mark.parametrize("budget", BUDGETS)
def test_answers_of_every_budget(visor, visor_reference, budget):
    answers = [
        expected_answer(visor_reference, name, budget) for name in SAMPLES
    ]
    assert len(set(answers)) == len(SAMPLES)
    for name, answer in zip(SAMPLES, answers, strict=True):
        assert ask(visor, batch([name]), budget=budget) == [answer]


def test_a_batch_of_budgets_images_and_lengths(visor, visor_reference):
    budgets = [2, 0, 1, 0, 2]
    answers, report = ask(visor, batch(), budget=budgets, return_report=True)
    assert answers == [
        expected_answer(visor_reference, name, budget)
        for name, budget in zip(SAMPLES, budgets, strict=True)
    ]
    prepared = [visor_reference.prepare(*sample) for sample in SAMPLES.values()]
    assert report["budget"].tolist() == budgets
    assert report["text_tokens"].tolist() == [
        len(p.token_ids) for p in prepared
    ]
    assert report["vision_tokens"].tolist() == [
        len(p.vision_positions) for p in prepared
    ]


class RecordingSampler(keras_hub.samplers.Sampler):
    """Greedy, in plain Python, and keeps the logits of every step."""

    def __call__(self, next, prompt, cache, index, **kwargs):
        self.first, self.logits = int(index), []
        for slot in range(self.first, prompt.shape[1]):
            logits, _, cache = next(prompt, cache, slot)
            self.logits.append(ops.convert_to_numpy(logits))
            token = ops.argmax(logits, axis=-1)[:, None]
            prompt = ops.slice_update(
                prompt, (0, slot), ops.cast(token, prompt.dtype)
            )
        return prompt


@pytest.mark.parametrize("budget", BUDGETS)
def test_cached_logits_of_every_budget(visor, visor_reference, budget):
    lm = VisorCausalLM(visor.backbone, visor.preprocessor)
    sampler = RecordingSampler()
    lm.compile(sampler=sampler, run_eagerly=True)
    names = ["strip", "conversation"]
    prepared = [visor_reference.prepare(*SAMPLES[name]) for name in names]
    # The shorter prompt, of 33 tokens, gets seven, the longer one four.
    ask(lm, batch(names), max_length=40, budget=budget, stop_token_ids=None)
    logits = np.stack(sampler.logits, axis=1)
    for row, prompt in enumerate(prepared):
        steps = 40 - len(prompt.token_ids)
        with torch.no_grad():
            for step in range(steps):
                streams = visor_reference.decode(
                    visor_reference.embed(prompt),
                    visor_reference.roles(budget),
                )[-1]
                expected = visor_reference.read_out(streams.text[-1])
                np.testing.assert_allclose(
                    logits[row, step], expected.numpy(), rtol=0, atol=5e-5
                )
                prompt = with_token(prompt, int(expected.argmax()))


def with_token(prepared, token_id):
    """The reference's prompt with a generated token, which ends it."""
    position = len(prepared.token_ids) + len(prepared.vision_positions)
    return dataclasses.replace(
        prepared,
        token_ids=torch.cat((prepared.token_ids, torch.tensor([token_id]))),
        text_positions=torch.cat(
            (prepared.text_positions, torch.tensor([position]))
        ),
    )


# === Policy ===


def test_route(visor, visor_reference):
    expected = [visor_reference.route(*sample) for sample in SAMPLES.values()]
    logits = visor.route(preprocess(visor, batch()))
    np.testing.assert_allclose(
        ops.convert_to_numpy(logits), expected, rtol=0, atol=5e-5
    )
    alone = visor.route(preprocess(visor, batch(["strip"])))
    np.testing.assert_allclose(
        ops.convert_to_numpy(alone), expected[1:2], rtol=0, atol=5e-5
    )


@pytest.mark.parametrize(
    "rule, tolerance", [("argmax", 0.0), ("tolerance", 0.0), ("tolerance", 0.1)]
)
def test_auto_runs_the_chosen_budget(
    monkeypatch, visor, visor_reference, rule, tolerance
):
    monkeypatch.setattr(visor.backbone.policy, "rule", rule)
    monkeypatch.setattr(visor.backbone.policy, "tolerance", tolerance)
    config = {"policy_rule": rule, "policy_tolerance": tolerance}
    monkeypatch.setattr(
        visor_reference, "visor_config", visor_reference.visor_config | config
    )
    chosen = [visor_reference.chosen_budget(*s) for s in SAMPLES.values()]
    assert len(set(chosen)) > 1
    answers, report = ask(visor, batch(), return_report=True)
    assert report["budget"].tolist() == chosen
    assert answers == [
        expected_answer(visor_reference, name, budget)
        for name, budget in zip(SAMPLES, chosen, strict=True)
    ]


def test_auto_without_a_policy_is_full_and_says_so_once(fresh):
    samples = batch(["text only"])
    with pytest.warns(UserWarning, match="no budget policy.*full budget"):
        answer, report = ask(fresh, samples, return_report=True)
    assert report["budget"].tolist() == [2]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert ask(fresh, samples) == answer
    with pytest.raises(ValueError, match="policy_hidden_dim=None"):
        fresh.route(preprocess(fresh, samples))


def test_one_budget_needs_no_policy_and_no_warning(dense):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, report = ask(dense, batch(["strip"]), return_report=True)
    assert report["budget"].tolist() == [0]


@pytest.mark.parametrize(
    "budget, ran",
    [
        ("full", 2),
        ("minimal", 0),
        (1, 1),
        (np.int64(1), 1),
        ([2], 2),
        (np.array([0]), 0),
    ],
)
def test_forms_of_a_budget(visor, visor_reference, budget, ran):
    answers, report = ask(
        visor, batch(["strip"]), budget=budget, return_report=True
    )
    assert report["budget"].tolist() == [ran]
    assert answers == [expected_answer(visor_reference, "strip", ran)]


# === Samplers ===


def with_sampler(visor, sampler):
    lm = VisorCausalLM(visor.backbone, visor.preprocessor)
    lm.compile(sampler=sampler)
    return lm


def test_the_most_probable_token_of_top_k_is_greedy(visor, visor_reference):
    lm = with_sampler(visor, keras_hub.samplers.TopKSampler(k=1, seed=0))
    names = ["strip", "conversation"]
    assert ask(lm, batch(names), budget=[0, 0]) == [
        expected_answer(visor_reference, name, 0) for name in names
    ]


@pytest.mark.parametrize(
    "sampler",
    [
        keras_hub.samplers.TopKSampler(k=5, seed=1),
        keras_hub.samplers.TopPSampler(p=0.9, seed=1),
        keras_hub.samplers.RandomSampler(seed=1),
    ],
)
def test_random_answers_differ_and_keep_to_the_length(visor, sampler):
    lm = with_sampler(visor, sampler)
    samples = batch(["strip"])
    answers = [
        ask(lm, samples, budget=0, stop_token_ids=None)[0] for _ in range(3)
    ]
    assert len(set(answers)) > 1
    whole = lm.generate(samples, max_length=MAX_LENGTH, budget=0)[0]
    assert whole.startswith("user \nRead the small value")


@pytest.mark.parametrize("sampler", ["beam", "contrastive"])
def test_answers_do_not_depend_on_neighbours(visor, sampler):
    """One prompt runs into a stop token long before the other is done."""
    lm = with_sampler(visor, sampler)
    names = ["conversation", "text only"]
    together = ask(lm, batch(names), budget=2)
    alone = [ask(lm, batch([name]), budget=2)[0] for name in names]
    assert together == alone
    greedy = [ask(visor, batch([name]), budget=2)[0] for name in names]
    assert together != greedy


# === Streams ===


def test_a_stream_is_the_answer_in_pieces(visor):
    samples = batch()
    budgets = [0, 1, 2, 0, 1]
    expected = ask(visor, samples, budget=budgets)
    steps = list(visor.stream(samples, max_length=MAX_LENGTH, budget=budgets))
    assert ["".join(pieces) for pieces in zip(*steps, strict=True)] == expected
    # Not all at once: most steps bring something.
    assert sum(map(any, steps)) > 10
    # One prompt gives strings, without empty ones.
    prompt, images = SAMPLES["strip"]
    pieces = list(
        visor.stream(
            {"prompts": prompt, "images": images},
            max_length=MAX_LENGTH,
            budget=1,
        )
    )
    assert "".join(pieces) == expected[1] and all(pieces)


def test_a_stream_draws_what_generate_draws(visor):
    samples = batch(["strip"])
    arguments = {"max_length": MAX_LENGTH, "budget": 0, "stop_token_ids": None}

    def random_lm():
        sampler = keras_hub.samplers.TopKSampler(k=5, seed=1)
        return with_sampler(visor, sampler)

    answer = random_lm().generate(samples, strip_prompt=True, **arguments)
    steps = random_lm().stream(samples, **arguments)
    assert "".join(piece for (piece,) in steps) == answer[0]


def test_streams_of_other_samplers(visor):
    lm = with_sampler(visor, "beam")
    with pytest.raises(ValueError, match="token by token.*Beam"):
        lm.stream(batch(["strip"]))


# === Encoded images ===


def test_answers_from_encoded_images(monkeypatch, visor):
    samples = batch(["several images", "strip"])
    answers = ask(visor, samples, budget=[0, 1])
    encoded = visor.encode(samples["images"])
    assert [e.image_lengths for e in encoded] == [(17, 17, 17), (50,)]
    monkeypatch.setattr(Generator, "encode", None)
    assert (
        ask(
            visor,
            {"prompts": samples["prompts"], "images": encoded},
            budget=[0, 1],
        )
        == answers
    )


def test_images_encoded_together_are_those_encoded_alone(visor):
    # More than a chunk, of several sizes, one sample with several.
    names = ["several images", *["strip", "one image", "conversation"] * 3]
    images = batch(names)["images"]
    together = visor.encode(images)
    for entry, encoded in zip(images, together, strict=True):
        (alone,) = visor.encode([entry])
        assert encoded.image_lengths == alone.image_lengths
        length = sum(alone.image_lengths)
        for name in ("tokens", "indices", "weights"):
            values, expected = (
                ops.convert_to_numpy(getattr(each, name))
                for each in (encoded, alone)
            )
            assert values.shape == expected.shape
            np.testing.assert_allclose(
                values[:length], expected[:length], rtol=0, atol=1e-5
            )


def test_encoded_images_hold_themselves_alone(visor):
    """Not the padding of those that were encoded beside them."""
    for encoded in visor.encode([picture(10, 10), picture(160, 150)]):
        assert encoded.indices.base is encoded.weights.base is None
        if keras.config.backend() == "torch":
            tokens = encoded.tokens
            assert tokens.untyped_storage().nbytes() == 4 * tokens.numel()


def test_what_generate_takes_can_be_encoded(visor, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(picture(24, 50)).save(path)
    pair = np.stack([picture(30, 30), picture(30, 30, 1)])
    entries = [pair, str(path), str(path).encode(), path, None]
    assert [e.image_lengths for e in visor.encode(entries)] == [
        (17, 17),
        *[visor.encode(picture(24, 50)).image_lengths] * 3,
        (),
    ]
    samples = {
        "prompts": [question("Which one?", 2), question("Which one?", 1)],
        "images": [pair, path],
    }
    answers = ask(visor, samples, budget=0)
    samples["images"][1] = visor.encode(path)
    assert ask(visor, samples, budget=0) == answers


def test_many_questions_share_one_encoding(visor):
    questions = [
        question("What is the colour of the largest shape here? Is it red?", 1),
        question("What is the colour of the smallest circle? Is it blue?", 1),
    ]
    image = picture(24, 50)
    encoded = visor.encode(image)
    assert isinstance(encoded, EncodedImages)
    answers = ask(
        visor, {"prompts": questions, "images": encoded}, budget=[0, 1]
    )
    assert answers == ask(
        visor, {"prompts": questions, "images": [image, image]}, budget=[0, 1]
    )
    # One question, not in a list.
    for images in (encoded, [encoded], image, [image]):
        alone = {"prompts": questions[1], "images": images}
        assert ask(visor, alone, budget=1) == answers[1]


def test_encoded_images_among_others(visor):
    names = ["strip", "text only", "conversation", "one image"]
    samples = batch(names)
    answers = ask(visor, samples, budget=[0, 2, 0, 1])
    samples["images"][0] = visor.encode(samples["images"][0])[0]
    samples["images"][1] = None
    assert ask(visor, samples, budget=[0, 2, 0, 1]) == answers
    encoded = visor.encode(samples["images"])
    assert encoded[0] is samples["images"][0]
    assert encoded[1].image_lengths == ()
    samples["images"] = encoded
    assert ask(visor, samples, budget=[0, 2, 0, 1]) == answers
    # Where there is no image, no reducer misses anything.
    samples = {**batch(names[:2]), "images": [SAMPLES["strip"][1], encoded[1]]}
    ask(visor, samples, budget=0, reducer=VisionZip(0.5))


# === What goes in and comes out ===


def test_a_question_is_wrapped_in_the_chat_template(visor):
    written_out = ask(visor, batch(["one image"]), budget=0)
    text = "What is the colour of the largest shape here? Is it red?"
    image = picture(24, 50)
    assert question(text, 1) == SAMPLES["one image"][0]
    for entry in (image, [image]):
        samples = {"prompts": [text], "images": [entry]}
        assert ask(visor, samples, budget=0) == written_out
    # One prompt instead of a list gives one text.
    samples = {"prompts": text, "images": image}
    assert ask(visor, samples, budget=0) == written_out[0]


def test_prompts_without_a_dict(visor):
    prompt, _ = SAMPLES["text only"]
    answer = ask(visor, batch(["text only"]), budget=0)
    assert ask(visor, [prompt], budget=0) == answer
    assert ask(visor, prompt, budget=0) == answer[0]


def test_strip_prompt(visor):
    samples = batch(["conversation"])
    answer = ask(visor, samples, budget=0)[0]
    whole = visor.generate(samples, max_length=MAX_LENGTH, budget=0)[0]
    # Neither marks nor turns: special tokens are left out.
    prompt = "user \nThe two?assistant\nNo.user \nThis one?assistant\n"
    assert whole == prompt + answer


def test_stop_tokens(visor, visor_reference):
    prompt, images = SAMPLES["text only"]
    steps = MAX_LENGTH - NUM_TOKENS
    decode = visor_reference.tokenizer.decode
    endless = visor_reference.greedy(prompt, images, 0, steps, stop_ids=[])
    assert len(visor_reference.greedy(prompt, images, 0, steps)) < steps
    samples = batch(["text only"])
    assert ask(visor, samples, stop_token_ids=None, budget=0) == [
        decode(endless, skip_special_tokens=True)
    ]
    # The token that stops an answer is no part of it.
    stop = endless[4]
    answer = decode(endless[: endless.index(stop)], skip_special_tokens=True)
    assert ask(visor, samples, stop_token_ids=[stop], budget=0) == [answer]


def test_no_room_for_an_answer(visor):
    assert ask(
        visor, batch(["text only"]), max_length=NUM_TOKENS, budget=0
    ) == [""]


def test_the_callers_inputs_are_not_changed(visor):
    samples = batch(["strip", "text only"])
    before = copy.deepcopy(samples)
    visor.generate(samples, max_length=MAX_LENGTH, budget=[0, 2])
    assert samples.keys() == before.keys()
    assert samples["prompts"] == before["prompts"]
    for images, unchanged in zip(
        samples["images"], before["images"], strict=True
    ):
        assert len(images) == len(unchanged)
        for image, same in zip(images, unchanged, strict=True):
            np.testing.assert_array_equal(image, same)


def test_without_the_preprocessor(monkeypatch, visor):
    samples = batch(["strip", "text only"])
    answers = visor.generate(samples, max_length=MAX_LENGTH, budget=[0, 2])
    preprocessor = visor.preprocessor
    inputs = preprocess(visor, samples, sequence_length=MAX_LENGTH)
    before = copy.deepcopy(inputs)
    stops = preprocessor.tokenizer.stop_token_ids
    monkeypatch.setattr(visor, "preprocessor", None)
    tokens = visor.generate(inputs, stop_token_ids=stops, budget=[0, 2])
    assert tokens.keys() == {"token_ids", "padding_mask"}
    assert tokens["token_ids"].shape == (2, MAX_LENGTH)
    assert preprocessor.generate_postprocess(tokens) == answers
    for name, value in before.items():
        np.testing.assert_array_equal(inputs[name], value)
    with pytest.raises(ValueError, match="`stop_token_ids.*detached"):
        visor.generate(inputs, budget=0)


def test_a_tf_data_dataset(visor):
    tf = pytest.importorskip("tensorflow")
    prompt, (image,) = SAMPLES["one image"]
    other = picture(24, 50, 9)
    samples = {
        "prompts": [prompt, prompt, prompt],
        "images": np.stack([image, other, image]),
    }
    answers = [
        ask(visor, {"prompts": [prompt], "images": [i]}, budget=0)[0]
        for i in (image, other)
    ]
    dataset = tf.data.Dataset.from_tensor_slices(samples).batch(1)
    assert ask(visor, dataset, budget=0) == [*answers, answers[0]]
    assert answers[0] != answers[1]
