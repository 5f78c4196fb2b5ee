"""How well a model answers at every budget, sample by sample."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from keras_visor.analysis.flops import count_flops
from keras_visor.datasets.metrics import exact_match
from keras_visor.models.encoded_images import EncodedImages
from keras_visor.models.encoded_images import image_list
from keras_visor.models.model_digest import model_digest
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.preprocessing.rgb import to_rgb
from keras_visor.reduction.reducer import Reducer
from keras_visor.training.checks import check_positive
from keras_visor.training.columns import image_column
from keras_visor.training.score_shards import PATTERN
from keras_visor.training.score_shards import read_shard
from keras_visor.training.score_shards import shard_path
from keras_visor.training.score_shards import write_shard


@dataclass(frozen=True, eq=False)
class BudgetScores:
    """What `score_budgets` finds.

    Attributes:
        budgets: list of lists of int. The model's budgets.
        scores: float array (samples, budgets), from 0 to 1.
        answers: list of lists of strings, by sample and budget.
        text_tokens: int array (samples,), of each prompt.
        vision_tokens: int array (samples,).
    """

    budgets: list[list[int]]
    scores: np.ndarray
    answers: list[list[str]]
    text_tokens: np.ndarray
    vision_tokens: np.ndarray

    def take(self, rows: Sequence[int]) -> "BudgetScores":
        """What was found of some of the samples, given by their indices."""
        return dataclasses.replace(
            self,
            scores=self.scores[rows],
            answers=[self.answers[row] for row in rows],
            text_tokens=self.text_tokens[rows],
            vision_tokens=self.vision_tokens[rows],
        )

    def check_budgets(self, lm: VisorCausalLM) -> None:
        """Raise a `ValueError` where these are scores of other budgets."""
        if self.budgets != lm.backbone.budgets:
            raise ValueError(
                "`scores` must be of the model's budgets, "
                f"{lm.backbone.budgets}. Received: {self.budgets}"
            )

    def flops(
        self, backbone: VisorBackbone, reducer: Reducer | None = None
    ) -> np.ndarray:
        """FLOPs (samples, budgets) of each prompt, as `count_flops` has it."""
        return self._count(backbone, range(len(self.budgets)), reducer)

    def dense_flops(self, backbone: VisorBackbone) -> np.ndarray:
        """FLOPs (samples,) of each prompt in the dense base model."""
        return self._count(backbone, [None])[:, 0]

    def _count(self, backbone, budgets, reducer=None):
        lengths = np.stack([self.text_tokens, self.vision_tokens], axis=1)
        lengths, rows = np.unique(lengths, axis=0, return_inverse=True)
        counts = [
            [
                count_flops(backbone, text, vision, budget, reducer)
                for budget in budgets
            ]
            for text, vision in lengths
        ]
        return np.array(counts, "float64")[rows.reshape(-1)]


def score_budgets(
    lm: VisorCausalLM,
    samples: dict,
    directory: str | os.PathLike | None = None,
    metric: Callable[[Sequence[str], Sequence[Any]], float] = exact_match,
    max_length: int | None = None,
    batch_size: int = 16,
    shard_size: int = 512,
    worker: int = 0,
    num_workers: int = 1,
    verbose: bool = True,
) -> BudgetScores | None:
    """Answer every sample at every budget, and score the answers.

    The first half of the pseudo-labels of section "Training" of VISOR (arXiv
    2603.23495), see `pseudo_labels`. Images are encoded once for all budgets.

    With a directory, the work is cut into shards, a file each, which are
    written whole or not at all: started again, it goes on after the last one.
    Processes and machines that share the directory share the work, as worker
    0, 1, ... of `num_workers`.

    Args:
        lm: `VisorCausalLM` with its preprocessor.
        samples: dict of columns `prompts`, `responses` (the right answers)
            and, if wanted, `images`, as `VisorCausalLM.fit` takes them, or
            what `lm.encode` gave for them. Other columns are left alone.
        directory: str or path. Defaults to `None`: no files.
        metric: Callable from a list of one answer and a list of its response
            to a score from 0 to 1; shards know it by its name. Defaults to
            `keras_visor.datasets.exact_match`.
        max_length: int. Text tokens of prompt and answer together. Defaults
            to `None`: the preprocessor's `sequence_length`.
        batch_size: int. Defaults to `16`.
        shard_size: int. Samples of a file. Defaults to `512`.
        worker: int. Which of the workers this is. Defaults to `0`.
        num_workers: int. Defaults to `1`.
        verbose: bool. Whether to show the progress. Defaults to `True`.

    Returns:
        `BudgetScores`, or `None` while other workers are still at it.

    Raises:
        ValueError: Bad arguments; or a shard in the directory is damaged, or
            is of another model, other budgets, another metric, length or
            other samples, as far as texts and images tell: of what is encoded
            already, only how long it is. The message has its name.

    Example:
    ```python
    picture = keras_visor.datasets.RenderedPictures("test", 1).example(0)
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    scores = keras_visor.training.score_budgets(
        lm,
        {
            "prompts": picture["questions"][:2],
            "responses": picture["answers"][:2],
            "images": [picture["image"]] * 2,
        },
        max_length=64,
    )
    scores.scores.mean(axis=0)  # by budget
    ```
    """
    columns = _columns(lm, samples)
    if max_length is None:
        max_length = lm.preprocessor.sequence_length
    check_positive(
        max_length=max_length, batch_size=batch_size, shard_size=shard_size
    )
    if not 0 <= worker < num_workers:
        raise ValueError(
            "`worker` must be from 0 to `num_workers` - 1. Received: "
            f"worker={worker}, num_workers={num_workers}"
        )
    if directory is None and num_workers > 1:
        raise ValueError(
            "`num_workers` share a `directory`. Received: num_workers="
            f"{num_workers}, directory=None"
        )
    count = len(columns["prompts"])

    def answer(rows):
        return _answer(lm, columns, rows, metric, max_length)

    if directory is None:
        batches = _batches(range(count), batch_size)
        shown = track(batches, "Budgets", disable=not verbose)
        return _collect(lm, [row for batch in shown for row in answer(batch)])

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shards = _batches(range(count), shard_size)
    paths = [shard_path(directory, i, len(shards)) for i in range(len(shards))]
    strangers = sorted(set(directory.glob(PATTERN)) - set(paths))
    if strangers:
        raise ValueError(
            f"The shard {strangers[0]} is of something else: `samples` and "
            f"`shard_size` make {len(shards)} shards. Pass another directory."
        )
    origin = {
        "model": model_digest(lm, with_policy=False),
        "budgets": lm.backbone.budgets,
        "metric": getattr(metric, "__qualname__", type(metric).__qualname__),
        "max_length": max_length,
    }
    origins = [
        {**origin, "samples": _samples_digest(columns, s)} for s in shards
    ]
    found = {
        path: read_shard(path, origin)
        for path, origin in zip(paths, origins, strict=True)
        if path.exists()
    }
    todo = [
        (path, origin, batch, batch[-1] == shard[-1])
        for path, origin, shard in list(
            zip(paths, origins, shards, strict=True)
        )[worker::num_workers]
        if path not in found
        for batch in _batches(shard, batch_size)
    ]
    rows = []
    for path, origin, batch, ends in track(
        todo, "Budgets", disable=not verbose
    ):
        rows += answer(batch)
        if ends:
            write_shard(path, origin, rows)
            found[path], rows = rows, []
    for path, origin in zip(paths, origins, strict=True):
        if path not in found and path.exists():  # Another worker's.
            found[path] = read_shard(path, origin)
    if len(found) < len(paths):
        return None
    return _collect(lm, [row for path in paths for row in found[path]])


def _columns(lm, samples):
    if lm.preprocessor is None:
        raise ValueError("`lm` must have its preprocessor. Received: None")
    names = ("prompts", "responses")
    if not isinstance(samples, dict) or not all(n in samples for n in names):
        raise ValueError(
            "`samples` must be a dict of the columns `prompts`, `responses` "
            "and, if wanted, `images`. Received: "
            f"{list(samples) if isinstance(samples, dict) else type(samples)}"
        )
    count = len(samples["prompts"])
    columns = {
        "prompts": samples["prompts"],
        "responses": samples["responses"],
        "images": image_column(samples),
    }
    lengths = {name: len(column) for name, column in columns.items()}
    if not count or len(set(lengths.values())) != 1:
        raise ValueError(
            "`samples` must have columns of one length, an entry a sample. "
            f"Received lengths: {lengths}"
        )
    return columns


def _batches(rows, size):
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _answer(lm, columns, rows, metric, max_length):
    """What the file says of some samples."""
    inputs = {
        "prompts": [str(columns["prompts"][row]) for row in rows],
        "images": lm.encode([columns["images"][row] for row in rows]),
    }
    answers = []
    for budget in range(len(lm.backbone.budgets)):
        texts, report = lm.generate(
            inputs,
            max_length=max_length,
            strip_prompt=True,
            budget=budget,
            return_report=True,
        )
        answers.append(texts)
    by_sample = zip(rows, zip(*answers, strict=True), strict=True)
    return [
        {
            "sample": row,
            "scores": [
                _score(metric, text, columns["responses"][row])
                for text in texts
            ],
            "answers": list(texts),
            "text_tokens": int(report["text_tokens"][at]),
            "vision_tokens": int(report["vision_tokens"][at]),
        }
        for at, (row, texts) in enumerate(by_sample)
    ]


def _score(metric, answer, response):
    score = float(metric([answer], [response]))
    if not 0 <= score <= 1:
        raise ValueError(
            f"`metric` must give scores from 0 to 1. Received: {score} for "
            f"{answer!r} and {response!r}"
        )
    return score


def _collect(lm, rows):
    return BudgetScores(
        budgets=lm.backbone.budgets,
        scores=np.array([row["scores"] for row in rows], "float64"),
        answers=[row["answers"] for row in rows],
        text_tokens=np.array([row["text_tokens"] for row in rows]),
        vision_tokens=np.array([row["vision_tokens"] for row in rows]),
    )


def _samples_digest(columns, rows):
    digest = hashlib.sha256()
    for row in rows:
        texts = [str(columns["prompts"][row]), str(columns["responses"][row])]
        digest.update(json.dumps(texts).encode())
        images = image_list(columns["images"][row])
        if isinstance(images, EncodedImages):
            # Not its values: another machine encodes the last bits otherwise.
            digest.update(str(images.image_lengths).encode())
            continue
        for image in images:
            digest.update(_content(image))
    return digest.hexdigest()


def _content(image):
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image).read_bytes()
    pixels = to_rgb(image)
    return str(pixels.shape).encode() + pixels.tobytes()
