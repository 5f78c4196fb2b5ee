import json

import pytest
from PIL import Image

NAME = "docvqa"
FILES = {
    "train": "train_v1.0_withQT.json",
    "val": "val_v1.0_withQT.json",
    "test": "test_v1.0.json",
}


def make_files(folder):
    images = folder / "spdocvqa_images"
    images.mkdir(parents=True)
    Image.new("L", (4, 5), 255).save(images / "pybv0228_81.png")
    (folder / "spdocvqa_qas").mkdir()
    for split in FILES:
        write(folder, split, [entry(split, 1), entry(split, 2)])


def entry(split, number, **more):
    published = {
        "questionId": 49152 + number,
        "question": "What is the ‘actual’ value per 1000?",
        "question_types": ["figure/diagram"],
        "image": "documents/pybv0228_81.png",
        "docId": 14465,
        "ucsf_document_id": "pybv0228",
        "ucsf_document_page_no": "81",
        "answers": ["0.28", ".28"],
        "data_split": split,
    }
    if split == "test":
        del published["question_types"], published["answers"]
    return published | more


def write(folder, split, data, **more):
    header = {
        "dataset_name": "SP-DocVQA",
        "dataset_version": "1.0",
        "dataset_split": split,
        "data": data,
    }
    path = folder / "spdocvqa_qas" / FILES[split]
    text = json.dumps(header | more, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_the_published_files(folder, read):
    first, second = read("validation")
    assert first == {
        "id": "49153",
        "question": "What is the ‘actual’ value per 1000?",
        "prompts": "What is the ‘actual’ value per 1000?\n"
        "Answer the question using a single word or phrase.",
        "image": (5, 4, 3, "white"),
        "answers": ["0.28", ".28"],
        "responses": "0.28",
        "group": "hard",
    }
    assert second["id"] == "49154"
    assert len(read("train")) == 2


def test_answers_of_the_test_split_are_not_public(folder, read):
    first, _ = read("test")
    assert first["answers"] == []
    assert first["responses"] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_version": "2.0"}, "dataset_version '1.0'.*'2.0'"),
        ({"dataset_split": "train"}, "dataset_split 'val'.*'train'"),
        ({"licence": "none"}, "unknown field `licence`"),
        ({"data": {}}, "must be a list"),
        ({"data": []}, "holds no questions"),
    ],
)
def test_names_another_version(folder, read, change, message):
    path = write(folder, "val", **{"data": [entry("val", 1)]} | change)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read("validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "0.28"}, "unknown field `answer`"),
        ({"answers": "0.28"}, "field `answers`, must be a list.*'0.28'"),
        ({"answers": ["1", 2]}, "field `answers`, item 1, must be a string"),
        ({"answers": []}, "field `answers`, is empty"),
        ({"questionId": "49153"}, "field `questionId`, must be an integer"),
    ],
)
def test_names_what_is_wrong_in_a_question(folder, read, change, message):
    path = write(folder, "val", [entry("val", 1), entry("val", 2, **change)])
    with pytest.raises(ValueError, match=f"{path}, question 2.*{message}"):
        read("validation")


def test_names_a_truncated_file_and_a_missing_image(folder, read):
    path = folder / "spdocvqa_qas" / FILES["test"]
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{path} .* truncated"):
        read("test")
    path.write_text(whole)
    image = folder / "spdocvqa_images" / "pybv0228_81.png"
    image.unlink()
    with pytest.raises(FileNotFoundError, match=f"{image}.*question 1"):
        read("test")
