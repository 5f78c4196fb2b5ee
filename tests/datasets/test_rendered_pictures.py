import collections
import colorsys
import hashlib
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest

from keras_visor.datasets import RenderedPictures
from keras_visor.datasets import question_families
from keras_visor.datasets.rendered.fonts import FONTS
from keras_visor.datasets.rendered.fonts import UNSEEN_FONTS
from keras_visor.datasets.rendered.fonts import handwritten_digits
from keras_visor.datasets.rendered.vocabulary import SEEN
from keras_visor.datasets.rendered.vocabulary import UNSEEN

KINDS = ("scene", "table", "chart", "letter", "form", "grid")
SHAPES = ("circle", "square", "triangle", "cross", "star")
NUMBERS = ("zero", "one", "two", "three", "four", "five")
# What people call these hues, in degrees: not the generator's own palette.
HUES = {
    "red": (-15, 16),
    "orange": (17, 42),
    "yellow": (43, 70),
    "green": (90, 165),
    "blue": (205, 245),
    "purple": (260, 305),
}


@pytest.fixture(scope="module")
def examples():
    return list(RenderedPictures("test", 3000, seed=5))


@pytest.fixture(scope="module")
def read_examples(examples):
    """Those whose pictures are read pixel by pixel, which takes longer."""
    return examples[:1800]


def questions_of(examples, family):
    for example in examples:
        for question, answer, name in zip(
            example["questions"],
            example["answers"],
            example["families"],
            strict=True,
        ):
            if name == family:
                yield example["image"], question.lower(), answer


def hue_mask(image, colour):
    """True where a pixel is vividly of this colour."""
    red, green, blue = np.moveaxis(image.astype(float) / 255, -1, 0)
    high, low = image.max(-1) / 255, image.min(-1) / 255
    hue = np.degrees(
        np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    )
    start, end = HUES[colour]
    hue = (hue - start) % 360 + start
    return (hue <= end) & (high - low > 0.3) & (high > 0.45)


def blobs(mask, smallest=40):
    """Connected regions of a mask, each a list of (row, column)."""
    left = {tuple(place) for place in np.argwhere(mask)}
    found = []
    while left:
        edge, blob = [left.pop()], []
        while edge:
            row, column = edge.pop()
            blob.append((row, column))
            for place in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if place in left:
                    left.remove(place)
                    edge.append(place)
        if len(blob) >= smallest:
            found.append(blob)
    return found


def coloured_blobs(image):
    return [
        (colour, blob)
        for colour in HUES
        for blob in blobs(hue_mask(image, colour))
    ]


def read_shape(blob):
    """Names a filled shape from where its bounding box is filled."""
    places = np.array(blob)
    places -= places.min(0)
    height, width = places.max(0) + 1
    box = np.zeros((height, width))
    box[places[:, 0], places[:, 1]] = 1
    corner_rows, corner_columns = max(height // 8, 1), max(width // 8, 1)
    top_left = box[:corner_rows, :corner_columns].mean()
    bottom_left = box[-corner_rows:, :corner_columns].mean()
    if top_left > 0.5:
        return "square"
    if bottom_left > 0.3 and box.mean() > 0.42:
        return "triangle"
    if box.mean() > 0.68:
        return "circle"
    upper_side = box[height // 4 - 1 : height // 4 + 1, : width // 6]
    middle_side = box[height // 2, : max(width // 6, 1)]
    if middle_side.mean() > 0.5 and upper_side.mean() < 0.5:
        return "cross"
    return "star"


def named(question, words):
    """The one word of `words` that the question has."""
    (word,) = set(re.findall(r"\w+", question)) & set(words)
    return word


def test_hues_are_those_of_colorsys():
    # The independent reading above, checked against the standard library.
    for degrees in range(0, 360, 7):
        colour = colorsys.hsv_to_rgb(degrees / 360, 0.9, 0.9)
        pixel = (np.array(colour) * 255).round().astype(np.uint8)[None, None]
        for name, (start, end) in HUES.items():
            inside = start <= degrees <= end or start <= degrees - 360 <= end
            # Hue by arctangent is off by a degree at most between the axes.
            near = min(
                abs((degrees - bound + 180) % 360 - 180)
                for bound in (start, end)
            )
            if near > 2:
                assert hue_mask(pixel, name)[0, 0] == inside, (degrees, name)


def test_shape_of_example():
    example = RenderedPictures("train", 3, image_size=128).example(2)
    assert example["image"].shape == (128, 128, 3)
    assert example["image"].dtype == np.uint8
    assert 4 <= len(example["questions"]) <= 9
    assert len(example["questions"]) == len(example["answers"])
    assert len(example["questions"]) == len(example["families"])
    assert len(set(example["families"])) == len(example["families"])


def test_is_a_sequence():
    pictures = RenderedPictures("train", 3)
    assert len(pictures) == 3
    assert [each["questions"] for each in pictures] == [
        pictures.example(index)["questions"] for index in range(3)
    ]
    with pytest.raises(IndexError, match="from 0 to 2. Received: index=3"):
        pictures.example(3)
    with pytest.raises(IndexError, match="index=-1"):
        pictures.example(-1)


def test_same_in_another_process():
    # A string's hash differs from process to process: nothing may depend on it.
    program = (
        "import hashlib\n"
        "from keras_visor.datasets import RenderedPictures\n"
        "for index in (7, 2):\n"
        "    example = RenderedPictures('train', 9, seed=4).example(index)\n"
        "    image = hashlib.sha256(example.pop('image').tobytes())\n"
        "    print(image.hexdigest(), example)\n"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    here = ""
    for index in (7, 2):
        example = RenderedPictures("train", 30, seed=4).example(index)
        image = hashlib.sha256(example.pop("image").tobytes())
        here += f"{image.hexdigest()} {example}\n"
    assert elsewhere == here


def test_splits_and_seeds_share_no_picture():
    seen = collections.Counter(
        example["image"].tobytes()
        for split in ("train", "validation", "test")
        for seed in (0, 1, 2, 2**32)
        for example in RenderedPictures(split, 50, seed=seed)
    )
    assert len(seen) == 3 * 4 * 50


def test_family_names(examples):
    listed = [name for names in question_families().values() for name in names]
    asked = {family for example in examples for family in example["families"]}
    assert sorted(listed) == sorted(asked)
    assert set(question_families()) == {"coarse", "fine", "compare"}


COARSE = tuple(
    family
    for family in question_families()["coarse"]
    if not family.startswith("bar_") or family == "bar_present"
)


@pytest.mark.parametrize("family", COARSE)
def test_answers_are_balanced(examples, family):
    answers = collections.defaultdict(collections.Counter)
    for _, question, answer in questions_of(examples, family):
        # The question as it stands, things named in it included.
        answers[question][answer] += 1
        answers["any"][answer] += 1
    possible = answers["any"]
    expected = 1 / len(possible)
    assert max(possible.values()) / possible.total() < expected + 0.06
    for question, counts in answers.items():
        if counts.total() >= 100:
            share = max(counts.values()) / counts.total()
            assert share < expected + 0.15, (question, counts)


def test_wording_varies(examples):
    things = "|".join([*HUES, *SHAPES, *KINDS])
    for family in question_families()["coarse"]:
        wordings = {
            re.sub(rf"\b(an? )?({things})\b", "THING", question)
            for _, question, _ in questions_of(examples, family)
        }
        assert len(wordings) >= 3, (family, wordings)


def test_absent_shapes_often_resemble_present_ones(read_examples):
    resembling = []
    for image, question, answer in questions_of(read_examples, "shape_present"):
        if answer == "no":
            colour = named(question, HUES)
            present = {
                (name, read_shape(blob)) for name, blob in coloured_blobs(image)
            }
            shape = re.findall(r"\w+", question)[-1]
            assert (colour, shape) not in present
            resembling.append(
                any(colour == c or shape == s for c, s in present)
            )
    assert 0.4 < np.mean(resembling) < 0.6


def test_background(read_examples):
    for image, _, answer in questions_of(read_examples, "background"):
        tone = np.median(image)
        assert tone > 180 if answer == "light" else tone < 75


def test_shapes(read_examples):
    for image, question, answer in questions_of(read_examples, "shape_colour"):
        shape = re.findall(r"\w+", question.removesuffix(" have?"))[-1]
        colours = [
            colour
            for colour, blob in coloured_blobs(image)
            if read_shape(blob) == shape
        ]
        assert colours == [answer], question
    for image, question, answer in questions_of(
        read_examples, "shape_of_colour"
    ):
        (blob,) = blobs(hue_mask(image, named(question, HUES)))
        assert read_shape(blob) == answer
    for image, question, answer in questions_of(read_examples, "shape_present"):
        colour = named(question, HUES)
        shape = re.findall(r"\w+", question)[-1]
        shapes = map(read_shape, blobs(hue_mask(image, colour)))
        assert (shape in shapes) == (answer == "yes"), question
    for image, _, answer in questions_of(read_examples, "shape_count"):
        assert NUMBERS[len(coloured_blobs(image))] == answer


def test_shapes_are_big_enough_to_see(read_examples):
    for image, _, _ in questions_of(read_examples, "shape_count"):
        for _, blob in coloured_blobs(image):
            assert np.ptp(np.array(blob), axis=0).min() >= 16


def test_bars(read_examples):
    for image, question, answer in questions_of(read_examples, "bar_present"):
        bars = blobs(hue_mask(image, named(question, HUES)))
        assert len(bars) == (answer == "yes")
    for image, _, answer in questions_of(read_examples, "bar_count"):
        assert NUMBERS[len(coloured_blobs(image))] == answer


def test_header_colour(read_examples):
    for image, _, answer in questions_of(read_examples, "header_colour"):
        pixels = {colour: hue_mask(image, colour).sum() for colour in HUES}
        assert pixels.pop(answer) > 200
        assert max(pixels.values()) < 40


def test_stamp(read_examples):
    for image, _, answer in questions_of(read_examples, "stamp_present"):
        assert len(coloured_blobs(image)) == (answer == "yes")
    for image, _, answer in questions_of(read_examples, "stamp_colour"):
        ((colour, blob),) = coloured_blobs(image)
        assert colour == answer
        assert read_shape(blob) == "circle"


# Where what is asked for stands: told by what is drawn, in which the answer
# has to be found by its neighbours.
def words_of(examples, family):
    for example in examples:
        for question, answer, name in zip(
            example["questions"],
            example["answers"],
            example["families"],
            strict=True,
        ):
            if name == family:
                words = re.findall(r"[A-Za-z]+|[0-9]+", question)
                yield example["words"], words, answer


def drawn(words, **belongs):
    """What is drawn at one place, read from left to right."""
    return " ".join(
        word.text
        for word in words
        if all(getattr(word, role) == to for role, to in belongs.items())
    ).replace(" : ", ":")


def test_cells(examples):
    for words, asked, answer in words_of(examples, "cell"):
        names = set(asked)
        (found,) = (
            word.text for word in words if {word.beside, word.above} <= names
        )
        assert found == answer
    for words, asked, answer in words_of(examples, "sum"):
        columns = {word.above for word in words} & set(asked)
        (column,) = columns
        *values, total = (
            int(word.text) for word in words if word.above == column
        )
        assert str(total) == answer
        assert sum(values) == total


def test_items_by_value(examples):
    for words, asked, answer in words_of(examples, "item"):
        (column,) = {word.above for word in words} & set(asked)
        (value,) = (word for word in asked if word.isdigit())
        matching = [
            word.beside
            for word in words
            if (word.text, word.above) == (value, column)
            and word.beside != "sum"
        ]
        assert matching == [answer]


def test_comparisons(examples):
    for words, asked, answer in words_of(examples, "largest"):
        (column,) = {word.above for word in words} & set(asked)
        values = {
            word.beside: int(word.text)
            for word in words
            if word.above == column and word.beside != "sum"
        }
        assert max(values, key=values.get) == answer
    for words, asked, answer in words_of(examples, "which_more"):
        (column,) = {word.above for word in words} & set(asked)
        values = {
            word.beside: int(word.text)
            for word in words
            if word.above == column
            and word.beside.lower() in [name.lower() for name in asked]
        }
        assert len(values) == 2
        assert max(values, key=values.get) == answer
    for words, _, answer in words_of(examples, "longest_bar"):
        heights = {
            word.above: word.box[3] - word.box[1]
            for word in words
            if word.text.endswith(" bar")
        }
        assert max(heights, key=heights.get) == answer


def test_words_below_and_beside(examples):
    for family, role in (("word_below", "above"), ("word_beside", "beside")):
        for words, asked, answer in words_of(examples, family):
            # Which of the words in the question is asked about: the last one
            # that stands on the picture.
            shown = {getattr(word, role): word.text for word in words}
            matching = [name for name in asked if shown.get(name) == answer]
            assert matching, (asked, answer)


def test_fields(examples):
    for words, asked, answer in words_of(examples, "field"):
        name = asked[-1]
        found = drawn(words, beside=name) or drawn(words, above=name)
        assert found == answer


def test_digits(examples):
    for words, asked, answer in words_of(examples, "digit"):
        (row,) = {word.beside for word in words} & set(asked)
        (column,) = {"A", "B", "C"} & set(asked)
        assert drawn(words, beside=row, above=column) == answer


def test_bar_labels(examples):
    for words, asked, answer in words_of(examples, "bar_label"):
        (colour,) = set(HUES) & set(asked)
        assert drawn(words, text=f"{colour} bar") == f"{colour} bar"
        assert answer in [word.text for word in words if word.above == colour]
    for words, asked, answer in words_of(examples, "bar_colour"):
        labels = {word.text: word.above for word in words}
        assert answer in [labels.get(name) for name in asked]


def test_neighbours_are_where_they_are_said_to_be(examples):
    for example in examples:
        boxes = {word.text: word.box for word in example["words"]}
        for word in example["words"]:
            left, top, right, bottom = word.box
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1, word
            middle = (top + bottom) / 2
            if word.beside is not None:
                beside = boxes[word.beside]
                assert beside[2] <= left + 0.01, (word, beside)
                assert beside[1] - 0.04 < middle < beside[3] + 0.04
            if word.above in boxes and " " not in word.text:
                above = boxes[word.above]
                assert above[3] <= top + 0.03, (word, above)


def test_words_do_not_overlap(examples):
    for example in examples:
        written = [w for w in example["words"] if " " not in w.text]
        for index, one in enumerate(written):
            for other in written[index + 1 :]:
                across = min(one.box[2], other.box[2]) - max(
                    one.box[0], other.box[0]
                )
                down = min(one.box[3], other.box[3]) - max(
                    one.box[1], other.box[1]
                )
                assert across <= 0.01 or down <= 0.01, (one, other)


def test_handwriting_differs_between_splits():
    train, validation, test = (
        {image.tobytes() for images in digits.values() for image in images}
        for digits in map(handwritten_digits, ("train", "validation", "test"))
    )
    assert len(train) + len(validation) + len(test) == 1797
    assert not train & validation and not (train | validation) & test


def test_unseen_words_and_fonts():
    def written(**options):
        pictures = RenderedPictures("test", 600, **options)
        return {word.text for each in pictures for word in each["words"]}

    seen, unseen = written(), written(unseen="words")
    new = set(itertools.chain.from_iterable(UNSEEN))
    assert new <= unseen
    assert not new & seen
    assert not set(FONTS) & set(UNSEEN_FONTS)
    assert not set(itertools.chain.from_iterable(SEEN)) & new


def test_kinds_are_as_frequent_as_they_are_named():
    pictures = RenderedPictures("train", 300, kinds=("table", "table", "form"))
    shown = collections.Counter(
        dict(zip(each["families"], each["answers"], strict=True))[
            "document_kind"
        ]
        for each in pictures
    )
    assert set(shown) == {"table", "form"}
    assert 170 < shown["table"] < 230


def test_rounds_ask_more_of_the_same_picture():
    once = RenderedPictures("train", 60).example
    thrice = RenderedPictures("train", 60, rounds=3).example
    counts = [
        [len(example(index)["questions"]) for index in range(60)]
        for example in (once, thrice)
    ]
    assert all(few <= many for few, many in zip(*counts, strict=True))
    assert sum(counts[1]) > 1.5 * sum(counts[0])
    for index in range(60):
        example = thrice(index)
        asked = list(
            zip(example["questions"], example["families"], strict=True)
        )
        assert len({(q.lower(), f) for q, f in asked}) == len(asked)
        assert np.array_equal(example["image"], once(index)["image"])


def test_document_kind_agrees_with_what_else_is_asked(examples):
    for example in examples:
        asked = dict(zip(example["families"], example["answers"], strict=True))
        telling = {
            "shape_count": "scene",
            "header_colour": "table",
            "bar_count": "chart",
            "stamp_present": "letter",
            "field": "form",
            "digit": "grid",
        }
        (family,) = telling.keys() & asked.keys()
        assert asked["document_kind"] == telling[family]
        for question, name in zip(
            example["questions"], example["families"], strict=True
        ):
            if name == "is_document_kind":
                right = named(question.lower(), telling.values())
                same = right == asked["document_kind"]
                assert asked[name] == ("yes" if same else "no")


def test_nothing_touches_the_edge(examples):
    # A word or a shape that ran over the edge would change what is asked.
    for example in examples:
        image = example["image"].astype(float)
        tone = np.median(image)
        edge = np.concatenate(
            [image[0], image[-1], image[:, 0], image[:, -1]]
        ).mean(-1)
        assert np.abs(edge - tone).max() < 60


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "'train', 'validation', 'test'.*'dev'"),
        ({"num_pictures": 0}, ValueError, "`num_pictures`.*at least 1"),
        ({"num_pictures": 2.0}, TypeError, "`num_pictures`.*2.0"),
        ({"num_pictures": True}, TypeError, "`num_pictures`.*True"),
        ({"seed": -1}, ValueError, "`seed`.*at least 0.*-1"),
        ({"seed": None}, TypeError, "`seed`.*None"),
        ({"image_size": 95}, ValueError, "`image_size`.*at least 96.*95"),
        ({"rounds": 0}, ValueError, "`rounds`.*at least 1"),
        ({"unseen": "fonts"}, ValueError, "`unseen`.*'font' or 'words'.*fonts"),
        ({"image_size": (96, 96)}, TypeError, "`image_size`"),
        ({"kinds": ()}, ValueError, r"`kinds`.*'scene'.*Received: kinds=\(\)"),
        ({"kinds": ["tables"]}, ValueError, "`kinds`.*'table'.*'tables'"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        RenderedPictures(**{"split": "train", "num_pictures": 1} | arguments)
