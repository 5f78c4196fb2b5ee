"""The README's recipe runs from end to end, on a tiny model."""

import re
from pathlib import Path

import keras
import pytest
from made_checkpoints import make_checkpoint

import keras_visor
from keras_visor import training

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="Each of its steps is tested"
)
def test_readme_recipe(samples, monkeypatch, tmp_path):
    checkpoint = make_checkpoint(
        tmp_path / "plain",
        num_layers=3,
        hidden_size=16,
        intermediate_size=24,
        vision_hidden=16,
        vision_layers=1,
    )
    section = README.read_text().split("## Train a VISOR")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    code = re.sub(r'"hf://.*?"', repr(str(checkpoint)), code)
    code = re.sub(r"num_steps=[\d_]+", "num_steps=1", code)
    code = code.replace(
        "uniform_layout(24)\n)", "uniform_layout(3)\n)\nsmall()"
    )
    code = code.replace('directory="runs/policy"', "num_steps=1")
    # Of a model that knows nothing no budget is worth its cost.
    monkeypatch.setattr(
        training, "viable_budgets", lambda found, min_gain: [[], [1]]
    )
    monkeypatch.chdir(tmp_path)

    def small():
        namespace["lm"].preprocessor.sequence_length = 28

    namespace = {"small": small}
    for name in ("knowledge", "instructions", "validation", "subset"):
        namespace[name] = {key: c[:4] for key, c in samples.items()}
    exec(compile(code, str(README), "exec"), namespace)

    lm = keras_visor.VisorCausalLM.from_preset(str(tmp_path / "visor"))
    assert lm.backbone.budgets == [[], [1]]
    assert lm.backbone.policy_rule == "tolerance"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "stage_1",
        "stage_2",
        "search",
        "universal",
        "scores",
        "validation",
    }
