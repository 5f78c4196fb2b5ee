"""Every Python example in the README and in the docstrings runs."""

import inspect
import re
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest

import keras_visor

ROOT = Path(__file__).parents[1]
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


def run(code, **namespace):
    exec(compile(code, "<example>", "exec"), namespace)
    return namespace


def readme(section):
    """The examples of a section of the README."""
    text = (ROOT / "README.md").read_text()
    _, text = text.split(f"## {section}\n")
    text, *_ = text.split("\n## ")
    return examples(text)


def test_readme_asks(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run(readme("Ask"))["answers"] == ["table", "three"]


def test_readme_counts_flops():
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    section = readme("Load LLaVA-OneVision, make it a VISOR")
    namespace = run(section, keras_visor=keras_visor, lm=lm)
    assert namespace["flops"][-1] < namespace["dense_flops"]


@pytest.mark.parametrize("section", ["Fewer visual tokens", "Fine-tune"])
def test_readme(monkeypatch, section):
    """On its own."""
    monkeypatch.chdir(ROOT)
    assert "keras_visor" in run(readme(section))


@pytest.mark.parametrize("documented", documented(), ids=lambda o: o.__name__)
def test_docstring(documented, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(
        examples(documented.__doc__),
        keras=keras,
        keras_hub=keras_hub,
        keras_visor=keras_visor,
        np=np,
    )
