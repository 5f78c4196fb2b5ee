"""Every Python example in the README and in the docstrings runs."""

import inspect
import json
import re
import runpy
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

import keras_visor

ROOT = Path(__file__).parents[1]
PRESET = ROOT / "keras_visor" / "presets" / "visor_tiny_en"
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def examples(text):
    """The fenced Python blocks that need no hub, as one program."""
    blocks = FENCE.findall(inspect.cleandoc(text))
    return "\n".join(code for code in blocks if "hf://" not in code)


def documented():
    modules = (
        keras_visor,
        keras_visor.analysis,
        keras_visor.checkpoints,
        keras_visor.datasets,
        keras_visor.evaluation,
        keras_visor.layers,
        keras_visor.reduction,
        keras_visor.training,
    )
    objects = {
        getattr(module, name) for module in modules for name in module.__all__
    }
    return sorted(
        (o for o in objects if callable(o) and examples(o.__doc__ or "")),
        key=lambda o: o.__name__,
    )


def run(code):
    namespace = {
        "keras": keras,
        "keras_hub": keras_hub,
        "keras_visor": keras_visor,
        "np": np,
    }
    exec(compile(code, "<example>", "exec"), namespace)
    return namespace


def test_readme(monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace = run(examples((ROOT / "README.md").read_text()))
    assert namespace["answers"] == ["table", "three"]
    assert namespace["flops"][-1] < namespace["dense_flops"]


def test_readme_figures():
    readme = (ROOT / "README.md").read_text()
    training = json.loads((PRESET / "training.json").read_text())
    for layers, scores in training["test"].items():
        row = f"| {layers} | {scores['exact_match']:.1%} |"
        assert row in readme, row
    minutes = f"in {training['training_minutes']:.0f} minutes"
    assert minutes in readme, minutes


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="what its command says"
)
def test_training_script(monkeypatch, tmp_path, capsys):
    """Goes on where it stopped, and what it writes can be loaded."""
    words = "--vision-steps 2 --steps 1 --batch-size 2 --samples 4".split()
    words += ["--run", str(tmp_path / "run"), "--output", str(tmp_path / "out")]
    for blocks in ("1", "2"):
        arguments = ["train_visor_tiny.py", *words, "--blocks", blocks]
        monkeypatch.setattr(sys, "argv", arguments)
        script = runpy.run_path(str(ROOT / "examples" / "train_visor_tiny.py"))
        script["main"]()
    assert "going on after block 1" in capsys.readouterr().out
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    bundled = json.loads((PRESET / "training.json").read_text())
    assert training.keys() == bundled.keys()
    assert training["test"].keys() == bundled["test"].keys()
    lm = keras_visor.VisorCausalLM.from_preset(str(tmp_path / "out"))
    ours = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    assert lm.backbone.budgets == ours.backbone.budgets
    shapes = [[w.shape for w in model.weights] for model in (lm, ours)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("documented", documented(), ids=lambda o: o.__name__)
def test_docstring(documented, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(examples(documented.__doc__))
