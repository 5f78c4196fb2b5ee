"""Whatever is wrong is named, before any work.

Damaged checkpoints and configs are in `tests/checkpoints` and in
`test_loader.py`.
"""

import numpy as np
import pytest
from PIL import Image
from samples import picture
from samples import question

from keras_visor import VisorCausalLM
from keras_visor import VisorCausalLMPreprocessor
from keras_visor import VisorImageConverter
from keras_visor import VisorTokenizer
from keras_visor import uniform_layout
from keras_visor.generation.generator import Generator
from keras_visor.models.encoded_images import EncodedImages
from keras_visor.preprocessing.rgb import MAX_IMAGE_PIXELS

ONE = question("What is this?", 1)
TWO = question("Which?", 2)
NONE = question("How many?")
IMAGE = picture(24, 50)


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Whatever reaches the generator has not been refused in time."""
    monkeypatch.setattr(Generator, "generate", None)
    monkeypatch.setattr(Generator, "encode", None)


def huge():
    """An array beyond the bound that takes no memory."""
    return np.broadcast_to(np.uint8(0), (MAX_IMAGE_PIXELS // 9000 + 1, 9000, 3))


# === Images ===


@pytest.mark.parametrize(
    "image, error, message",
    [
        (3.5, TypeError, r"`images.* must hold paths.*Received: float"),
        (object(), TypeError, r"`images.* must hold paths.*Received: object"),
        (np.zeros((5, 5, 2), "uint8"), ValueError, r"Received: \(5, 5, 2\)"),
        (np.zeros((0, 5, 3), "uint8"), ValueError, "empty: 0 x 5 pixels"),
        (np.zeros((5, 5, 3)), TypeError, "uint8.*Received: float64"),
        ("no/such/file.png", FileNotFoundError, "no/such/file.png.*not exist"),
        (huge(), ValueError, f"9943 x 9000 pixels.*{MAX_IMAGE_PIXELS}"),
    ],
)
def test_not_an_image(visor, image, error, message):
    with pytest.raises(error, match=message):
        visor.generate({"prompts": [ONE], "images": [image]})
    with pytest.raises(error, match=message):
        visor.encode([image])
    samples = {"prompts": [ONE], "images": [image], "responses": ["this"]}
    with pytest.raises(error, match=message):
        visor.fit(samples, verbose=0)


def test_unreadable_files(visor, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match="text.png.*cannot be opened"):
        visor.generate({"prompts": [ONE], "images": [text]})
    whole = tmp_path / "whole.png"
    Image.fromarray(IMAGE).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cut.png.*damaged or truncated"):
        visor.generate({"prompts": [ONE], "images": [str(cut)]})


@pytest.mark.parametrize(
    "prompt, images, marks, count",
    [
        (ONE, [], 1, 0),
        (ONE, None, 1, 0),
        (ONE, [IMAGE, IMAGE], 1, 2),
        (TWO, [IMAGE], 2, 1),
        (TWO, IMAGE, 2, 1),
        (NONE, IMAGE, 0, 1),
    ],
)
def test_images_must_be_as_many_as_marks(visor, prompt, images, marks, count):
    message = f"index 1 has {marks} <image> marks, but `images` has {count}"
    samples = {"prompts": [NONE, prompt], "images": [[], images]}
    with pytest.raises(ValueError, match=message):
        visor.generate(samples)
    with pytest.raises(ValueError, match=message):
        visor.fit({**samples, "responses": ["a", "b"]}, verbose=0)


def test_images_must_be_a_list_for_every_prompt(visor):
    samples = {"prompts": [ONE, ONE], "images": [IMAGE]}
    with pytest.raises(ValueError, match="`images`.*2 prompts. Received: 1"):
        visor.generate(samples)
    with pytest.raises(ValueError, match="`images`.*1 prompts. Received: 0"):
        visor.generate({"prompts": [NONE], "images": []})
    with pytest.raises(ValueError, match="`images`.*Received: .*Image"):
        visor.generate({"prompts": [ONE], "images": Image.new("RGB", (5, 5))})
    with pytest.raises(ValueError, match=r"`images`.*Received: \[\]"):
        visor.encode([])


def test_without_the_preprocessor(visor, monkeypatch):
    monkeypatch.setattr(visor, "_preprocessor", None)
    with pytest.raises(ValueError, match="`encode` needs the preprocessor"):
        visor.encode(IMAGE)
    with pytest.raises(ValueError, match="need the preprocessor"):
        visor.prompt_inputs([NONE])


def test_nothing_to_answer(visor):
    import tensorflow as tf

    with pytest.raises(ValueError, match="`inputs` must hold a batch"):
        visor.generate(tf.data.Dataset.from_tensor_slices([NONE]).take(0))


def test_an_image_at_the_end(visor):
    prompt = "<|im_start|>user What is this? <image>"
    with pytest.raises(ValueError, match="must end in text.*index 0"):
        visor.generate({"prompts": [prompt], "images": [IMAGE]})


# === Prompts ===


def test_encoded_images_alone(visor):
    encoded = EncodedImages(np.zeros((1, 8), "float32"), (1,))
    with pytest.raises(ValueError, match=r"key `prompts`.*\['images'\]"):
        visor.generate({"images": encoded})
    samples = {"prompts": [ONE], "responses": ["a"], "images": [encoded]}
    with pytest.raises(ValueError, match="`images`.*an `EncodedImages`"):
        visor.fit(samples, verbose=0)


@pytest.mark.parametrize("max_length", [0, -3, 64.0, "64"])
def test_a_length_is_a_count(visor, max_length):
    with pytest.raises(ValueError, match="`max_length` must be a positive"):
        visor.generate([NONE], max_length=max_length)
    with pytest.raises(ValueError, match="`max_length` must be a positive"):
        visor.prompt_inputs([NONE], max_length=max_length)


@pytest.mark.parametrize("stop_token_ids", [5, "none", [-1], [10**6], [0.5]])
def test_stop_tokens_are_ids(visor, stop_token_ids):
    with pytest.raises(ValueError, match="`stop_token_ids` must be `None`"):
        visor.generate([NONE], stop_token_ids=stop_token_ids)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt(visor, prompt):
    with pytest.raises(
        ValueError, match="`prompts` must not be empty.*index 1"
    ):
        visor.generate([NONE, prompt])


def test_prompts_must_be_there(visor):
    with pytest.raises(ValueError, match=r"`prompts`.*Received: \[\]"):
        visor.generate([])
    with pytest.raises(ValueError, match=r"key `prompts`.*\['images'\]"):
        visor.generate({"images": [IMAGE]})
    with pytest.raises(ValueError, match="`prompts`.*'question'"):
        visor.generate({"prompts": [NONE], "question": ["What?"]})
    with pytest.raises(ValueError, match="`prompts` must hold strings.*7"):
        visor.generate({"prompts": [7]})


def test_a_prompt_is_never_cut(visor):
    message = r"index 1 has \d+ text tokens.*sequence_length=30"
    prompts = [NONE, question("How many shapes " * 5)]
    with pytest.raises(ValueError, match=message):
        visor.generate(prompts, max_length=30)
    with pytest.raises(ValueError, match=message):
        visor.preprocessor.generate_preprocess(prompts, sequence_length=30)
    samples = {"prompts": prompts, "responses": ["two", "three"]}
    with pytest.raises(ValueError, match=message):
        visor.preprocessor(samples, sequence_length=30)


def test_the_length_counts_text_tokens(visor):
    """As many as the limit are accepted; visual tokens don't count."""
    samples = {"prompts": [ONE], "images": [IMAGE]}
    inputs = visor.preprocessor.generate_preprocess(samples)
    length = int(inputs["padding_mask"].sum())
    assert inputs["vision_mask"].sum() > length
    exactly = visor.preprocessor.generate_preprocess(
        samples, sequence_length=length
    )
    assert exactly["padding_mask"].all()
    with pytest.raises(ValueError, match=f"{length} text tokens"):
        visor.preprocessor.generate_preprocess(
            samples, sequence_length=length - 1
        )


def test_training_needs_responses_and_no_labels(visor):
    with pytest.raises(ValueError, match=r"`responses`.*\['prompts'\]"):
        visor.fit({"prompts": [NONE]}, verbose=0)
    samples = {"prompts": [NONE, NONE], "responses": ["one"]}
    with pytest.raises(ValueError, match="one length.*'responses': 1"):
        visor.fit(samples, verbose=0)
    samples = {"prompts": [NONE], "responses": ["one"]}
    with pytest.raises(ValueError, match="Labels come from `responses`"):
        visor.preprocessor(samples, np.zeros(1))
    for use in (visor.fit, visor.evaluate):
        with pytest.raises(ValueError, match="Labels come from `responses`"):
            use(samples, np.zeros(1), verbose=0)
    with pytest.raises(ValueError, match="`responses`.*Received: 0"):
        visor.preprocessor({"prompts": [NONE], "responses": []})
    with pytest.raises(ValueError, match="columns.*'budget' of .*int"):
        visor.fit({**samples, "budget": 1}, verbose=0)


def test_a_preprocessor_that_does_not_fit(visor):
    own = visor.preprocessor
    converter = own.image_converter.get_config()
    for name, value in (("tile_size", 56), ("patches_per_side", 2)):
        settings = {**converter, "grid_pinpoints": None, name: value}
        other = VisorImageConverter(**settings)
        with pytest.raises(ValueError, match=f"{name}` must be .*: {value}"):
            VisorCausalLM(
                visor.backbone,
                VisorCausalLMPreprocessor(own.tokenizer, other),
            )
    tiny = VisorTokenizer.from_preset("visor_tiny_en")
    with pytest.raises(ValueError, match="`preprocessor.tokenizer` must have"):
        visor.preprocessor = VisorCausalLMPreprocessor(
            tiny, own.image_converter
        )
    assert visor.preprocessor is own


# === Budgets ===


@pytest.mark.parametrize(
    "budget",
    [
        *("cheap", 3, -1, 0.5, True, None),
        *([0, 3], [0, 1, 2], [[0, 1]], [[0], [1, 2]], ["full", 0]),
    ],
)
def test_an_unknown_budget(visor, budget):
    with pytest.raises(ValueError, match="`budget` must .*Received"):
        visor.generate([NONE, NONE], budget=budget)


def test_a_budget_among_the_inputs(visor):
    with pytest.raises(ValueError, match="`budget` as an argument.*Received"):
        visor.generate({"prompts": [NONE], "budget": [1]})
    samples = {"prompts": [NONE], "responses": ["one"], "budget": [3]}
    with pytest.raises(ValueError, match=r"`budget`.*0 to 2.*\[3\]"):
        visor.preprocessor(samples)
    samples = {"prompts": [NONE], "responses": ["one"], "budget": [0, 1]}
    with pytest.raises(ValueError, match=r"`budget`.*1 prompts.*\[0, 1\]"):
        visor.preprocessor(samples)


def test_a_preprocessor_of_ones_own_is_told_the_budgets(visor):
    """Else the full budget of its batches would be the first one."""
    own = visor.preprocessor
    other = VisorCausalLMPreprocessor(own.tokenizer, own.image_converter)
    samples = {"prompts": [NONE], "responses": ["one"]}
    visor.preprocessor = other
    try:
        inputs, _, _ = other(samples)
    finally:
        visor.preprocessor = own
    assert inputs["budget"].tolist() == [2]


# === Presets and layouts ===


def test_an_unknown_preset_names_near_ones():
    with pytest.raises(
        ValueError, match="'visor_tiny'.*Did you mean.*visor_tiny_en"
    ):
        VisorCausalLM.from_preset("visor_tiny")


@pytest.mark.parametrize(
    "layout, message",
    [
        ({"cross_attention_layers": [0, 1]}, r"disjoint.*\[1\]"),
        ({"self_attention_layers": [1, 6]}, r"0 to 5.*\[6\]"),
        ({"budgets": [[], [2]]}, r"subset.*\[2\]"),
    ],
)
def test_a_bad_layout_for_a_checkpoint(dense_directory, layout, message):
    with pytest.raises(ValueError, match=message):
        VisorCausalLM.from_preset(
            dense_directory, **{**uniform_layout(6), **layout}
        )


def test_a_sampler_of_many_answers(visor):
    import keras_hub

    lm = VisorCausalLM(visor.backbone, visor.preprocessor)
    with pytest.raises(ValueError, match="`sampler`.*return_all_beams=True"):
        lm.compile(
            sampler=keras_hub.samplers.BeamSampler(return_all_beams=True)
        )


# === Routing ===


def test_routing_takes_preprocessed_inputs(visor):
    samples = {"prompts": [ONE], "images": [IMAGE]}
    with pytest.raises(ValueError, match="preprocessed.*'images', 'prompts'"):
        visor.route(samples)
    inputs = visor.preprocessor.generate_preprocess(samples)
    del inputs["images"]
    with pytest.raises(ValueError, match="`inputs` must hold `images` or"):
        visor.route(inputs)
