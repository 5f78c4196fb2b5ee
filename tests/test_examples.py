"""Every Python example in the README and in the docstrings runs."""

import inspect
import json
import re
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

import keras_visor

ROOT = Path(__file__).parents[1]
PRESET = ROOT / "keras_visor" / "presets" / "visor_tiny_en"
FENCE = re.compile(r"(<!-- not run[^>]*-->\n)?```python\n(.*?)```", re.DOTALL)


def examples(text):
    """The fenced Python blocks that need no hub, as one program."""
    blocks = FENCE.findall(inspect.cleandoc(text))
    return "\n".join(code for not_run, code in blocks if not not_run)


def documented():
    objects = [getattr(keras_visor, name) for name in keras_visor.__all__]
    objects += [
        getattr(keras_visor.analysis, name)
        for name in keras_visor.analysis.__all__
    ]
    objects += [
        getattr(keras_visor.datasets, name)
        for name in keras_visor.datasets.__all__
    ]
    return [o for o in objects if callable(o) and examples(o.__doc__ or "")]


def run(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace = {
        "keras": keras,
        "keras_hub": keras_hub,
        "keras_visor": keras_visor,
        "np": np,
    }
    exec(compile(code, "<example>", "exec"), namespace)
    return namespace


def test_readme(monkeypatch):
    namespace = run(examples((ROOT / "README.md").read_text()), monkeypatch)
    assert namespace["answers"] == ["table", "red"]
    assert namespace["flops"][-1] < namespace["dense_flops"]


def test_readme_figures():
    readme = (ROOT / "README.md").read_text()
    training = json.loads((PRESET / "training.json").read_text())
    for layers, scores in training["test"].items():
        row = f"| {layers} | {scores['exact_match']:.1%} |"
        assert row in readme, row


@pytest.mark.parametrize("documented", documented(), ids=lambda o: o.__name__)
def test_docstring(documented, monkeypatch):
    run(examples(documented.__doc__), monkeypatch)
