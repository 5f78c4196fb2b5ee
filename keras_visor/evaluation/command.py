"""`keras-visor evaluate`: public data sets, scored into a table."""

import argparse
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from keras_visor.datasets import public_datasets
from keras_visor.evaluation.answer_log import AnswerLog
from keras_visor.evaluation.scoring import answer_questions
from keras_visor.evaluation.scoring import summarize
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.models.weights_digest import weights_digest
from keras_visor.reduction import reducer_from_text

GROUPS = ("easy", "hard")


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
        help="leave visual tokens out and keep this share (default: as the "
        "preset does)",
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
        "downloads/manual in it (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        default="evaluation",
        metavar="DIR",
        help="where answers and scores go; what is answered there is not "
        "asked again (default: %(default)s)",
    )


def run(options: argparse.Namespace, budget: str | int) -> None:
    """Evaluate a preset, print a table and write `summary.json`.

    Args:
        options: `argparse.Namespace`, see `add_arguments`.
        budget: See `VisorCausalLM.generate`.

    Raises:
        FileNotFoundError: The published files of a data set are missing.
        ValueError: There is no such data set, budget or reducer; a number is
            not positive; the answers in `options.output` are of other
            settings.
    """
    _check(options)
    reducer = options.reduce and reducer_from_text(options.reduce)
    splits = {name: _examples(name, options) for name in options.datasets}
    lm = VisorCausalLM.from_preset(options.preset)
    if reducer:
        lm.reducer = reducer
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "preset": options.preset,
        "weights": weights_digest(lm.backbone),
        "budget": budget,
        "reducer": repr(lm.reducer),
        "max_length": options.max_length,
    }
    summaries = {}
    for name, (examples, count) in splits.items():
        dataset = public_datasets()[name]
        source = {"dataset": name, "split": dataset.split}
        log = AnswerLog(folder / f"{name}.jsonl", {**settings, **source})
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(name, total=count)
            answer_questions(
                lm,
                examples,
                log,
                budget=budget,
                max_length=options.max_length,
                batch_size=options.batch_size,
                on_progress=lambda n, task=task: progress.advance(task, n),
            )
        answers = [row for i, row in sorted(log.answers.items()) if i < count]
        summaries[name] = {
            "group": dataset.group,
            "split": dataset.split,
            **summarize(lm, answers, dataset.metric),
        }
    text = json.dumps({"settings": settings, "datasets": summaries}, indent=2)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    Console().print(_table(summaries))


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


def _examples(name, options) -> tuple[Iterator[dict], int]:
    """A data set's examples, read as they are wanted, and their number."""
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
    return _decoded(builder, split), count


def _decoded(builder, split):
    import tensorflow_datasets as tfds

    for example in tfds.as_numpy(builder.as_dataset(split)):
        yield {
            "prompts": example["prompts"].decode("utf-8"),
            "images": np.asarray(example["images"]),
            "answers": [text.decode("utf-8") for text in example["answers"]],
        }


def _table(summaries) -> Table:
    """A row a data set, and the averages of the easy and the hard ones."""
    table = Table("data set", "group", title="Evaluation")
    for column in ("score", "questions", "FLOPs", "saved", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("budgets")
    for name, summary in summaries.items():
        budgets = summary["budgets"].items()
        table.add_row(
            name,
            summary["group"],
            f"{100 * summary['score']:.1f}",
            str(summary["questions"]),
            f"{summary['flops'] / 1e9:.3g} G",
            f"{summary['dense_flops'] / summary['flops']:.1f}x",
            f"{summary['seconds']:.1f}",
            ", ".join(f"{index}: {count}" for index, count in budgets),
        )
    if len(summaries) > 1:
        table.add_section()
        for group in GROUPS:
            members = [s for s in summaries.values() if s["group"] == group]
            if members:
                table.add_row(*_average(group, members))
    return table


def _average(group, members):
    score = np.mean([member["score"] for member in members])
    flops, dense = (
        np.mean([member[name] for member in members])
        for name in ("flops", "dense_flops")
    )
    return (
        f"{group} average",
        group,
        f"{100 * score:.1f}",
        str(sum(member["questions"] for member in members)),
        f"{flops / 1e9:.3g} G",
        f"{dense / flops:.1f}x",
        f"{sum(member['seconds'] for member in members):.1f}",
    )
