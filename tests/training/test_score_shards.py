"""Shards are read as they were written, or refused by name."""

import json

import pytest

from keras_visor.training.score_shards import read_shard
from keras_visor.training.score_shards import shard_path
from keras_visor.training.score_shards import write_shard

ORIGIN = {"model": "abc", "budgets": [[], [4]], "metric": "exact_match"}
ROWS = [
    {"sample": 0, "scores": [0.0, 1.0], "answers": ["no", "oui, là\n"]},
    {"sample": 1, "scores": [0.1, 1 / 3], "answers": ["", "\u2028"]},
]


@pytest.fixture
def path(tmp_path):
    path = shard_path(tmp_path, 2, 12)
    write_shard(path, ORIGIN, ROWS)
    return path


def test_there_and_back(path):
    assert path.name == "scores-00002-of-00012.jsonl"
    assert read_shard(path, ORIGIN) == ROWS
    # Plain JSON lines, and nothing else is left in the directory.
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[1:3]] == ROWS
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: "\n".join(text.split("\n")[:2]) + "\n",
        lambda text: text.replace("1.0]", "0.0]"),
        lambda text: text.split("\n", 1)[1],
        lambda text: "[]\n" + text,
    ],
    ids=["empty", "cut", "a row less", "a score", "no header", "a list"],
)
def test_damage_is_refused(path, damage):
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match="scores-00002-of-00012.*damaged"):
        read_shard(path, ORIGIN)


@pytest.mark.parametrize("key", ORIGIN)
def test_what_is_foreign_is_refused(path, key):
    with pytest.raises(
        ValueError, match=f"scores-00002-of-00012.*differs in {key}"
    ):
        read_shard(path, {**ORIGIN, key: "another"})
