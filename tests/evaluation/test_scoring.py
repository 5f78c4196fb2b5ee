import numpy as np
import pytest
from samples import MAX_LENGTH
from samples import picture

from keras_visor.analysis import count_flops
from keras_visor.datasets.metrics import exact_match
from keras_visor.evaluation import AnswerLog
from keras_visor.evaluation import answer_questions
from keras_visor.evaluation import summarize

SIZES = [(24, 50), (10, 100), (24, 50), (30, 30), (10, 100)]
EXAMPLES = [
    {
        "prompts": f"Is there object {index} in the image?",
        "images": picture(*size, seed=index),
        "answers": ["yes"] if index != 3 else [],
    }
    for index, size in enumerate(SIZES)
]


def answered(lm, path, examples=EXAMPLES, **arguments):
    log = AnswerLog(path, {})
    answer_questions(
        lm, examples, log, budget=1, max_length=MAX_LENGTH, **arguments
    )
    return log.answers


def test_every_question_is_answered_as_if_alone(visor, tmp_path):
    done = []
    answers = answered(
        visor, tmp_path / "log", batch_size=2, on_progress=done.append
    )
    # Nobody can score number 3.
    assert sorted(answers) == [0, 1, 2, 4] and sum(done) == 5
    for index, row in answers.items():
        example = EXAMPLES[index]
        answer, report = visor.generate(
            {"prompts": example["prompts"], "images": [example["images"]]},
            max_length=MAX_LENGTH,
            strip_prompt=True,
            budget=1,
            return_report=True,
        )
        assert row["answer"] == answer and row["answers"] == ["yes"]
        assert row["part"] == ""
        used = row["text_tokens"] + row["answer_tokens"]
        assert row["cut_off"] == (used == MAX_LENGTH)
        for name, values in report.items():
            assert row[name] == values[0]
        assert row["seconds"] > 0


def test_goes_on_where_it_stopped(visor, tmp_path, monkeypatch):
    whole = answered(visor, tmp_path / "whole")
    path = tmp_path / "log"
    answered(visor, path, EXAMPLES[:2])
    asked = []
    generate = type(visor).generate

    def counted(self, inputs, **arguments):
        asked.extend(inputs["prompts"])
        return generate(self, inputs, **arguments)

    monkeypatch.setattr(type(visor), "generate", counted)
    answers = answered(visor, path)
    assert sorted(asked) == [EXAMPLES[2]["prompts"], EXAMPLES[4]["prompts"]]
    assert {i: row["answer"] for i, row in answers.items()} == {
        i: row["answer"] for i, row in whole.items()
    }


def test_summary_by_hand(visor):
    rows = [
        {"answer": "yes", "answers": ["yes"], "budget": 2, "seconds": 1.5},
        {"answer": "no", "answers": ["yes"], "budget": 0, "seconds": 1},
        {"answer": "yes", "answers": ["yes"], "budget": 2, "seconds": 0.5},
    ]
    for row, part in zip(rows, ("human", "augmented", "human"), strict=True):
        row |= {"part": part, "text_tokens": 30, "vision_tokens": 50}
        row["cut_off"] = row["answer"] == "no"

    def metric(answers, references):
        return float(
            np.mean([a in r for a, r in zip(answers, references, strict=True)])
        )

    summary = summarize(visor, rows, metric)
    flops = [count_flops(visor.backbone, 30, 50, b) for b in (2, 0, 2)]
    assert summary == {
        "score": pytest.approx(2 / 3),
        "scores": {},
        "parts": {"augmented": 0.0, "human": 1.0},
        "questions": 3,
        "cut_off": 1,
        "budgets": {0: 1, 2: 2},
        "flops": pytest.approx(np.mean(flops)),
        "dense_flops": count_flops(visor.backbone, 30, 50),
        "seconds": 3.0,
    }

    of_one_part = [{**row, "part": ""} for row in rows]
    assert summarize(visor, of_one_part, metric)["parts"] == {}
    more = summarize(visor, rows, metric, lambda *_: {"hits": 2.0})["scores"]
    assert more == {"hits": 2.0}


def test_refuses_bad_counts(visor, tmp_path):
    log = AnswerLog(tmp_path / "log", {})
    for name in ("batch_size", "max_length"):
        with pytest.raises(ValueError, match=f"`{name}` must be 1 or more"):
            answer_questions(visor, EXAMPLES, log, **{name: 0})


def test_refuses_no_answers(visor):
    with pytest.raises(ValueError, match="`answers` must hold an answer"):
        summarize(visor, [], exact_match)
