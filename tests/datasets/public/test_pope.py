import json

import pytest
from PIL import Image

from keras_visor import VisorCausalLMPreprocessor

NAME = "pope"
IMAGES = ("COCO_val2014_000000310196.jpg", "COCO_val2014_000000210789.jpg")


def lines(*labels, **more):
    return "".join(
        json.dumps(
            {
                "question_id": number,
                "image": IMAGES[number - 1],
                "text": f"Is there object {number} in the image?",
                "label": label,
            }
            | more
        )
        + "\n"
        for number, label in enumerate(labels, start=1)
    )


def make_files(folder):
    images = folder / "val2014"
    images.mkdir(parents=True)
    Image.new("RGB", (4, 3), (255, 0, 0)).save(images / IMAGES[0])
    Image.new("L", (6, 2), 255).save(images / IMAGES[1])
    (folder / "coco_pope_random.json").write_text(lines("yes", "no"))
    (folder / "coco_pope_popular.json").write_text(lines("no"))
    # The published file has one field more, and may lack the last new line.
    adversarial = lines("yes", "no", image_id=310196)
    (folder / "coco_pope_adversarial.json").write_text(adversarial[:-1])


def test_reads_the_published_files(folder, read):
    first, second = read("test", "random")
    assert first == {
        "id": "random/1",
        "question": "Is there object 1 in the image?",
        "prompts": "Is there object 1 in the image?\n"
        "Answer the question using a single word or phrase.",
        "image": (3, 4, 3, "red"),
        "answers": ["yes"],
        "responses": "yes",
        "group": "easy",
    }
    assert second["answers"] == ["no"]
    # A grey picture has three channels too.
    assert second["image"] == (2, 6, 3, "white")


def test_kinds_are_configs(folder, read):
    random = ["random/1", "random/2"]
    adversarial = ["adversarial/1", "adversarial/2"]
    assert [each["id"] for each in read("test", "adversarial")] == adversarial
    assert [each["id"] for each in read("test", "popular")] == ["popular/1"]
    # Without a name it is all of them, in this order.
    assert [each["id"] for each in read("test")] == [
        *random,
        "popular/1",
        *adversarial,
    ]


def test_goes_into_fit(folder, prepare):
    preprocessor = VisorCausalLMPreprocessor.from_preset("visor_tiny_en")
    columns = ("prompts", "images", "responses")
    dataset = prepare("random").as_dataset("test")
    dataset = dataset.map(lambda x: {name: x[name] for name in columns})
    # The images are not of one size.
    ((x, y, weight),) = dataset.ragged_batch(2).map(preprocessor)
    said = [
        preprocessor.tokenizer.detokenize(ids[kept == 1])
        for ids, kept in zip(y.numpy(), weight.numpy(), strict=True)
    ]
    assert said == ["yes", "no"]
    assert x["images"].shape[0] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (lines("yes", "no")[:-20], "line 2 is not JSON, or is truncated"),
        (lines("yes") + "\n", "line 2 is not JSON"),
        ("[]\n", "line 1 must be an object. Received: \\[\\]"),
        (lines("yes", split="a"), "line 1 has an unknown field `split`"),
        (lines("yes", "maybe"), "line 2, field `label`, .*'maybe'"),
        (lines("yes", text=3), "line 1, field `text`, must be a string.*3"),
        (lines("yes", question_id=True), "field `question_id`.*an integer"),
        ('{"question_id": 1, "image": "a.jpg"}', "line 1 has no field `text`"),
        ("\xff", "is not UTF-8 text"),
    ],
)
def test_names_what_is_wrong_in_a_file(folder, read, text, message):
    path = folder / "coco_pope_popular.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read("test", "popular")


def test_names_a_missing_file(folder, read):
    path = folder / "coco_pope_popular.json"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        read("test", "popular")


def test_names_a_missing_or_damaged_image(folder, read):
    path = folder / "val2014" / IMAGES[1]
    path.write_bytes(path.read_bytes()[:-200])
    where = folder / "coco_pope_random.json"
    with pytest.raises(ValueError, match=f"{where}, line 2.*{path}"):
        read("test", "random")
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=f"{where}, line 2.*{path}"):
        read("test", "random")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path}.*{where}, line 2"):
        read("test", "random")


def test_says_what_to_download(tmp_path, read):
    (tmp_path / "manual" / "other").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match="(?s)pope is missing.*coco_pope_random.json"
    ):
        read("test")
