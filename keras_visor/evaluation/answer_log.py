"""A file of answers that a killed process leaves whole."""

import json
import os
from collections.abc import Iterable

# What every such file begins with.
_START = b'{"settings": '


class AnswerLog:
    """Answers in a file of JSON lines, to which an evaluation comes back.

    The first line holds the settings, every other one an answer under the
    index of its question. A line is there or it is not: what a kill cut off
    is removed when the file is opened again.

    Args:
        path: str or path. The file, which is made if it is not there.
        settings: dict of JSON values. What the answers depend on.

    Attributes:
        answers: dict. By index of the question, what `append` was given.

    Raises:
        ValueError: The file is of other settings, or is no such file.

    Example:
    ```python
    log = keras_visor.evaluation.AnswerLog("pope.jsonl", {"budget": "full"})
    log.append([{"index": 3, "answer": "yes"}])
    ```
    """

    def __init__(self, path: str | os.PathLike, settings: dict):
        self.path = os.fspath(path)
        self.answers: dict[int, dict] = {}
        content = b""
        if os.path.exists(self.path):
            with open(self.path, "rb") as file:
                content = file.read()
        length = content.rfind(b"\n") + 1
        if not length and _START.startswith(content[: len(_START)]):
            # Not even its first line is whole, or it is a new file.
            self._truncate(0)
            self._write([{"settings": settings}])
            return
        try:
            lines = content[:length].decode("utf-8").splitlines()
            first, *rows = map(json.loads, lines)
            stored = first["settings"]
            self.answers = {row["index"]: row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`{self.path}` is no file of answers: {error!r}"
            ) from error
        if stored != settings:
            differing = sorted(
                name
                for name in {*stored, *settings}
                if stored.get(name) != settings.get(name)
            )
            raise ValueError(
                f"`{self.path}` holds answers of other settings. They differ "
                f"in {differing}: there {[stored.get(n) for n in differing]}, "
                f"here {[settings.get(n) for n in differing]}. Delete it, or "
                "write somewhere else"
            )
        if length < len(content):
            self._truncate(length)

    def append(self, rows: Iterable[dict]) -> None:
        """Add answers, each with its `index`, and see them onto the disk."""
        rows = list(rows)
        self._write(rows)
        self.answers |= {row["index"]: row for row in rows}

    def _write(self, rows):
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())

    def _truncate(self, length):
        """Cut off what is not whole."""
        with open(self.path, "ab") as file:
            file.truncate(length)
