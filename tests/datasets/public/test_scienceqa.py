import json

import pytest
from PIL import Image

NAME = "scienceqa"
PROBLEMS = {
    "1": {"split": "train"},
    "7": {"split": "val"},
    "4": {"split": "test", "image": None},
    "5": {"split": "test", "hint": ""},
    "9": {"split": "test", "answer": 1, "choices": ["a", "b", "c"]},
}


def make_files(folder):
    folder.mkdir(parents=True)
    for id_, fields in PROBLEMS.items():
        image = folder / "images" / fields["split"] / id_ / "image.png"
        image.parent.mkdir(parents=True)
        if "image" not in fields:
            # A palette.
            Image.new("RGB", (4, 3), (0, 255, 0)).convert("P").save(image)
    write_problems(folder)
    # Not in the order of the problems.
    write_splits(folder, test=["9", "5", "4"])


def problem(**more):
    return {
        "question": "Which animal's mouth is also adapted for bottom feeding?",
        "choices": ["discus", "armored catfish"],
        "answer": 1,
        "hint": "Sturgeons eat plants.\nFigure: sturgeon.",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade3",
        "subject": "natural science",
        "topic": "biology",
        "category": "Adaptations",
        "skill": "Animal adaptations: beaks, mouths, and necks",
        "lecture": "",
        "solution": "",
    } | more


def write_problems(folder, **more):
    problems = {id_: problem(**fields) for id_, fields in PROBLEMS.items()}
    path = folder / "problems.json"
    path.write_text(json.dumps(problems | more))
    return path


def write_splits(folder, **more):
    published = {
        "train": ["1"],
        "val": ["7"],
        "test": ["5"],
        "trainval": ["1", "7"],
        "minival": ["7"],
        "minitest": ["5"],
    }
    path = folder / "pid_splits.json"
    path.write_text(json.dumps(published | more))
    return path


def test_reads_the_published_files(folder, read):
    (example,) = read("validation")
    question = (
        "Context: Sturgeons eat plants.\nFigure: sturgeon.\n"
        "Which animal's mouth is also adapted for bottom feeding?\n"
        "A. discus\nB. armored catfish"
    )
    assert example == {
        "id": "7",
        "question": question,
        "prompts": f"{question}\nAnswer with the option's letter from the "
        "given choices directly.",
        "image": (3, 4, 3, "green"),
        "answers": ["B"],
        "responses": "B",
        "group": "easy",
    }


def test_only_problems_with_a_picture(folder, read):
    nine, five = read("test")
    assert (nine["id"], five["id"]) == ("9", "5")
    assert nine["question"].endswith("\nA. a\nB. b\nC. c")
    # Without a context the question comes first.
    assert five["question"].startswith("Which animal's mouth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": []}, "unknown field `choice`"),
        ({"choices": "discus"}, "field `choices`, must be a list"),
        ({"answer": 2}, "field `answer`, must be from 0 to 1.*: 2"),
        ({"answer": "B"}, "field `answer`, must be an integer.*'B'"),
        ({"split": "test"}, "field `split`, must be 'val'.*'test'"),
        ({"hint": None}, "field `hint`, must be a string"),
        ({"image": 5}, "field `image`, must be a string or null.*5"),
    ],
)
def test_names_what_is_wrong_in_a_problem(folder, read, change, message):
    wrong = problem(**{"split": "val"} | change)
    path = write_problems(folder, **{"7": wrong})
    with pytest.raises(ValueError, match=f"{path}, problem '7'.*{message}"):
        read("validation")


def test_names_what_is_wrong_in_the_splits(folder, read):
    path = write_splits(folder, val=["70"])
    with pytest.raises(ValueError, match=f"'70'.*`val` of {path}"):
        read("validation")
    write_splits(folder, dev=["7"])
    with pytest.raises(ValueError, match=f"{path}.*unknown field `dev`"):
        read("validation")
    write_splits(folder, train=[1])
    with pytest.raises(ValueError, match=f"{path}, field `train`, item 0"):
        read("validation")


@pytest.mark.parametrize("name", ["problems.json", "pid_splits.json"])
def test_names_a_truncated_or_missing_file(folder, read, name):
    path = folder / name
    path.write_text(path.read_text()[:-1])
    with pytest.raises(ValueError, match=f"{path} .* truncated"):
        read("validation")
    path.write_text("[]")
    with pytest.raises(ValueError, match=f"{path} must"):
        read("validation")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        read("validation")
