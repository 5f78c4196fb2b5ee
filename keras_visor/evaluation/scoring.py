"""Asking the questions of a data set and scoring the answers."""

import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from itertools import islice

import numpy as np
from PIL import Image

from keras_visor.analysis import count_flops
from keras_visor.evaluation.answer_log import AnswerLog
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.preprocessing.chat_template import IMAGE_MARK
from keras_visor.preprocessing.chat_template import wrap_question
from keras_visor.training.checks import check_positive

# Batches that are read ahead, to put questions of like length together.
BATCHES_AHEAD = 8


def answer_questions(
    lm: VisorCausalLM,
    examples: Iterable[dict],
    log: AnswerLog,
    budget: str | int = "auto",
    max_length: int | None = None,
    batch_size: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Ask the questions that have no answer in the log yet.

    Args:
        lm: `VisorCausalLM` with its preprocessor; its `reducer` holds.
        examples: iterable of dicts with `prompts` (a string), `images` (an
            image), `answers` (strings; a question without any is passed
            over, since nobody can score it), and `part` (a string), if the
            data set has several.
        log: `AnswerLog`. Gets `index`, `part`, `answer`, `answers`, `budget`,
            `text_tokens`, `vision_tokens`, `answer_tokens` and `seconds` of
            each question, and `cut_off`, whether `max_length` ended the
            answer.
        budget: See `VisorCausalLM.generate`. Defaults to "auto".
        max_length: int. Text tokens of prompt and answer together. Defaults
            to `None`: the preprocessor's `sequence_length`.
        batch_size: int. Questions that are asked together, pictures of like
            size and prompts of like length. Defaults to `8`.
        on_progress: callable, told how many questions are done with, each
            time some are. Defaults to `None`.

    Raises:
        ValueError: A count below 1, or a question that does not fit.
    """
    if max_length is None:
        max_length = lm.preprocessor.sequence_length
    check_positive(max_length=max_length, batch_size=batch_size)
    numbered = enumerate(examples)
    on_progress = on_progress or (lambda count: None)
    while window := list(islice(numbered, BATCHES_AHEAD * batch_size)):
        open_questions = [
            (index, example)
            for index, example in window
            if index not in log.answers and len(example["answers"])
        ]
        on_progress(len(window) - len(open_questions))
        open_questions.sort(key=_size)
        for start in range(0, len(open_questions), batch_size):
            batch = open_questions[start : start + batch_size]
            log.append(_answer(lm, batch, budget, max_length))
            on_progress(len(batch))


def longest_question(lm: VisorCausalLM, prompts: Iterable[str]) -> int:
    """The text tokens of the longest of some questions about a picture."""
    tokenizer = lm.preprocessor.tokenizer
    lengths = (
        sum(map(len, tokenizer(wrap_question(prompt, 1).split(IMAGE_MARK))))
        for prompt in prompts
    )
    return max(lengths, default=0)


def _size(numbered_example):
    _, example = numbered_example
    image = example["images"]
    if isinstance(image, Image.Image):
        shape = (image.height, image.width)
    else:
        shape = np.shape(image)[:2]
    return shape, len(example["prompts"])


def _answer(lm, batch, budget, max_length):
    start = time.perf_counter()
    try:
        answers, report = lm.generate(
            {
                "prompts": [example["prompts"] for _, example in batch],
                "images": [[example["images"]] for _, example in batch],
            },
            max_length=max_length,
            strip_prompt=True,
            budget=budget,
            return_report=True,
        )
    except ValueError as error:
        asked = [index for index, _ in batch]
        raise ValueError(f"Questions {asked}, in order: {error}") from error
    seconds = (time.perf_counter() - start) / len(batch)
    for row, (index, example) in enumerate(batch):
        yield {
            "index": index,
            "part": example.get("part", ""),
            "answer": answers[row],
            "answers": list(example["answers"]),
            **{name: int(values[row]) for name, values in report.items()},
            "cut_off": bool(
                report["text_tokens"][row] + report["answer_tokens"][row]
                == max_length
            ),
            "seconds": seconds,
        }


def summarize(
    lm: VisorCausalLM,
    answers: Sequence[dict],
    metric: Callable[[Sequence[str], Sequence[Sequence[str]]], float],
    scores: Callable[..., dict[str, float]] | None = None,
) -> dict:
    """Score answers and say what they cost.

    Args:
        lm: `VisorCausalLM` that gave them.
        answers: list of dicts, those of an `AnswerLog`.
        metric: callable. From answers (a string a question) and references (a
            list of strings a question) to a float from 0 to 1.
        scores: callable. From the same to a dict of floats, more scores by
            name. Defaults to `None`: there are none.

    Returns:
        A dict of `score`; `scores`; `parts`, by name the score of each, if
        there are any; `questions`, how many; `cut_off`, how many answers
        `max_length` ended; `budgets`, by index how many questions ran at each;
        `flops` and `dense_flops`, the mean of `count_flops` at that budget and
        of the dense model; and `seconds`, of all questions together.

    Raises:
        ValueError: There are no answers.
    """
    if not answers:
        raise ValueError(
            "`answers` must hold an answer. Received: none, for a split "
            "without questions or without public answers"
        )
    lengths = [(row["text_tokens"], row["vision_tokens"]) for row in answers]
    budgets = [row["budget"] for row in answers]
    flops = [
        count_flops(lm.backbone, *length, budget, lm.reducer)
        for length, budget in zip(lengths, budgets, strict=True)
    ]
    dense = [count_flops(lm.backbone, *length) for length in lengths]
    parts = {}
    for row in answers:
        if row["part"]:
            parts.setdefault(row["part"], []).append(row)
    return {
        "score": _score(answers, metric),
        "scores": _score(answers, scores) if scores else {},
        "parts": {n: _score(part, metric) for n, part in parts.items()},
        "questions": len(answers),
        "cut_off": sum(row["cut_off"] for row in answers),
        "budgets": {b: budgets.count(b) for b in sorted(set(budgets))},
        "flops": float(np.mean(flops)),
        "dense_flops": float(np.mean(dense)),
        "seconds": sum(row["seconds"] for row in answers),
    }


def _score(answers, metric):
    return metric(
        [row["answer"] for row in answers],
        [row["answers"] for row in answers],
    )
