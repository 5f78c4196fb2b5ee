"""Scores in plain files: one shard of the samples a file, JSON lines."""

import hashlib
import json
import pathlib

from keras_visor.training.files import write_whole

PATTERN = "scores-*.jsonl"


def shard_path(directory: pathlib.Path, index: int, count: int) -> pathlib.Path:
    return directory / f"scores-{index:05d}-of-{count:05d}.jsonl"


def write_shard(path: pathlib.Path, origin: dict, rows: list[dict]) -> None:
    """Write the rows of a shard, each on a line, after a header.

    Args:
        path: Path.
        origin: dict of JSON values. What the rows were computed from.
        rows: list of dict of JSON values.
    """
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    header = json.dumps({**origin, "digest": _digest(lines)})
    write_whole(path, "\n".join([header, *lines]) + "\n")


def read_shard(path: pathlib.Path, origin: dict) -> list[dict]:
    """The rows of a shard.

    Raises:
        ValueError: The file is damaged, or comes from something else than
            `origin`; the message has its name.
    """
    try:
        # Not `splitlines`: an answer may hold Unicode's other line ends.
        header, *lines = path.read_text(encoding="utf-8")[:-1].split("\n")
        header = json.loads(header)
        digest = header.pop("digest")
        rows = [json.loads(line) for line in lines]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(_damaged(path)) from error
    if digest != _digest(lines):
        raise ValueError(_damaged(path))
    differing = [key for key in origin if header.get(key) != origin[key]]
    if differing:
        raise ValueError(
            f"The shard {path} is of something else: it differs in "
            + ", ".join(
                f"{key} ({header.get(key)} there, {origin[key]} here)"
                for key in differing
            )
            + ". Pass another directory, or delete the file."
        )
    return rows


def _damaged(path):
    return f"The shard {path} is damaged. Delete it to compute it again."


def _digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
