import json
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_visor import VisorCausalLM
from keras_visor import VisorTokenizer
from keras_visor.cli import main
from keras_visor.datasets import pope_f1
from keras_visor.datasets import pope_scores
from keras_visor.datasets import public_datasets
from keras_visor.evaluation import command
from keras_visor.training import set_policy_rule

pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def data_dir(tmp_path):
    """Six questions of POPE in its published format."""
    folder = tmp_path / "data" / "downloads" / "manual" / "pope"
    (folder / "val2014").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for kind in ("random", "popular", "adversarial"):
        lines = ""
        for number, label in ((1, "yes"), (2, "no")):
            name = f"COCO_val2014_{kind}_{number}.jpg"
            pixels = rng.integers(0, 256, (40, 60, 3), "uint8")
            Image.fromarray(pixels).save(folder / "val2014" / name)
            question = {
                "question_id": number,
                "image": name,
                "text": f"Is there object {number} in the image?",
                "label": label,
            }
            lines += json.dumps(question) + "\n"
        (folder / f"coco_pope_{kind}.json").write_text(lines)
    return str(tmp_path / "data")


def evaluate(tmp_path, data_dir, *words, max_length=80):
    output = tmp_path / "output"
    words = ["evaluate", "visor_tiny_en", *words, "--output", str(output)]
    words += ["--data-dir", data_dir, "--max-length", str(max_length)]
    return main(words), output


def test_pope(tmp_path, data_dir, capsys):
    words = ("pope", "--budget", "1", "--reduce", "uniform_choice:0.5")
    status, output = evaluate(tmp_path, data_dir, *words, "--limit", "4")
    assert status == 0
    rows = (output / "pope.jsonl").read_text().splitlines()
    assert (
        json.loads(rows[0])["settings"]["reducer"] == "UniformChoice(rate=0.5)"
    )
    assert len(rows) == 1 + 4
    status, _ = evaluate(tmp_path, data_dir, *words)
    assert status == 0
    assert len((output / "pope.jsonl").read_text().splitlines()) == 1 + 6
    summary = json.loads((output / "summary.json").read_text())
    pope = summary["datasets"]["pope"]
    assert pope["questions"] == 6 and pope["budgets"] == {"1": 6}
    assert pope["group"] == "easy" and 0 <= pope["score"] <= 1
    assert pope["flops"] < pope["dense_flops"]
    assert summary["averages"]["easy"]["score"] == pope["score"]
    assert list(pope["parts"]) == ["random", "popular", "adversarial"]
    rows = list(map(json.loads, (output / "pope.jsonl").open()))[1:]
    for part, score in pope["parts"].items():
        of_part = [row for row in rows if row["part"] == part]
        assert len(of_part) == 2
        said = [row["answer"] for row in of_part]
        assert score == pope_f1(said, [row["answers"] for row in of_part])
    said = [row["answer"] for row in rows]
    scores = pope_scores(said, [row["answers"] for row in rows])
    assert pope["scores"] == scores
    printed = capsys.readouterr().out
    assert f"pope: accuracy {scores['accuracy']:.3f}, " in printed
    assert f"yes_ratio {scores['yes_ratio']:.3f}" in printed
    assert re.search(r"  popular +│ +│ +\d+\.\d │", printed)
    (row,) = [line for line in printed.splitlines() if " 6 " in line]
    assert f"{100 * pope['score']:.1f}" in row
    # With other settings, what is there would be mixed with something else.
    status, _ = evaluate(tmp_path, data_dir, "pope", "--budget", "0")
    assert status == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.skipif(
    keras.config.backend() != "torch", reason="the command is plain Python"
)
def test_every_data_set(tmp_path, capsys):
    """As published, all five of them in one table."""
    manual = tmp_path / "data" / "downloads" / "manual"
    published = Path(__file__).parents[1] / "datasets" / "public"
    names = list(public_datasets())
    for name in names:
        tests = runpy.run_path(str(published / f"test_{name}.py"))
        tests["make_files"](manual / name)
    words = (*names, "--budget", "0")
    status, output = evaluate(
        tmp_path, str(tmp_path / "data"), *words, max_length=150
    )
    assert status == 0
    summary = json.loads((output / "summary.json").read_text())
    assert list(summary["datasets"]) == names
    for name in names:
        found = summary["datasets"][name]
        lines = (output / f"{name}.jsonl").read_text().splitlines()[1:]
        rows = list(map(json.loads, lines))
        assert found["questions"] == len(rows) > 0
        assert found["score"] == public_datasets()[name].metric(
            [row["answer"] for row in rows], [row["answers"] for row in rows]
        )
    easy = [summary["datasets"][name]["score"] for name in names[:2]]
    assert summary["averages"]["easy"]["score"] == pytest.approx(np.mean(easy))
    # Even on a narrow terminal no name is cut.
    printed = capsys.readouterr().out
    assert re.search(r"│ average +│ hard +│ ", printed)
    for part in ("adversarial", "augmented"):
        assert f"│   {part}" in printed
    assert "…" not in printed


def test_too_little_room(tmp_path, data_dir, capsys, monkeypatch):
    """Known before anything is answered, and said where it cut answers off."""
    words = ("pope", "--limit", "2", "--budget", "0")
    status, output = evaluate(tmp_path, data_dir, *words, max_length=20)
    assert status == 2 and not output.exists()
    error = capsys.readouterr().err
    found = re.search(r"`--max-length`.*pope.* (\d+) text tokens.* 20", error)
    longest = int(found[1])
    status, output = evaluate(tmp_path, data_dir, *words, max_length=longest)
    assert status == 2 and not output.exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:  # Answers without end.
        patch.setattr(VisorTokenizer, "stop_token_ids", [])
        evaluate(tmp_path, data_dir, *words, max_length=longest + 1)
    printed = capsys.readouterr().out
    assert (
        f"pope: 2 answers were cut off at --max-length {longest + 1}" in printed
    )
    # Answers of more room are not put beside those.
    status, _ = evaluate(tmp_path, data_dir, *words)
    assert status == 2
    assert "differ in ['max_length']" in capsys.readouterr().err


def test_answers_of_another_model_are_not_taken(tmp_path, data_dir, capsys):
    """Of the same name and weights, whose policy spends otherwise."""
    preset = str(tmp_path / "preset")
    for tolerance in (0.0, 1.0):
        lm = VisorCausalLM.from_preset("visor_tiny_en")
        set_policy_rule(lm, "tolerance", tolerance)
        lm.save_to_preset(preset)
        words = ["evaluate", preset, "pope", "--limit", "1"]
        words += ["--data-dir", data_dir, "--output", str(tmp_path / "output")]
        status = main(words)
        assert status == (2 if tolerance else 0)
    assert "differ in ['model']" in capsys.readouterr().err


def test_averages_of_several_data_sets():
    def summary(group, score, flops):
        return {
            "group": group,
            "score": score,
            "parts": {},
            "questions": 10,
            "budgets": {0: 10},
            "flops": flops,
            "dense_flops": 8e9,
            "seconds": 2.0,
        }

    summaries = {
        "pope": summary("easy", 0.8, 1e9),
        "docvqa": summary("hard", 0.5, 2e9),
        "chartqa": summary("hard", 0.6, 6e9),
    }
    table = command._table(summaries, command.averages(summaries))
    columns = {c.header: list(c.cells) for c in table.columns}
    assert columns["data set"][3:] == ["average", "average"]
    assert columns["group"][3:] == ["easy", "hard"]
    assert columns["score"] == ["80.0", "50.0", "60.0", "80.0", "55.0"]
    assert columns["saved"] == ["8.0x", "4.0x", "1.3x", "8.0x", "2.0x"]
    assert columns["asked"][3:] == ["10", "20"]


@pytest.mark.parametrize(
    "words, message",
    [
        (("pop",), "`DATASET` must be of pope, .*pop"),
        (("pope", "--limit", "0"), "`--limit` must be 1 or more"),
        (("pope", "--batch-size", "-1"), "`--batch-size` must be 1 or more"),
        (("pope", "--reduce", "zip:1"), "NAME:RATE"),
        (("pope", "--budget", "much"), "`--budget`"),
        (("pope", "--budget", "3"), "`--budget` must be an index from 0 to 2"),
        (("docvqa",), "docvqa is missing. Put into"),
    ],
)
def test_refuses(tmp_path, data_dir, capsys, words, message):
    status, output = evaluate(tmp_path, data_dir, *words)
    assert status == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not output.exists()
