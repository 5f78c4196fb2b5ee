"""`keras-visor evaluate`: public data sets, scored into a table."""

import argparse
import functools
import inspect
import io
import json
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from keras_visor.datasets import public_datasets
from keras_visor.evaluation.answer_log import AnswerLog
from keras_visor.evaluation.scoring import answer_questions
from keras_visor.evaluation.scoring import longest_question
from keras_visor.evaluation.scoring import summarize
from keras_visor.models.model_digest import model_digest
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.reduction import reducer_from_text
from keras_visor.reduction.names import REDUCERS

GROUPS = ("easy", "hard")
REDUCE_HELP = (
    "leave visual tokens out and keep this share, such as vision_zip:0.25; "
    f"NAME is {', '.join(REDUCERS)}; the last two take LAYERS, with commas "
    "(default: as the preset does)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `evaluate` takes, but for `--budget`."""
    parser.add_argument(
        "preset", metavar="P", help="built-in name, handle or directory"
    )
    parser.add_argument(
        "datasets",
        nargs="+",
        metavar="DATASET",
        help=f"one or several of {', '.join(public_datasets())}",
    )
    parser.add_argument(
        "--reduce",
        metavar="NAME:RATE[:LAYERS]",
        help=REDUCE_HELP,
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="the first questions of each data set alone",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="questions asked together (default: %(default)s)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="text tokens of prompt and answer together (default: the "
        "model's own)",
    )
    parser.add_argument(
        "--data-dir",
        default="~/tensorflow_datasets",
        metavar="DIR",
        help="where TFDS keeps data sets; published files go to "
        "downloads/manual/DATASET in it (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        default="evaluation",
        metavar="DIR",
        help="where answers go, and the scores of this call's data sets, to "
        "summary.json; what is answered there is not asked again "
        "(default: %(default)s)",
    )


def run(options: argparse.Namespace, budget: str | int) -> None:
    """Evaluate a preset, print a table and write `summary.json`.

    Args:
        options: `argparse.Namespace`, see `add_arguments`.
        budget: See `VisorCausalLM.generate`.

    Raises:
        FileNotFoundError: The published files of a data set are missing.
        ValueError: There is no such data set, budget or reducer; a number is
            not positive; a question leaves no room for an answer; the answers
            in `options.output` are of other settings.
    """
    _check(options)
    reducer = options.reduce and reducer_from_text(options.reduce)
    splits = {name: _examples(name, options) for name in options.datasets}
    lm = VisorCausalLM.from_preset(options.preset)
    _check_budget(lm, budget)
    if reducer:
        lm.reducer = reducer
    max_length = options.max_length or lm.preprocessor.sequence_length
    for name, (read, _, _) in splits.items():
        _check_room(lm, name, read(), max_length)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "preset": options.preset,
        "model": model_digest(lm),
        "budget": budget,
        "reducer": repr(lm.reducer),
        "max_length": max_length,
    }
    summaries = {}
    for name, (read, count, version) in splits.items():
        dataset = public_datasets()[name]
        source = {"dataset": f"{name} {version}", "split": dataset.split}
        log = AnswerLog(folder / f"{name}.jsonl", {**settings, **source})
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(name, total=count)
            answer_questions(
                lm,
                read(),
                log,
                budget=budget,
                max_length=max_length,
                batch_size=options.batch_size,
                on_progress=lambda n, task=task: progress.advance(task, n),
            )
        answers = [row for i, row in sorted(log.answers.items()) if i < count]
        summaries[name] = {
            "group": dataset.group,
            "split": dataset.split,
            **summarize(lm, answers, dataset.metric, dataset.scores),
        }
    groups = averages(summaries)
    page = {"settings": settings, "datasets": summaries, "averages": groups}
    text = json.dumps(page, indent=2) + "\n"
    (folder / "summary.json").write_text(text, encoding="utf-8")
    Console().print(_table(summaries, groups))
    for name, summary in summaries.items():
        if summary["scores"]:
            scores = summary["scores"].items()
            print(f"{name}: " + ", ".join(f"{n} {s:.3f}" for n, s in scores))
        if summary["cut_off"]:
            print(
                f"{name}: {summary['cut_off']} answers were cut off at "
                f"--max-length {max_length}"
            )


def _check(options):
    unknown = [n for n in options.datasets if n not in public_datasets()]
    if unknown:
        raise ValueError(
            f"`DATASET` must be of {', '.join(public_datasets())}. Received: "
            f"{', '.join(unknown)}"
        )
    for name in ("limit", "batch_size", "max_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"`{option}` must be 1 or more. Received: {value}")


def _check_budget(lm, budget):
    last = len(lm.backbone.budgets) - 1
    if isinstance(budget, int) and not 0 <= budget <= last:
        raise ValueError(
            f"`--budget` must be an index from 0 to {last} for this preset. "
            f"Received: {budget}"
        )


def _check_room(lm, name, examples, max_length):
    asked = (each["prompts"] for each in examples if len(each["answers"]))
    longest = longest_question(lm, asked)
    if longest >= max_length:
        raise ValueError(
            f"`--max-length` must leave room for answers: {name} has a "
            f"question of {longest} text tokens. Received: {max_length}"
        )


def _examples(name, options) -> tuple[Callable, int, str]:
    """A function that reads a data set's examples, number and version."""
    dataset = public_datasets()[name]
    builder_cls = dataset.builder_cls()
    import tensorflow_datasets as tfds

    folder = Path(options.data_dir).expanduser()
    builder = builder_cls(data_dir=folder)
    manual = folder / "downloads" / "manual"
    if not builder.is_prepared():
        if not (manual / name).is_dir():
            raise FileNotFoundError(
                f"{manual / name} is missing. "
                + inspect.cleandoc(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
            )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=manual)
        )
    split = dataset.split
    count = builder.info.splits[split].num_examples
    if options.limit is not None and options.limit < count:
        count = options.limit
        split = f"{split}[:{count}]"
    read = functools.partial(_read, builder, split)
    return read, count, str(builder.version)


def _read(builder, split) -> Iterator[dict]:
    import tensorflow_datasets as tfds

    # TensorFlow would decode a JPEG to slightly other pixels than Pillow.
    decoders = {"images": tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split, decoders=decoders)
    for example in tfds.as_numpy(examples):
        yield {
            "prompts": example["prompts"].decode("utf-8"),
            "images": Image.open(io.BytesIO(example["images"])),
            "answers": [text.decode("utf-8") for text in example["answers"]],
            # The id of a data set of several parts is "part/number".
            "part": example["id"].decode("utf-8").rpartition("/")[0],
        }


def averages(summaries: dict[str, dict]) -> dict[str, dict]:
    """What the easy and the hard data sets come to, as the paper groups them.

    Args:
        summaries: dict. What `summarize` gives for each data set, and its
            `group`.

    Returns:
        A dict by group of `score`, `flops` and `dense_flops`, means over its
        data sets, and `questions` and `seconds`, sums.
    """
    found = {}
    for group in GROUPS:
        members = [s for s in summaries.values() if s["group"] == group]
        if members:
            found[group] = {
                name: float(combine([member[name] for member in members]))
                for name, combine in (
                    ("score", np.mean),
                    ("flops", np.mean),
                    ("dense_flops", np.mean),
                    ("seconds", sum),
                )
            }
            found[group]["questions"] = sum(m["questions"] for m in members)
    return found


def _table(summaries, groups) -> Table:
    """A row a data set and a part, and the averages of easy and hard ones."""
    table = Table(title="Evaluation")
    table.add_column("data set", no_wrap=True)
    table.add_column("group")
    for column in ("score", "asked", "FLOPs", "saved", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("budgets")
    for name, summary in summaries.items():
        counts = summary["budgets"].items()
        budgets = ", ".join(f"{index}: {count}" for index, count in counts)
        table.add_row(*_cells(name, summary["group"], summary), budgets)
        for part, score in summary["parts"].items():
            table.add_row(f"  {part}", "", f"{100 * score:.1f}")
    if len(summaries) > 1:
        table.add_section()
        for group, average in groups.items():
            table.add_row(*_cells("average", group, average))
    return table


def _cells(name, group, summary):
    return (
        name,
        group,
        f"{100 * summary['score']:.1f}",
        str(summary["questions"]),
        f"{summary['flops'] / 1e9:.3g} G",
        f"{summary['dense_flops'] / summary['flops']:.1f}x",
        f"{summary['seconds']:.1f}",
    )
