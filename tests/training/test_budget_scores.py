"""Every sample at every budget, in files that several processes share."""

import pickle
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_visor.analysis import count_flops
from keras_visor.reduction import UniformChoice
from keras_visor.training import score_budgets
from keras_visor.training import with_policy

MAX_LENGTH = 24


def graded(answers, responses):
    """A metric that sees both texts and depends on each letter."""
    return (sum(map(ord, answers[0] + responses[0])) % 101) / 100


def six(samples):
    """Six samples, one without an image, one whose image is in a list."""
    columns = {name: list(column[:6]) for name, column in samples.items()}
    columns["prompts"][2] = columns["prompts"][2].replace("<image>", "")
    columns["images"][2] = None
    columns["images"][3] = [columns["images"][3]]
    return columns


@pytest.fixture(scope="module")
def lm(load_small):
    return load_small()


@pytest.fixture(scope="module")
def columns(samples):
    return six(samples)


def score(lm, columns, directory=None, metric=graded, **arguments):
    arguments = {
        "max_length": MAX_LENGTH,
        "batch_size": 2,
        "shard_size": 2,
        **arguments,
    }
    return score_budgets(
        lm, columns, directory, metric, verbose=False, **arguments
    )


@pytest.fixture(scope="module")
def whole(lm, columns):
    return score(lm, columns)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def files(lm, columns, whole, tmp_path_factory):
    """What an undisturbed run writes, by file name."""
    directory = tmp_path_factory.mktemp("undisturbed")
    scores = score(lm, columns, directory)
    np.testing.assert_array_equal(scores.scores, whole.scores)
    assert scores.answers == whole.answers
    files = contents(directory)
    assert sorted(files) == [f"scores-0000{i}-of-00003.jsonl" for i in range(3)]
    return files


# === Scores ===


def test_scores_are_those_of_generate(lm, columns, whole):
    assert whole.budgets == lm.backbone.budgets == [[], [1]]
    assert whole.scores.shape == (6, 2)
    for rows in ([1, 0], [3, 2], [5, 4]):
        inputs = {
            name: [columns[name][row] for row in rows]
            for name in ("prompts", "images")
        }
        for budget in range(2):
            answers, report = lm.generate(
                inputs,
                max_length=MAX_LENGTH,
                strip_prompt=True,
                budget=budget,
                return_report=True,
            )
            for row, answer in zip(rows, answers, strict=True):
                assert whole.answers[row][budget] == answer
                expected = graded([answer], [columns["responses"][row]])
                assert whole.scores[row, budget] == expected
        for name in ("text_tokens", "vision_tokens"):
            found = getattr(whole, name)[rows]
            np.testing.assert_array_equal(found, report[name])
    # The budgets do not all say the same.
    assert any(first != second for first, second in whole.answers)
    assert whole.vision_tokens[2] == 0 < whole.vision_tokens[3]


def test_encoded_images_have_the_same_scores(lm, columns, whole):
    images = [
        image if image is None else lm.encode(image)
        for image in columns["images"]
    ]
    images[3] = images[3][0]  # Of a list.
    again = score(lm, {**columns, "images": images})
    assert again.answers == whole.answers
    np.testing.assert_array_equal(again.vision_tokens, whole.vision_tokens)


def test_one_encoding_serves_all_prompts(lm, columns):
    image = columns["images"][0]
    two = {name: columns[name][:2] for name in ("prompts", "responses")}
    shared, each = (
        score(lm, {**two, "images": images})
        for images in (lm.encode(image), [image, image])
    )
    assert shared.answers == each.answers
    again = score(lm, {**two, "images": [lm.encode(image)]})
    assert again.answers == each.answers
    np.testing.assert_array_equal(shared.vision_tokens, each.vision_tokens)


def test_some_of_the_samples(lm, whole):
    rows = [3, 0]
    some = whole.take(np.array(rows))
    assert some.budgets == whole.budgets
    assert some.answers == [whole.answers[row] for row in rows]
    np.testing.assert_array_equal(some.scores, whole.scores[rows])
    np.testing.assert_array_equal(
        some.flops(lm.backbone), whole.flops(lm.backbone)[rows]
    )


def test_flops_are_those_of_count_flops(lm, whole):
    flops = whole.flops(lm.backbone)
    dense_flops = whole.dense_flops(lm.backbone)
    assert flops.shape == (6, 2) and dense_flops.shape == (6,)
    for row in range(6):
        lengths = int(whole.text_tokens[row]), int(whole.vision_tokens[row])
        for budget in range(2):
            expected = count_flops(lm.backbone, *lengths, budget)
            assert flops[row, budget] == expected
        assert dense_flops[row] == count_flops(lm.backbone, *lengths)
    assert flops[0, 0] < flops[0, 1]


# === Shards ===


def test_again_computes_nothing(lm, columns, files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def graded(answers, responses):
        raise AssertionError("computed again")

    # Of the same name, which is what shards know.
    graded.__qualname__ = globals()["graded"].__qualname__
    scores = score(lm, columns, tmp_path, graded)
    assert len(scores.scores) == 6
    assert contents(tmp_path) == files


def test_interrupted_and_resumed(lm, columns, files, tmp_path):
    calls = []

    def graded(answers, responses):
        calls.append(answers)
        if len(calls) == 7:  # the second sample of the second shard
            raise KeyboardInterrupt
        return globals()["graded"](answers, responses)

    graded.__qualname__ = globals()["graded"].__qualname__
    with pytest.raises(KeyboardInterrupt):
        score(lm, columns, tmp_path, graded)
    first = "scores-00000-of-00003.jsonl"
    assert contents(tmp_path) == {first: files[first]}
    score(lm, columns, tmp_path, graded)
    assert contents(tmp_path) == files
    assert len(calls) == 7 + 8


def test_workers_share_the_shards(lm, columns, whole, files, tmp_path):
    share = {"num_workers": 2}
    assert score(lm, columns, tmp_path, worker=1, **share) is None
    assert list(contents(tmp_path)) == ["scores-00001-of-00003.jsonl"]
    scores = score(lm, columns, tmp_path, worker=0, **share)
    assert contents(tmp_path) == files
    np.testing.assert_array_equal(scores.scores, whole.scores)


def test_a_policy_changes_no_answers(lm, columns, files, tmp_path):
    """Its model's shards count on."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert score(with_policy(lm), columns, tmp_path) is not None


@pytest.mark.parametrize(
    "key",
    [
        *("model", "dtype", "reducer", "converter", "metric", "max_length"),
        *("samples", "pictures"),
    ],
)
def test_foreign_shards_are_refused(
    lm, load_small, columns, files, tmp_path, key
):
    name = "scores-00001-of-00003.jsonl"
    (tmp_path / name).write_bytes(files[name])
    arguments = {"directory": tmp_path, "lm": lm, "columns": columns}
    if key == "model":
        arguments["lm"] = load_small()
        bias = arguments["lm"].backbone.decoder_layers[2].value_dense.bias
        bias.assign(bias + 1e-6)
    elif key == "dtype":
        arguments["lm"] = load_small(dtype="mixed_bfloat16")
        key = "model"
    elif key == "reducer":
        arguments["lm"] = load_small(reducer=UniformChoice(0.5))
        key = "model"
    elif key == "converter":
        arguments["lm"] = load_small()
        converter = arguments["lm"].preprocessor.image_converter
        converter.max_tiles = 1
        key = "model"
    elif key == "metric":
        arguments["metric"] = lambda answers, responses: 0.5
    elif key == "max_length":
        arguments["max_length"] = MAX_LENGTH + 1
    elif key == "pictures":
        images = [*columns["images"]]
        images[3] = [255 - images[3][0]]
        arguments["columns"] = {**columns, "images": images}
        key = "samples"
    else:
        responses = [*columns["responses"]]
        responses[3] = "another"
        arguments["columns"] = {**columns, "responses": responses}
    with pytest.raises(ValueError, match=f"{name}.*differs in {key}"):
        score(**arguments)
    assert contents(tmp_path) == {name: files[name]}


def test_shards_of_another_size_are_refused(lm, columns, files, tmp_path):
    name = "scores-00001-of-00003.jsonl"
    (tmp_path / name).write_bytes(files[name])
    with pytest.raises(ValueError, match=f"{name}.*make 2 shards"):
        score(lm, columns, tmp_path, shard_size=3)


WORKER = """
import os, pickle, signal, sys
from keras_visor import VisorCausalLM
from keras_visor.training import score_budgets

worker, kills, checkpoint, columns, directory, max_length = sys.argv[1:]
calls = []

def graded(answers, responses):
    calls.append(answers)
    if len(calls) == int(kills):
        os.kill(os.getpid(), signal.SIGKILL)
    return (sum(map(ord, answers[0] + responses[0])) % 101) / 100

with open(columns, "rb") as file:
    columns = pickle.load(file)
score_budgets(
    VisorCausalLM.from_preset(checkpoint),
    columns,
    directory,
    graded,
    max_length=int(max_length),
    batch_size=2,
    shard_size=2,
    worker=int(worker),
    num_workers=2,
    verbose=False,
)
"""


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="Files know no backend"
)
def test_two_processes_one_of_them_killed(
    lm, small_directory, columns, files, tmp_path
):
    """Another process is killed in its second shard."""
    directory = tmp_path / "shards"
    pickled = tmp_path / "columns.pickle"
    pickled.write_bytes(pickle.dumps(columns))
    killed = subprocess.Popen(
        [sys.executable, "-c", WORKER, "0", "6", str(small_directory)]
        + [str(pickled), str(directory), str(MAX_LENGTH)]
    )
    assert score(lm, columns, directory, worker=1, num_workers=2) is None
    assert killed.wait() == -signal.SIGKILL
    assert sorted(contents(directory)) == sorted(files)[:2]
    score(lm, columns, directory, worker=0, num_workers=2)
    assert contents(directory) == files


# === Bad input ===


def test_bad_input(lm, columns, tmp_path):
    bad = {
        "`batch_size` must be 1": {"batch_size": 0},
        "`max_length` must be 1": {"max_length": 0},
        "`shard_size` must be 1": {"shard_size": 0},
        "`worker`.*worker=2, num_workers=2": {"worker": 2, "num_workers": 2},
        "`num_workers` share": {"num_workers": 2},
    }
    for message, arguments in bad.items():
        with pytest.raises(ValueError, match=message):
            score(lm, columns, **arguments)
    with pytest.raises(ValueError, match="`samples` must be a dict.*prompts"):
        score(lm, {"prompts": ["a"]})
    with pytest.raises(ValueError, match="`images`.*6 prompts. Received: 1"):
        score(lm, {**columns, "images": [None]})
    with pytest.raises(ValueError, match="`metric` must.*Received: 1.5"):
        score(lm, columns, metric=lambda answers, responses: 1.5)
