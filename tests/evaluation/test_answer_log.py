import json

import pytest

from keras_visor.evaluation import AnswerLog

SETTINGS = {"preset": "p", "budget": "full"}
ROWS = [{"index": 4, "answer": "yes"}, {"index": 0, "answer": "no\nü"}]


def test_comes_back_to_what_is_there(tmp_path):
    path = tmp_path / "pope.jsonl"
    AnswerLog(path, SETTINGS).append(ROWS)
    log = AnswerLog(path, SETTINGS)
    assert log.answers == {0: ROWS[1], 4: ROWS[0]}
    log.append([{"index": 7}])
    assert sorted(AnswerLog(path, SETTINGS).answers) == [0, 4, 7]


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_a_line_that_was_cut_off_is_written_again(tmp_path, lost):
    path = tmp_path / "pope.jsonl"
    AnswerLog(path, SETTINGS).append(ROWS)
    path.write_bytes(path.read_bytes()[:-lost])
    log = AnswerLog(path, SETTINGS)
    assert sorted(log.answers) == [4]
    log.append(ROWS[1:])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("index") for line in lines] == [None, 4, 0]


def test_a_file_without_a_whole_line_is_begun_again(tmp_path):
    path = tmp_path / "pope.jsonl"
    path.write_text('{"settin')
    assert AnswerLog(path, SETTINGS).answers == {}
    assert json.loads(path.read_text()) == {"settings": SETTINGS}


def test_refuses_other_settings(tmp_path):
    path = tmp_path / "pope.jsonl"
    AnswerLog(path, SETTINGS)
    with pytest.raises(ValueError, match=r"pope.jsonl.*\['budget'\].*full"):
        AnswerLog(path, {**SETTINGS, "budget": 1})


@pytest.mark.parametrize(
    "text", ["hello\n", "{}\n", "[1]\n", "hello", "no\nwhole line"]
)
def test_refuses_other_files(tmp_path, text):
    path = tmp_path / "pope.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no file of answers"):
        AnswerLog(path, SETTINGS)
    assert path.read_text() == text
