import json

import pytest
from PIL import Image

NAME = "textvqa"
ANSWERS = ["nokia"] * 4 + ["Nokia E71"] * 5 + [""]


def make_files(folder):
    for images in ("train_images", "test_images"):
        (folder / images).mkdir(parents=True)
    red = Image.new("RGB", (4, 3), (255, 0, 0))
    red.save(folder / "train_images" / "003a8ae2ef43b901.jpg")
    # A camera that was held upright: EXIF turns the picture.
    exif = Image.Exif()
    exif[0x0112] = 6
    green = Image.new("RGB", (4, 3), (0, 255, 0))
    green.save(folder / "test_images" / "003a8ae2ef43b901.jpg", exif=exif)
    for split in ("train", "val", "test"):
        write(folder, split, [entry(split, 1), entry(split, 2)])


def entry(split, number, **more):
    published = {
        "question": "what brand is this NOKIA?",
        "image_id": "003a8ae2ef43b901",
        "image_classes": ["Mobile phone"],
        "flickr_original_url": "https://farm1.staticflickr.com/1_o.jpg",
        "flickr_300k_url": "https://farm1.staticflickr.com/1_z.jpg",
        "image_width": 1024,
        "image_height": 683,
        "answers": ANSWERS,
        "question_tokens": ["what", "brand", "is", "this", "nokia"],
        "question_id": 34601 + number,
        "set_name": split,
    }
    if split == "test":
        del published["answers"]
    return published | more


def write(folder, split, data, **more):
    header = {
        "dataset_type": split,
        "dataset_name": "textvqa",
        "dataset_version": "0.5.1",
        "data": data,
    }
    path = folder / f"TextVQA_0.5.1_{split}.json"
    path.write_text(json.dumps(header | more))
    return path


def test_reads_the_published_files(folder, read):
    first, second = read("validation")
    assert first == {
        "id": "34602",
        "question": "What brand is this nokia?",
        "prompts": "What brand is this nokia?\n"
        "Answer the question using a single word or phrase.",
        "image": (3, 4, 3, "red"),
        "answers": ANSWERS,
        "responses": "Nokia E71",
        "group": "hard",
    }
    assert second["id"] == "34603"
    assert len(read("train")) == 2


def test_test_split_has_its_own_images_and_no_answers(folder, read):
    first, _ = read("test")
    assert first["answers"] == []
    assert first["responses"] == ""
    assert first["image"] == (4, 3, 3, "green")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_version": "0.5"}, "dataset_version '0.5.1'.*'0.5'"),
        ({"dataset_version": 0.5}, "dataset_version '0.5.1'.*0.5"),
        ({"dataset_type": "train"}, "dataset_type 'val'.*'train'"),
        ({"vocabulary": []}, "unknown field `vocabulary`"),
    ],
)
def test_names_another_version(folder, read, change, message):
    path = write(folder, "val", [entry("val", 1)], **change)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read("validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ocr_tokens": ["nokia"]}, "unknown field `ocr_tokens`"),
        ({"answers": ["nokia"] * 9}, "`answers`, must hold 10.*: 9"),
        ({"answers": None}, "field `answers`, must be a list.*None"),
        ({"image_id": 3}, "field `image_id`, must be a string"),
    ],
)
def test_names_what_is_wrong_in_a_question(folder, read, change, message):
    path = write(folder, "train", [entry("train", 1, **change)])
    with pytest.raises(ValueError, match=f"{path}, question 1.*{message}"):
        read("train")


def test_names_a_truncated_or_missing_file(folder, read):
    path = folder / "TextVQA_0.5.1_val.json"
    path.write_text(path.read_text()[:-2])
    with pytest.raises(ValueError, match=f"{path} .* truncated"):
        read("validation")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        read("validation")
