"""From a picture to the first token, with the encoder's real shape.

The encoder costs all peers alike, so that the ratios are small. Beside it,
five questions about one picture, which ours encodes once. Of the larger
pictures, the budgets that VISOR is for, since a round takes minutes.
"""

import numpy as np
from timing import interleave
from timing import median
from timing import row

BUDGETS = ("minimal", "two", "full", "dense")
OF_LARGER = ("minimal", "two")
FIVE_QUESTIONS_AT = ("minimal",)
QUESTIONS = (
    "What is in the picture?",
    "How many colours are there?",
    "Is it light on the left?",
    "Which corner is the darkest one?",
    "Is there any text in the picture?",
)


def measure(models, sizes, cell: dict, repeats: int):
    """Yield a row for each budget, and for five questions."""
    picture = _picture(cell["side"])
    prompt = models.visor.preprocessor.generate_preprocess(
        {"prompts": [QUESTIONS[0]], "images": [picture]}
    )
    prompt = {name: np.asarray(values) for name, values in prompt.items()}
    text_tokens = int(prompt["padding_mask"].sum())
    vision_tokens = int(prompt["vision_mask"].sum())
    functions = {"sdpa": models.transformers.make_first_token(picture, prompt)}
    is_larger = cell["side"] > min(sizes.sides)
    for budget in OF_LARGER if is_larger else BUDGETS:
        lm, index = models.named(budget)
        functions[budget] = _first_token(lm, index, picture, text_tokens)
    for budget in FIVE_QUESTIONS_AT:
        five = _five(*models.named(budget), picture)
        functions[f"{budget}, five questions"] = five
    for function in functions.values():
        function()
    seconds = interleave(functions, repeats)
    medians = {name: median(values) for name, values in seconds.items()}
    theirs = medians.pop("sdpa")
    for budget, value in medians.items():
        # The peer shares nothing: five times what one question takes it.
        times = len(QUESTIONS) if "five" in budget else 1
        yield row(
            "end_to_end",
            vision_tokens,
            1,
            budget,
            value,
            times * theirs,
            side=cell["side"],
            seconds=seconds[budget],
            text_tokens=text_tokens,
        )


def _first_token(lm, budget, picture, text_tokens):
    def first_token():
        question = {"prompts": [QUESTIONS[0]], "images": [picture]}
        return _generate(lm, question, budget, text_tokens + 1)

    return first_token


def _five(lm, budget, picture):
    lengths = [
        int(
            np.sum(
                lm.preprocessor.generate_preprocess(
                    {"prompts": [question], "images": [picture]}
                )["padding_mask"]
            )
        )
        for question in QUESTIONS
    ]

    def five():
        encoded = lm.encode(picture)
        return [
            _generate(
                lm,
                {"prompts": [question], "images": [encoded]},
                budget,
                length + 1,
            )
            for question, length in zip(QUESTIONS, lengths, strict=True)
        ]

    return five


def _generate(lm, question, budget, max_length):
    return lm.generate(
        question, max_length=max_length, budget=budget, stop_token_ids=None
    )


def _picture(side):
    row, column = np.indices((side, side))
    channels = [row % 256, column % 256, (row + column) % 256]
    return np.stack(channels, axis=-1).astype("uint8")
