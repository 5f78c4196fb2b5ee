import json

import pytest
from PIL import Image

NAME = "chartqa"


def make_files(folder):
    for split in ("train", "val", "test"):
        images = folder / split / "png"
        images.mkdir(parents=True)
        # Charts have an alpha channel; where it is empty, paper is white.
        Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(images / "1.png")
        Image.new("RGBA", (2, 2), (255, 0, 0, 255)).save(images / "2.png")
        for source in ("human", "augmented"):
            write(
                folder / split / f"{split}_{source}.json",
                [
                    entry("1.png", f"{split} {source}?", "42.1"),
                    entry("2.png", "Which two?", "[Yes, No]"),
                ],
            )


def entry(imgname, query, label):
    return {"imgname": imgname, "query": query, "label": label}


def write(path, content):
    path.write_text(json.dumps(content))


def test_reads_the_published_files(folder, read):
    first, second, _, fourth = read("test")
    assert first == {
        "id": "human/1",
        "question": "test human?",
        "prompts": "test human?\nAnswer the question with a single word.",
        "image": (3, 4, 3, "white"),
        "answers": ["42.1"],
        "responses": "42.1",
        "group": "hard",
    }
    # A list is one answer.
    assert second["answers"] == ["[Yes, No]"]
    assert second["image"] == (2, 2, 3, "red")
    assert fourth["id"] == "augmented/2"


def test_splits_and_configs(folder, read):
    (folder / "train" / "png" / "2.png").unlink()
    for split in ("train", "val", "test"):
        path = folder / split / f"{split}_augmented.json"
        write(path, [entry("1.png", "Generated?", "1")])
    questions = {
        split: [each["question"] for each in read(split, "augmented")]
        for split in ("train", "validation", "test")
    }
    assert questions == dict.fromkeys(questions, ["Generated?"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must be a list"),
        ([], "holds no questions"),
        (
            [{**entry("1.png", "a?", "b"), "type": "pie"}],
            "1 has an unknown.*ty",
        ),
        ([{"imgname": "1.png", "query": "a?"}], "1 has no field `label`"),
        # Another mirror has a list of answers.
        ([entry("1.png", "a?", ["b"])], "1, field `label`, must be a string"),
    ],
)
def test_names_what_is_wrong_in_a_file(folder, read, content, message):
    path = folder / "val" / "val_human.json"
    write(path, content)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read("validation", "human")


def test_names_a_truncated_or_missing_file(folder, read):
    path = folder / "test" / "test_human.json"
    path.write_text(path.read_text()[:-1])
    with pytest.raises(ValueError, match=f"{path} .* truncated"):
        read("test", "human")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        read("test", "human")
    path = folder / "train" / "png" / "2.png"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path}.*question 2"):
        read("test", "augmented")
