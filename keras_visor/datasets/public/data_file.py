"""Reading the files of a data set, with errors that name file and field."""

import json
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from types import GenericAlias
from types import UnionType
from typing import Any

_Type = type | GenericAlias | UnionType
_NAMES = {
    str: "a string",
    int: "an integer",
    list: "a list",
    dict: "an object",
    object: "a string or a number",
    str | None: "a string or null",
}


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, or ends too early.
    """
    return _parse(_read_text(path), path)


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Reads a file with a JSON value a line.

    Yields:
        Where each value stands, to be named in errors, and the value.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, or a line is not JSON or ends too early.
    """
    text = _read_text(path).removesuffix("\n")
    if not text:
        raise ValueError(f"{path} is empty.")
    # Not `splitlines`: a string may hold other ends of lines as they are.
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        yield where, _parse(line, where)


def number_questions(entries: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Goes through the questions of a file.

    Args:
        entries: object. What should be a list of questions.
        path: path. Where they were read.

    Yields:
        Where each question stands, to be named in errors, and the question.

    Raises:
        ValueError: if `entries` is not a list, or is empty.
    """
    _check_type(entries, list, path)
    if not entries:
        raise ValueError(f"{path} holds no questions.")
    for number, entry in enumerate(entries, start=1):
        yield f"{path}, question {number}", entry


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from None


def _parse(text: str, where: Path | str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where} is not JSON, or is truncated: {error}."
        ) from None


def check_fields(
    entry: Any,
    where: Path | str,
    used: Mapping[str, _Type],
    unused: Collection[str] = (),
) -> None:
    """Checks that an object has the published fields and no others.

    Args:
        entry: object. What was read.
        where: path or string. Where it stands, to be named in errors.
        used: mapping from the fields that are read to their types: `str`,
            `str | None`, `int`, `list`, `list[str]`, or `object` for any.
        unused: collection of strings. Fields that are published too, and may
            be absent.

    Raises:
        ValueError: if `entry` is not an object, or if a field is missing, not
            known or of another type.
    """
    _check_type(entry, dict, where)
    for name in used:
        if name not in entry:
            raise ValueError(f"{where} has no field `{name}`.")
    for name in entry:
        if name not in used and name not in unused:
            raise ValueError(
                f"{where} has an unknown field `{name}`. Known: "
                f"{sorted([*used, *unused])}. Is it another version?"
            )
    for name, kind in used.items():
        _check_type(entry[name], kind, f"{where}, field `{name}`,")


def check_value(entry: Mapping, name: str, expected: str, where: Path) -> None:
    """Checks a field that says which version or split a file is.

    Raises:
        ValueError: if it says anything but `expected`.
    """
    # A version may be written as a number.
    if str(entry[name]) != expected:
        raise ValueError(
            f"{where} must have the {name} {expected!r}. "
            f"Received: {name}={entry[name]!r}"
        )


def _check_type(value: Any, kind: _Type, where: Path | str) -> None:
    if kind == list[str]:
        _check_type(value, list, where)
        for index, item in enumerate(value):
            if not isinstance(item, str):
                _check_type(item, str, f"{where} item {index},")
    # True is an int to Python.
    elif not isinstance(value, kind) or isinstance(value, bool):
        shown = repr(value)
        if len(shown) > 80:
            shown = f"{shown[:77]}..."
        raise ValueError(f"{where} must be {_NAMES[kind]}. Received: {shown}")
