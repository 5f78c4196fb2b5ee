"""The training of the bundled model, and what is claimed of it."""

import collections
import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_visor
from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import question_families

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "torch", reason="what its commands say"
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "visor_tiny"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def run_script(monkeypatch, name, arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments.split()])
    runpy.run_path(str(FOLDER / name))["main"]()


def test_training(monkeypatch, tmp_path, capsys):
    """Goes on where it stopped, and what it writes can be loaded."""
    import route

    def train(steps):
        # The second time with a process that makes batches.
        run_script(
            monkeypatch,
            "train.py",
            f"--start visor_tiny_en --steps {steps} --steps-per-block 1 "
            f"--batch-size 2 --samples 60 --workers {steps - 1} "
            f"--run {tmp_path / 'run'} "
            f"--output {tmp_path / 'out'}",
        )

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(route, "route", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(steps=1)
    train(steps=2)
    assert "going on after step 1" in capsys.readouterr().out
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["schedule"]["steps"] == 2
    assert set(training["policies"]) == {"argmax", "tolerance"}
    assert training["policy_rule"] in training["policies"]
    assert {each["group"] for each in training["held_out"]} == {
        "background",
        "sum",
        "word_below",
    }
    lm = keras_visor.VisorCausalLM.from_preset(str(tmp_path / "out"))
    assert lm.backbone.policy is not None
    tried = [each["layers"] for each in training["subnetworks"]]
    assert len(tried) == 8
    assert all(budget in tried for budget in lm.backbone.budgets)
    assert len(lm.backbone.budgets) > 1


def test_training_the_dense_model(monkeypatch, tmp_path, capsys):
    import scoreboard

    monkeypatch.setattr(scoreboard, "SAMPLES", 30)

    def train(arguments):
        run_script(
            monkeypatch,
            "train.py",
            f"--dense --steps 1 --vision-steps 1 --batch-size 2 "
            f"--run {tmp_path / 'run'} --output {tmp_path / 'out'} {arguments}",
        )

    train("")
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert list(training["test"]) == ["[0, 1, 2, 3, 4, 5, 6, 7, 8]"]
    lm = keras_visor.VisorCausalLM.from_preset(str(tmp_path / "out"))
    assert lm.backbone.policy is None
    # The folder holds a training from other weights.
    with pytest.raises(ValueError, match="same training.*'start': None"):
        train(f"--start {tmp_path / 'out'}")
    with pytest.raises(ValueError, match="same training.*'learning_rate': 0.1"):
        train("--learning-rate 0.1")
    with pytest.raises(SystemExit):
        train("--start visor_tiny_en")
    assert "must be a dense model" in capsys.readouterr().err
    # And one of other budgets.
    other = f"train.py --steps 1 --vision-steps 1 --run {tmp_path / 'run'}"
    with pytest.raises(ValueError, match="same training.*'budgets'"):
        run_script(monkeypatch, *other.split(maxsplit=1))


def test_claims(monkeypatch, tmp_path):
    """What is claimed is what `generate` and the policy do."""
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    if lm.backbone.policy is None:
        lm = keras_visor.training.with_policy(lm)
    lm.save_to_preset(str(tmp_path / "preset"))
    out = tmp_path / "claims"
    run_script(
        monkeypatch,
        "claims.py",
        f"--seed 3 --samples 80 --out {out} --preset {tmp_path / 'preset'}",
    )
    claims = json.loads((out / "claims.json").read_text())

    from even_samples import draw_samples

    samples = draw_samples("test", {"coarse": 32, "fine": 32, "compare": 16}, 3)
    inputs = {name: samples[name] for name in ("prompts", "images")}
    coarse = np.array(samples["groups"]) == "coarse"
    for budget in ("full", "minimal", "auto"):
        answers = lm.generate(
            inputs, max_length=64, strip_prompt=True, budget=budget
        )
        right = np.array(answers) == samples["responses"]
        assert claims[f"{budget}_coarse"] == right[coarse].mean()
        assert claims[f"{budget}_fine"] < claims[f"{budget}_coarse"]
    assert 0 < claims["auto_coarse_flops_vs_dense"] < 1
    assert claims["seconds_to_answer"] > 0
    assert (out / "tradeoff.png").stat().st_size > 1000
    report = (out / "claims.md").read_text()
    assert all(family in report for family in question_families()["fine"])
    _, hidden = report.split("picture hidden")
    assert "sees grey" in hidden and "\n| compare |" in hidden


def test_held_out_families_are_reported():
    from claims import held_out_rows
    from route import HELD_OUT

    rows = held_out_rows("visor_tiny_en")
    assert [row[0] for row in rows] == list(HELD_OUT)
    assert held_out_rows(str(FOLDER)) == []  # No preset of such a training.


@pytest.fixture
def short_controls(monkeypatch, tmp_path):
    """Runs a script of controls at a tiny scale, in a folder of its own."""
    import comparisons
    import controls
    import reduced_controls
    import scoreboard
    from schedule import Schedule

    short = Schedule(
        vision_steps=1,
        steps=1,
        steps_per_block=1,
        batch_size=2,
        dtype="float32",
    )
    for name in ("SCHEDULE", "FROM_NOTHING"):
        monkeypatch.setattr(controls, name, short)
    another = dataclasses.replace(short, decay=0.5)
    schedules = {"dense": short, "full": short, "universal": another}
    monkeypatch.setattr(reduced_controls, "SCHEDULES", schedules)
    monkeypatch.setattr(reduced_controls, "ROUTING_SAMPLES", 60)
    monkeypatch.setattr(scoreboard, "SAMPLES", 30)
    for module in (controls, reduced_controls, comparisons):
        monkeypatch.setattr(module, "FOLDER", tmp_path)

    def run(script, arguments):
        monkeypatch.setattr(
            sys, "argv", f"x --run {tmp_path / 'run'} {arguments}".split()
        )
        script.main()

    return run


def test_controls(short_controls, capsys):
    import comparisons
    import controls

    with pytest.raises(SystemExit):
        short_controls(controls, "dense")
    assert "NAME must be of" in capsys.readouterr().err
    short_controls(controls, "more_cross_attention")
    short_controls(controls, "--from-nothing universal dense")
    on = comparisons.read_record("controls")
    found = comparisons.read_record("controls_from_nothing")
    # What has been trained before still answers after one step.
    assert on["more_cross_attention"]["budgets"]["[]"]["coarse"] > 0.8
    assert found["universal"]["budgets"]["[]"]["coarse"] < 0.5
    budgets = list(found["universal"]["budgets"])
    assert budgets[:2] == ["[]", "[2]"] and len(budgets) == 8
    (dense,) = found["dense"]["budgets"].values()
    assert dense["flops_vs_dense"] == pytest.approx(1)
    claims = comparisons.control_claims(on, found, {}, 0.2)
    assert claims["dense_fine"] == dense["fine"]


def test_reduced_controls(short_controls, tmp_path, capsys):
    """At the cost that they are given, from weights that can answer."""
    import comparisons
    import reduced_controls

    auto = 0.2
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "claims.json"
    path.write_text(json.dumps({"auto_flops_vs_dense": auto}))
    with pytest.raises(SystemExit):
        short_controls(reduced_controls, "full_half")
    assert "NAME must be of" in capsys.readouterr().err
    names = "full_vision_zip_auto full_fast_v_half universal_pooling_2x"
    short_controls(reduced_controls, names)
    reduced = comparisons.read_record("reduced_controls")
    assert list(reduced) == names.split()
    for name, share in zip(names.split(), (auto, auto / 2), strict=False):
        (scores,) = reduced[name]["budgets"].values()
        assert 0.9 * share < scores["flops_vs_dense"] < 1.02 * share
    decays = [record["schedule"]["decay"] for record in reduced.values()]
    assert decays == [0.3, 0.3, 0.5]
    (zipped,) = reduced["full_vision_zip_auto"]["budgets"].values()
    assert zipped["coarse"] > 0.5
    pooled = reduced["universal_pooling_2x"]
    assert list(pooled["budgets"]) == ["[]", "[4]", "[4, 6]"]
    costs = [each["flops_vs_dense"] for each in pooled["budgets"].values()]
    assert 0.03 < costs[0] <= pooled["auto"]["flops_vs_dense"] <= costs[-1]
    claims = comparisons.control_claims({}, {}, reduced, auto)
    assert set(claims) == {
        "full_reduction_best_fine",
        "full_reduction_best_fine_half",
        "tr2_fine",
        "tr2_best_fine_half",
    }
    comparisons.draw_pareto(reduced, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 1000


def made_up_controls():
    def scores(flops, coarse, fine, compare):
        return {
            "flops_vs_dense": flops,
            "coarse": coarse,
            "fine": fine,
            "compare": compare,
        }

    universal = {
        "budgets": {
            "[]": scores(0.1, 0.9, 0.5, 0.4),
            "[2, 4]": scores(0.4, 0.9, 0.8, 0.6),
        },
    }
    controls = {
        "universal": universal,
        "minimal": {"budgets": {"[]": scores(0.1, 0.9, 0.53, 0.4)}},
        "more_cross_attention": {"budgets": {"[]": scores(0.1, 1, 1, 1)}},
    }
    from_nothing = {
        "universal": universal,
        "minimal": {"budgets": {"[]": scores(0.1, 0.9, 0.7, 0.4)}},
        "dense": {"budgets": {"[0, 1]": scores(1.0, 0.95, 0.75, 0.6)}},
    }
    reduced = {
        "dense_fast_v_auto": {"budgets": {"[0]": scores(0.201, 0.9, 0.6, 0.5)}},
        "dense_hired_half": {"budgets": {"[0]": scores(0.1, 0.9, 0.45, 0.5)}},
        "dense_pooling_2x": {"budgets": {"[0]": scores(0.5, 0.9, 0.7, 0.5)}},
        "full_fast_v_auto": {"budgets": {"[0]": scores(0.2, 0.9, 0.65, 0.5)}},
        "full_unreduced": {"budgets": {"[0]": scores(0.3, 0.9, 0.9, 0.5)}},
        "universal_pooling_2x": {
            "budgets": {
                "[]": scores(0.07, 0.9, 0.5, 0.4),
                "[2, 4]": scores(0.3, 0.9, 0.79, 0.6),
            },
            "auto": scores(0.1, 0.9, 0.6, 0.5),
        },
    }
    return controls, from_nothing, reduced


def test_what_is_claimed_of_controls():
    from comparisons import control_claims

    claims = control_claims(*made_up_controls(), share=0.2)
    # The dense one's coarse questions, against the full budget.
    assert claims.pop("universal_worst_gap") == pytest.approx(0.05)
    assert claims == {
        "dense_coarse": 0.95,
        "dense_fine": 0.75,
        "reduction_best_fine": 0.6,
        "reduction_best_fine_half": 0.45,
        "full_reduction_best_fine": 0.65,
        "tr2_fine": 0.79,
        "tr2_best_fine_half": 0.6,
    }


def test_controls_are_compared_as_they_come():
    from comparisons import control_claims

    controls, from_nothing, reduced = made_up_controls()
    alone = {"universal": from_nothing["universal"]}
    dense = {"dense": from_nothing["dense"]}
    assert control_claims({}, {}, {}, 0.2) == {}
    claims = control_claims({}, dense, {}, 0.2)
    assert set(claims) == {"dense_coarse", "dense_fine"}
    assert "universal_worst_gap" not in control_claims({}, alone, {}, 0.2)
    claims = control_claims(controls, {}, {}, 0.2)
    assert claims == {"universal_worst_gap": pytest.approx(0.03)}
    name = "dense_hired_half"
    claims = control_claims({}, {}, {name: reduced[name]}, 0.2)
    assert claims["reduction_best_fine"] == 0.45
    assert "tr2_fine" not in claims
    name = "universal_pooling_2x"
    claims = control_claims({}, {}, {name: reduced[name]}, 0.2)
    assert claims["tr2_fine"] == 0.79
    assert "reduction_best_fine" not in claims


@pytest.mark.parametrize(
    "name, start, reducer",
    [
        ("dense", "dense", "unreduced"),
        ("full_unreduced", "full", "unreduced"),
        ("dense_vis_pruner_half", "dense", "vis_pruner"),
        ("universal_pooling_2x", "universal", "pooling_2x"),
    ],
)
def test_names_are_split(name, start, reducer):
    from comparisons import split_name

    assert split_name(name) == (start, reducer)


def test_a_hidden_picture_costs():
    """In score or in FLOPs, group by group."""
    from types import SimpleNamespace

    from claims import hidden_rows

    measured = SimpleNamespace(
        groups=np.array(["coarse", "coarse", "fine", "compare"]),
        scores=np.array([[1, 1], [1, 1], [0, 1], [1, 0]]),
        flops=np.array([[1.0, 4.0]] * 4),
        dense_flops=np.array([8.0] * 4),
        chosen=np.array([0, 0, 1, 0]),
    )
    hidden = np.array([1, 1, 0, 0])
    assert hidden_rows(measured, hidden) == [
        ["coarse", "100.0%", "8.0x", "100.0%", "2.0x"],
        ["fine", "100.0%", "2.0x", "0.0%", "8.0x"],
        ["compare", "100.0%", "8.0x", "100.0%", "8.0x"],
    ]


def test_labels_stand_on_their_words():
    from supervision import WORDS
    from supervision import label_words

    example = next(
        each for each in RenderedPictures("test", 50) if len(each["words"]) > 8
    )
    patches, labels, weights = label_words(example["words"])
    rows, columns = np.divmod(patches, 14)
    for row, column, label, known in zip(
        rows, columns, labels, weights, strict=True
    ):
        x, y = (column + 0.5) / 14, (row + 0.5) / 14
        shown = [
            word
            for word in example["words"]
            if word.box[0] - 0.03 < x < word.box[2] + 0.03
            and word.box[1] - 0.04 < y < word.box[3] + 0.04
        ]
        assert shown
        if known[3]:
            assert WORDS[label[3]] in [word.above for word in shown]


def test_tokens_of_labels_show_their_words():
    """A visual token is made from the patch that its label speaks of."""
    from model import make_model
    from model import universal_layout
    from supervision import WORDS
    from supervision import label_tokens
    from supervision import label_words

    example = RenderedPictures("test", 50).example(5)
    preprocessor = make_model(WORDS, universal_layout()).preprocessor
    x = preprocessor.generate_preprocess(
        {"prompts": ["?"], "images": [example["image"]]}
    )
    # Tiles of 49 patches, the first of the picture in small, the newline
    # before all of them.
    sources = x["vision_indices"][0, :, 0] - 1
    tokens, _, weights = label_tokens([example])
    patches, _, _ = label_words(example["words"])
    # The rest is padding.
    assert not weights[0, len(patches) :].any()
    for token, patch in zip(tokens[0, : len(patches)], patches, strict=True):
        row, column = divmod(patch, 14)
        tile = 1 + row // 7 * 2 + column // 7
        assert sources[token] == tile * 49 + row % 7 * 7 + column % 7


def test_bars_are_ranked():
    from supervision import WORDS
    from supervision import label_words

    from keras_visor.datasets.rendered.canvas import Word

    words = [
        Word("12", (0.1, 0.2, 0.3, 0.3), "tea", "age"),
        Word("red bar", (0.5, 0.2, 0.6, 0.9), None, "Mo"),
        Word("blue bar", (0.7, 0.5, 0.8, 0.9), None, "Tu"),
    ]
    found = {}
    for _, label, known in zip(*label_words(words), strict=True):
        if known[4]:
            word, second = WORDS[label[0]], WORDS[label[1]]
            found[word, second] = WORDS[label[4]]
    assert found == {("bar", "red"): "1", ("bar", "blue"): "2"}


def test_items_are_found_by_their_numbers():
    from answer_patches import answer_patches
    from supervision import label_patches

    from keras_visor.datasets.rendered.canvas import Word

    words = [
        Word(text, (left, top, left + 0.2, top + 0.1), beside, above)
        for text, left, top, beside, above in (
            ("age", 0.4, 0.1, None, None),
            ("size", 0.7, 0.1, None, None),
            ("tea", 0.1, 0.3, None, None),
            ("12", 0.4, 0.3, "tea", "age"),
            ("40", 0.7, 0.3, "tea", "size"),
            ("milk", 0.1, 0.5, None, None),
            ("30", 0.4, 0.5, "milk", "age"),
            ("12", 0.7, 0.5, "milk", "size"),
        )
    ]
    for question, answer, number in (
        ("whose age is 12?", "tea", 3),
        ("what has the most age?", "milk", 6),
        ("which has more size, milk or tea?", "tea", 4),
    ):
        np.testing.assert_array_equal(
            answer_patches(question, answer, words),
            label_patches(words[number].box),
        )


def test_answers_stand_where_they_are_drawn():
    """Of the numbers of a table, the one asked for, by row and column."""
    from answer_patches import answer_patches

    pictures = RenderedPictures("test", 200)
    cells = 0
    for example in map(pictures.example, range(200)):
        for question, answer, family in zip(
            *(example[name] for name in ("questions", "answers", "families")),
            strict=True,
        ):
            patches = answer_patches(question, answer, example["words"])
            if answer in ("yes", "no") or family == "shape_count":
                assert not len(patches)
            if family not in ("cell", "digit"):
                continue
            cells += 1
            names = set(question.rstrip("?").replace(",", "").split())
            (box,) = (
                word.box
                for word in example["words"]
                if word.text == answer and {word.beside, word.above} <= names
            )
            left, top, right, bottom = 14 * np.array(box)
            rows, columns = np.divmod(patches, 14)
            assert len(patches)
            assert (top - 1 < rows).all() and (rows < bottom + 0.5).all()
            assert (left - 1.3 < columns).all()
            assert (columns < right + 0.3).all()
    assert cells > 50


def test_only_answers_are_learned():
    from conversations import Conversations
    from model import make_model
    from model import universal_layout
    from supervision import WORDS

    lm = make_model(WORDS, universal_layout())
    batches = Conversations(
        lm.preprocessor,
        first=3,
        steps=1,
        batch_size=8,
        targets=("answer", "looks"),
        budgets=lm.backbone.budgets,
        draw_budget=lambda generator, step: 7,
        seed=0,
    )
    x, y, weight = batches[0]
    assert set(x["budget"]) == {7}
    assert (x["looked_at"].any(axis=-1) == (weight["looks"] > 0)).all()
    assert 0 < weight["looks"].sum() < weight["answer"].sum()
    assert (weight["looks"] <= weight["answer"]).all()
    for ids, answer, counts in zip(
        x["token_ids"], y["answer"], weight["answer"], strict=True
    ):
        tokenizer = lm.preprocessor.tokenizer
        text = tokenizer.detokenize(ids)
        learned = answer[counts > 0]
        (ends,) = np.nonzero(learned == tokenizer.end_token_id)
        answers = np.split(learned, ends + 1)
        assert len(answers) >= 5 and not len(answers[-1])
        for each in answers[:-1]:
            assert tokenizer.detokenize(each) in text


def test_batches_made_ahead_are_the_same():
    from concurrent.futures import ThreadPoolExecutor

    from conversations import Conversations
    from model import make_model
    from model import universal_layout
    from schedule import Universal
    from supervision import WORDS
    from workers import MadeAhead

    class Executor(ThreadPoolExecutor):
        def submit(self, make, pickled, index):
            submitted.append(index)
            return super().submit(make, pickled, index)

    submitted = []
    lm = make_model(WORDS, universal_layout())
    budgets = lm.backbone.budgets
    batches = Conversations(
        lm.preprocessor,
        first=5,
        steps=4,
        batch_size=2,
        targets=("answer", "looks"),
        budgets=budgets,
        draw_budget=Universal(len(budgets), full_steps=0),
        seed=0,
    )
    with Executor(2) as executor:
        made = MadeAhead(batches, executor, ahead=3)
        assert len(made) == 4
        for index in range(4):
            for ours, theirs in zip(made[index], batches[index], strict=True):
                assert list(ours) == list(theirs)
                for name in ours:
                    np.testing.assert_array_equal(ours[name], theirs[name])
        assert submitted == [0, 1, 2, 3] and not made.begun


def test_samples_are_even():
    from even_samples import draw_samples

    samples = draw_samples("test", {"coarse": 28, "fine": 14, "compare": 7})
    assert len(samples["images"]) == 49
    counts = collections.Counter(samples["families"])
    for group, families in question_families().items():
        each = {"coarse": 28, "fine": 14, "compare": 7}[group] / len(families)
        for family in families:
            assert abs(counts[family] - each) < 1, family


def test_readme_figures():
    readme = (ROOT / "README.md").read_text()
    claims = json.loads((FOLDER / "claims" / "claims.json").read_text())
    for budget in ("full", "minimal", "auto"):
        shares = (claims[f"{budget}_{group}"] for group in ("coarse", "fine"))
        row = " | ".join(f"{share:.1%}" for share in shares)
        assert f"| {budget} | {row} |" in readme, row
    for name in (
        "full_compare",
        "auto_flops_vs_dense",
        "auto_coarse_flops_vs_dense",
    ):
        assert f"{claims[name]:.1%}" in readme, name
    report = (FOLDER / "claims" / "claims.md").read_text()
    for family in ("which_more", "item"):
        cells = re.search(rf"^\| \w+ \| {family} (.*)", report, re.MULTILINE)
        *_, full, _auto, _layers = cells[1].split(" | ")
        assert full in readme, (family, full)
    prose = " ".join(readme.split())
    dense = json.loads((FOLDER / "dense" / "training.json").read_text())
    (dense_scores,) = dense["test"].values()
    auto = claims["auto_fine"]
    for text, difference in (
        ("only {} points fewer", auto - claims["full_reduction_best_fine"]),
        ("VisPruner, {} fewer", auto - claims["reduction_best_fine"]),
        ("answers {} points more", dense_scores["fine"] - auto),
    ):
        points = f"{100 * difference:.1f}"
        assert text.format(points) in prose, points
    assert f"pairs of tokens answers {claims['tr2_fine']:.1%} of" in prose
    reduced = json.loads((FOLDER / "reduced_controls.json").read_text())
    unpooled = reduced["universal_unreduced"]["budgets"]["[4, 6]"]
    assert f"without pooling these give {unpooled['fine']:.1%}" in prose
