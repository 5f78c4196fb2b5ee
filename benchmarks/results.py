"""results.json: a list of rows, of which a rerun replaces its own."""

import json
from pathlib import Path

KEYS = ("what", "backend", "machine", "visual_tokens", "batch", "budget")


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def key(row: dict) -> tuple:
    return tuple(row.get(name) for name in KEYS)


def merge(path: Path, row: dict) -> None:
    """Put a row in the place of its forerunner, or at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {key(known): known for known in read(path)}
    rows[key(row)] = row
    text = json.dumps(list(rows.values()), indent=1)
    # Never half a file, even if this process is stopped.
    part = path.with_suffix(".part")
    part.write_text(text + "\n", "utf-8")
    part.replace(path)


def has_cell(rows: list[dict], what: str, backend: str, cell: dict) -> bool:
    """Whether any row of what one measurement gives is there."""
    return any(
        row["what"] == what
        and row["backend"] == backend
        and all(row.get(name) == value for name, value in cell.items())
        for row in rows
    )
