"""The JSON files of a checkpoint."""

import json

from keras_visor._compat import check_file_exists
from keras_visor._compat import get_file


def read_json(preset: str, name: str) -> dict | None:
    """Read a JSON file of a checkpoint.

    Args:
        preset: str. A directory, a built-in name or a handle.
        name: str. The file's name, such as `"config.json"`.

    Returns:
        A dict, or None where there is no such file.

    Raises:
        ValueError: The file is not JSON, or not a JSON object. The message
            names it.
    """
    if not check_file_exists(preset, name):
        return None
    path = get_file(preset, name)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"`{path}` is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object.")
    return content
