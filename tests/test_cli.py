import re

import keras
import keras_hub
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

import keras_visor
from keras_visor import cli
from keras_visor.checkpoints.qwen2_tokenizer import set_pipeline
from keras_visor.cli import main

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
QUESTION = "what [red] thing is it?"
NUM_LAYERS, WIDTH, FEED_FORWARD, KEY_VALUE_WIDTH = 6, 16, 24, 8

# A base tile of 2 x 2 patches; a grid of 4 x 4 patches with a newline a row.
VISION_TOKENS = 4 + 4 * 5


def make_tokenizer():
    """Bytes and special tokens, no merges."""
    tokenizer = Tokenizer(models.BPE())
    set_pipeline(tokenizer)
    tokenizer.train_from_iterator(
        [],
        trainers.BpeTrainer(
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return keras_visor.VisorTokenizer(tokenizer.to_str())


def save_preset(directory, policy_hidden_dim):
    keras.utils.set_random_seed(0)
    tokenizer = make_tokenizer()
    backbone = keras_visor.VisorBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=4,
            hidden_dim=8,
            num_layers=1,
            num_heads=2,
            intermediate_dim=16,
            image_shape=(8, 8, 3),
        ),
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=NUM_LAYERS,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=FEED_FORWARD,
        policy_hidden_dim=policy_hidden_dim,
        **keras_visor.uniform_layout(NUM_LAYERS),
    )
    converter = keras_visor.VisorImageConverter(
        tile_size=8,
        patches_per_side=2,
        grid_pinpoints=[(8, 8), (8, 16), (16, 8), (16, 16)],
    )
    preprocessor = keras_visor.VisorCausalLMPreprocessor(
        tokenizer, converter, sequence_length=70
    )
    lm = keras_visor.VisorCausalLM(backbone, preprocessor)
    # Answers of letters only: all other tokens' logits are zero.
    embeddings = np.zeros((tokenizer.vocabulary_size(), WIDTH), "float32")
    letters = tokenizer("abcdefghijklmnopqrstuvwxyz")
    embeddings[letters] = np.random.default_rng(0).normal(size=(26, WIDTH))
    backbone.token_embedding.embeddings.assign(embeddings)
    lm.save_to_preset(str(directory))


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    save_preset(directory, policy_hidden_dim=None)
    return str(directory)


@pytest.fixture(scope="module")
def preset_with_policy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    save_preset(directory, policy_hidden_dim=4)
    return str(directory)


@pytest.fixture(scope="module")
def lm(preset):
    return keras_visor.VisorCausalLM.from_preset(preset)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), "uint8")
    Image.fromarray(pixels).save(path)
    return str(path)


def text_tokens(question):
    # A token a byte, and one for each of im_start, im_end, im_start.
    return len(f"user \n{question}assistant\n") + 3


def decoder_layer_flops(length):
    matrices = 2 * WIDTH**2 + 2 * WIDTH * KEY_VALUE_WIDTH
    matrices += 3 * WIDTH * FEED_FORWARD
    return 2 * length * matrices + 4 * WIDTH * length**2


def flops(text_length, vision_length, num_on):
    joint = num_on * decoder_layer_flops(text_length + vision_length)
    if num_on == NUM_LAYERS:
        return joint
    text_only = (NUM_LAYERS - num_on) * decoder_layer_flops(text_length)
    cross_attention = (
        4 * text_length * WIDTH**2
        + 4 * vision_length * WIDTH * KEY_VALUE_WIDTH
        + 4 * text_length * vision_length * WIDTH
        + 14 * vision_length * WIDTH
    )
    return joint + text_only + 2 * cross_attention


def fields(output):
    """What `ask` printed, by name; only its names are 10 wide."""
    return {line[:10].strip(): line[10:] for line in output.splitlines()}


def table_rows(output):
    lines = [line for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


# === ask ===


@pytest.mark.parametrize(
    "budget, index, layers",
    [
        ("minimal", 0, "no self-attention layer on"),
        ("1", 1, "self-attention on at 4"),
        ("full", 2, "self-attention on at 1, 4"),
    ],
)
def test_ask(capsys, preset, lm, image, budget, index, layers):
    assert (
        main(["ask", image, QUESTION, "--preset", preset, "--budget", budget])
        == 0
    )
    printed = fields(capsys.readouterr().out)
    assert list(printed) == [
        "question",
        "answer",
        "budget",
        "tokens",
        "FLOPs",
        "time",
    ]
    assert printed["question"] == QUESTION
    answer = lm.generate(
        {"prompts": QUESTION, "images": image},
        strip_prompt=True,
        budget=index,
    )
    assert printed["answer"] == answer
    # Up to the model's own length, a byte a token.
    assert len(answer) == 70 - text_tokens(QUESTION) > 0
    assert printed["budget"] == (
        f"{index} of 0 to 2, {layers}; as asked by --budget {budget}"
    )
    length = text_tokens(QUESTION)
    assert printed["tokens"] == f"{VISION_TOKENS} visual, {length} text"
    sparse, dense = (
        flops(length, VISION_TOKENS, num_on) for num_on in (index, NUM_LAYERS)
    )
    assert printed["FLOPs"] == (
        f"{sparse / 1e6:.2f} MFLOP to read the prompt; the dense model needs "
        f"{dense / 1e6:.2f} MFLOP, {dense / sparse:.1f}x as many"
    )
    assert " s from pictures to answer" in printed["time"]


def test_ask_lets_the_policy_choose(capsys, preset_with_policy, image):
    assert main(["ask", image, QUESTION, "--preset", preset_with_policy]) == 0
    lm = keras_visor.VisorCausalLM.from_preset(preset_with_policy)
    x = lm.preprocessor.generate_preprocess(
        {"prompts": [QUESTION], "images": [image]}
    )
    logits = keras.ops.convert_to_numpy(lm.route(x))[0]
    printed = fields(capsys.readouterr().out)["budget"]
    assert printed.startswith(f"{logits.argmax()} of 0 to 2, ")
    assert printed.endswith("; chosen by the policy")


def test_ask_with_fewer_visual_tokens(capsys, preset, lm, image, tmp_path):
    path = str(tmp_path / "out.png")
    words = ["ask", image, QUESTION, "--preset", preset, "--budget", "1"]
    words += ["--reduce", "vision_zip:0.25", "--picture", path]
    assert main(words) == 0
    printed = fields(capsys.readouterr().out)
    length = text_tokens(QUESTION)
    assert printed["tokens"] == (
        f"{VISION_TOKENS} visual, {length} text; reduced by "
        "VisionZip(rate=0.25)"
    )
    sparse = flops(length, VISION_TOKENS // 4, 1)
    assert printed["FLOPs"].startswith(f"{sparse / 1e6:.2f} MFLOP to read")
    answer = lm.generate(
        {"prompts": QUESTION, "images": image},
        strip_prompt=True,
        budget=1,
        reducer=keras_visor.reduction.VisionZip(0.25),
    )
    assert printed["answer"] == answer
    assert Image.open(path).width == 1280


@pytest.mark.parametrize("text", ["zip:0.5", "vision_zip", "vision_zip:2"])
def test_refuses_reducers(capsys, preset, image, text):
    words = ["ask", image, QUESTION, "--preset", preset, "--reduce", text]
    assert main(words) == 2
    assert re.search("NAME:RATE|at most 1", capsys.readouterr().err)


@pytest.mark.filterwarnings("error:This model has no budget policy")
def test_ask_without_a_policy(capsys, preset, image):
    assert main(["ask", image, QUESTION, "--preset", preset]) == 0
    printed = fields(capsys.readouterr().out)["budget"]
    assert printed.startswith("2 of 0 to 2, self-attention on at 1, 4; ")
    assert printed.endswith("the full one, as the model has no policy")


def test_ask_about_several_images_and_draw(capsys, tmp_path, preset, image):
    """The answer may be longer than the model's own length, if so asked."""
    path = tmp_path / "answer.png"
    question = QUESTION * 3
    words = ["ask", image, image, question, "--preset", preset]
    words += ["--budget", "1", "--max-length", "120", "--picture", str(path)]
    assert main(words) == 0
    printed = fields(capsys.readouterr().out)
    # Two base tiles, each with a newline.
    assert printed["tokens"] == f"10 visual, {text_tokens(question)} text"
    assert printed["picture"] == str(path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        shown = {colour for _, colour in picture.getcolors(2**24)}
    # Self-attention on, at layer 4, and off, at layer 1.
    assert {(0xD5, 0x5E, 0x00), (0xFD, 0xF0, 0xE6)} <= shown


def test_max_length_bounds_the_answer(capsys, preset, image):
    length = text_tokens(QUESTION)
    words = ["ask", image, QUESTION, "--preset", preset]
    assert main([*words, "--max-length", str(length)]) == 0
    assert fields(capsys.readouterr().out)["answer"] == ""


# === inspect ===


def test_inspect(capsys, preset_with_policy):
    assert main(["inspect", preset_with_policy]) == 0
    output = capsys.readouterr().out
    rows = table_rows(output)
    for row in (
        ["0", "cross-attention", "all"],
        ["1", "self-attention", "2"],
        ["2", "text-only", ""],
        ["3", "cross-attention", "all"],
        ["4", "self-attention", "1, 2"],
        ["5", "text-only", ""],
    ):
        assert row in rows

    assert f"At 64 text tokens and {VISION_TOKENS} visual tokens" in output
    assert "16 x 16 pixels" in output
    dense = flops(64, VISION_TOKENS, NUM_LAYERS)
    for index, layers in enumerate(["none", "4", "1, 4"]):
        count = flops(64, VISION_TOKENS, index)
        row = [str(index), layers, f"{count / 1e6:.2f} MFLOP"]
        assert [*row, f"{dense / count:.1f}x"] in rows
    assert ["dense", "all layers", f"{dense / 1e6:.2f} MFLOP", "1.0x"] in rows

    counts = {row[0]: row[1] for row in rows if len(row) == 2}
    counts = {name: int(n.replace(",", "")) for name, n in counts.items()}
    key_value = WIDTH * KEY_VALUE_WIDTH + KEY_VALUE_WIDTH
    attention = 2 * WIDTH**2 + WIDTH + 2 * key_value
    layer = attention + 3 * WIDTH * FEED_FORWARD + 2 * WIDTH
    assert counts["decoder"] == NUM_LAYERS * layer + WIDTH
    # Two norms, the convolution's kernel and bias.
    assert counts["cross-attention"] == 2 * (attention + 2 * WIDTH + 8 * WIDTH)
    # Routing token, norm, two dense layers.
    assert counts["policy"] == 2 * WIDTH + 4 * (WIDTH + 1) + 3 * (4 + 1)
    # Two dense layers and the newline.
    assert counts["projector"] == 9 * WIDTH + 17 * WIDTH + WIDTH
    assert counts["token embedding"] == (256 + 4) * WIDTH
    total = counts.pop("total")
    assert total == sum(counts.values())
    lm = keras_visor.VisorCausalLM.from_preset(preset_with_policy)
    assert total == lm.count_params()


def test_inspect_counts_reduced_tokens(capsys, tmp_path):
    save_preset(tmp_path, policy_hidden_dim=None)
    lm = keras_visor.VisorCausalLM.from_preset(str(tmp_path))
    lm.reducer = keras_visor.reduction.HiRED(0.5)
    lm.save_to_preset(str(tmp_path))
    assert main(["inspect", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "reduced by HiRED(rate=0.5)" in output
    count = flops(64, (VISION_TOKENS + 1) // 2, 0)
    (row,) = (row for row in table_rows(output) if row[:2] == ["0", "none"])
    assert row[2] == f"{count / 1e6:.2f} MFLOP"


def test_inspect_needs_no_weights(capsys, tmp_path):
    save_preset(tmp_path, policy_hidden_dim=None)
    for path in tmp_path.glob("*.weights.h5"):
        path.unlink()
    assert main(["inspect", str(tmp_path)]) == 0
    assert ["policy", "0"] in table_rows(capsys.readouterr().out)


# === Bad input ===


def error_of(capsys, words):
    """The one line on stderr that explains exit status 2."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("keras-visor: error: ")
    return line


@pytest.mark.parametrize(
    "options, message",
    [
        (["--budget", "cheap"], "auto, full, minimal or an index.*'cheap'"),
        (["--budget", "3"], "`budget` must be .* from 0 to 2.*Received: 3"),
        (["--budget", "-1"], "from 0 to 2.*Received: -1"),
        (["--max-length", "0"], "`--max-length` must be 1 or more"),
        (["--max-length", "9"], "more than sequence_length=9"),
        (["--picture", "out.gif"], "must end in .png.*'out.gif'"),
        (["--picture", "no/where.png"], "a directory that exists"),
    ],
)
def test_bad_options(capsys, preset, image, options, message):
    words = ["ask", image, QUESTION, "--preset", preset, *options]
    line = error_of(capsys, words)
    assert re.search(message, line)


def test_missing_image(capsys, preset):
    line = error_of(capsys, ["ask", "no.png", QUESTION, "--preset", preset])
    assert "'no.png' does not exist" in line


@pytest.mark.parametrize(
    "words, message",
    [
        (["is", "this", "red?"], "`IMAGE` 'is' does not exist.*in quotes"),
        (["<image> is this red?"], "`QUESTION` must have no <image>"),
    ],
)
def test_no_question(capsys, preset, image, words, message):
    line = error_of(capsys, ["ask", image, *words, "--preset", preset])
    assert re.search(message, line)


def test_a_file_is_no_question(capsys, preset, image):
    line = error_of(capsys, ["ask", image, image, "--preset", preset])
    assert f"Received a file: {image!r}" in line


def test_not_an_image(capsys, tmp_path, preset):
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    line = error_of(capsys, ["ask", str(path), QUESTION, "--preset", preset])
    assert "cannot be opened as an image" in line


def test_unknown_preset(capsys, image):
    line = error_of(capsys, ["ask", image, QUESTION, "--preset", "no/where"])
    assert "'no/where'" in line
    assert "'no/where'" in error_of(capsys, ["inspect", "no/where"])


def test_a_missing_package(capsys, monkeypatch):
    def evaluate(options):
        raise ImportError("The builders need tensorflow_datasets")

    monkeypatch.setattr(cli, "evaluate", evaluate)
    line = error_of(capsys, ["evaluate", "visor_tiny_en", "pope"])
    assert "need tensorflow_datasets" in line


@pytest.mark.parametrize("words", [[], ["ask", "only.png"], ["draw"]])
def test_usage(capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: keras-visor" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"{keras_visor.__version__}\n"
