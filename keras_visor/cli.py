"""The command line: ask a model, look at its layers, score it.

keras-visor ask scene.png "what colour is the square?" --picture out.png
keras-visor inspect visor_tiny_en
keras-visor evaluate visor_tiny_en pope docvqa --limit 100
"""

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

import keras_visor
from keras_visor.analysis import attention_maps
from keras_visor.analysis import count_flops
from keras_visor.analysis import draw_answer
from keras_visor.analysis import layer_roles
from keras_visor.evaluation import command
from keras_visor.evaluation.command import REDUCE_HELP
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.models.visor_causal_lm import VisorCausalLM
from keras_visor.preprocessing.chat_template import IMAGE_MARK
from keras_visor.preprocessing.chat_template import TURN_START
from keras_visor.preprocessing.rgb import to_rgb
from keras_visor.reduction import reducer_from_text

NAMED_BUDGETS = ("auto", "full", "minimal")
INSPECTED_TEXT_TOKENS = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: list of strings. The words after `keras-visor`. Defaults to
            `None`: those of the running process.

    Returns:
        int. The exit status: 0, or 2 after bad input, which one line on
        stderr explains.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        print(f"keras-visor: error: {line}", file=sys.stderr)
        return 2
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-visor",
        description="Ask a VISOR model about pictures, or look at its layers.",
    )
    parser.add_argument(
        "--version", action="version", version=keras_visor.__version__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    asking = commands.add_parser("ask", help="answer a question about pictures")
    asking.set_defaults(run=ask)
    asking.add_argument("images", nargs="+", metavar="IMAGE", help="a file")
    asking.add_argument(
        "question", metavar="QUESTION", help="in quotes, after the files"
    )
    asking.add_argument(
        "--preset",
        default="visor_tiny_en",
        metavar="P",
        help="built-in name, hf:// or kaggle:// handle, or directory "
        "(default: %(default)s)",
    )
    _add_budget(asking)
    asking.add_argument(
        "--reduce",
        metavar="NAME:RATE[:LAYERS]",
        help=REDUCE_HELP,
    )
    asking.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="text tokens of prompt and answer together (default: the "
        "model's own)",
    )
    asking.add_argument(
        "--picture",
        metavar="OUT.png",
        help="also draw the answer and where each layer looked",
    )

    inspecting = commands.add_parser(
        "inspect", help="layers, budgets, parameters and FLOPs of a model"
    )
    inspecting.set_defaults(run=inspect)
    inspecting.add_argument(
        "preset", metavar="P", help="built-in name, handle or directory"
    )

    evaluating = commands.add_parser(
        "evaluate", help="score a model on public data sets"
    )
    evaluating.set_defaults(run=evaluate)
    command.add_arguments(evaluating)
    _add_budget(evaluating)
    return parser


def _add_budget(parser):
    parser.add_argument(
        "--budget",
        default="auto",
        metavar="auto|full|minimal|N",
        help="which self-attention layers run; auto: the policy chooses "
        "(default: %(default)s)",
    )


# === ask ===


def ask(options: argparse.Namespace) -> None:
    """Answer a question and say what the answer cost."""
    budget = _budget(options.budget)
    _check_max_length(options.max_length)
    reducer = options.reduce and reducer_from_text(options.reduce)
    _check_question(options.question)
    for path in options.images:  # Before a model is loaded in vain.
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"`IMAGE` {path!r} does not exist. A `QUESTION` of several "
                "words stands in quotes"
            )
        to_rgb(path)
    if options.picture:
        _check_picture_path(options.picture)

    start = time.perf_counter()
    lm = VisorCausalLM.from_preset(options.preset)
    loading = time.perf_counter() - start
    if reducer:
        lm.reducer = reducer
    reason = _reason(lm.backbone, budget)
    if budget == "auto" and lm.backbone.policy is None:
        budget = "full"
    inputs = {"prompts": [options.question], "images": [options.images]}
    start = time.perf_counter()
    answers, report = lm.generate(
        inputs,
        max_length=options.max_length,
        strip_prompt=True,
        budget=budget,
        return_report=True,
    )
    answering = time.perf_counter() - start
    compiles = lm.make_generate_function().programs.compiles
    budget, text_tokens, vision_tokens = (
        int(report[name][0])
        for name in ("budget", "text_tokens", "vision_tokens")
    )

    flops = count_flops(
        lm.backbone, text_tokens, vision_tokens, budget, lm.reducer
    )
    dense = count_flops(lm.backbone, text_tokens, vision_tokens)
    _print_lines(
        {
            "question": options.question,
            "answer": answers[0],
            "budget": f"{budget} of 0 to {len(lm.backbone.budgets) - 1}, "
            f"{_layers_on(lm.backbone.budgets[budget])}; {reason}",
            "tokens": f"{vision_tokens} visual, {text_tokens} text"
            + (f"; reduced by {lm.reducer}" if lm.reducer else ""),
            "FLOPs": f"{_flops(flops)} to read the prompt; the dense model "
            f"needs {_flops(dense)}, {dense / flops:.1f}x as many",
            "time": f"{answering:.2f} s from pictures to answer"
            + (", compilation included" if compiles else "")
            + f", after {loading:.2f} s of loading",
        }
    )
    if options.picture:
        picture = _picture(lm, inputs, answers[0], budget, text_tokens)
        picture.save(options.picture)
        _print_lines({"picture": options.picture})


def _budget(text):
    try:
        return text if text in NAMED_BUDGETS else int(text)
    except ValueError:
        raise ValueError(
            f"`--budget` must be one of {', '.join(NAMED_BUDGETS)} or an "
            f"index. Received: {text!r}"
        ) from None


def _check_question(question):
    if os.path.isfile(question):
        raise ValueError(
            "`QUESTION` must come after the pictures. Received a file: "
            f"{question!r}"
        )
    if IMAGE_MARK in question and TURN_START not in question:
        raise ValueError(
            f"`QUESTION` must have no {IMAGE_MARK}, as the pictures come "
            f"first by themselves, or be a whole chat template with "
            f"{TURN_START}. Received: {question!r}"
        )


def _check_max_length(max_length):
    if max_length is not None and max_length < 1:
        raise ValueError(
            f"`--max-length` must be 1 or more. Received: {max_length}"
        )


def _check_picture_path(path):
    if not path.lower().endswith(".png"):
        raise ValueError(f"`--picture` must end in .png. Received: {path!r}")
    directory = pathlib.Path(path).parent
    if not directory.is_dir():
        raise ValueError(
            "`--picture` must be in a directory that exists. Received: "
            f"{path!r}"
        )


def _reason(backbone, budget):
    """How a budget comes about."""
    if len(backbone.budgets) == 1:
        return "the model has no other"
    if budget != "auto":
        return f"as asked by --budget {budget}"
    if backbone.policy is None:
        return "the full one, as the model has no policy"
    return "chosen by the policy"


def _picture(lm, inputs, answer, budget, text_tokens) -> Image.Image:
    x = lm.preprocessor.generate_preprocess(
        {**inputs, "budget": [budget]}, sequence_length=text_tokens
    )
    inside = lm.backbone.intermediates(x, lm.reducer)
    side = lm.preprocessor.image_converter.patches_per_side
    return draw_answer(
        inputs["images"][0],
        inputs["prompts"][0],
        answer,
        layer_roles(lm.backbone, budget),
        attention_maps(
            inside["vision_attention"], x, side, inside["vision_positions"]
        ),
    )


def _print_lines(values):
    console = Console(highlight=False)
    for name, value in values.items():
        # Soft wrap: whoever reads the output through a pipe gets whole lines.
        console.print(
            Text.assemble((f"{name:<10}", "bold cyan"), value), soft_wrap=True
        )


# === evaluate ===


def evaluate(options: argparse.Namespace) -> None:
    """Score a model on public data sets."""
    command.run(options, _budget(options.budget))


# === inspect ===


def inspect(options: argparse.Namespace) -> None:
    """Print a model's layers, budgets, parameters and FLOPs."""
    # Structure only: the weights are not read, nor downloaded.
    lm = VisorCausalLM.from_preset(options.preset, load_weights=False)
    tile_size = lm.preprocessor.image_converter.tile_size
    side = 2 * tile_size
    picture = Image.new("RGB", (side, side))
    lengths = lm.preprocessor.image_converter([picture])["image_lengths"]

    console = Console()
    console.print(Text(options.preset, style="bold"))
    console.print(_layer_table(lm.backbone))
    reduced = f", reduced by {lm.reducer}" if lm.reducer else ""
    console.print(
        _budget_table(lm, INSPECTED_TEXT_TOKENS, sum(lengths)),
        f"At {INSPECTED_TEXT_TOKENS} text tokens and {sum(lengths)} visual "
        f"tokens{reduced}: a picture of {side} x {side} pixels. Language model "
        "only, prompt only.",
    )
    console.print(_parameter_table(lm.backbone))


def _layer_table(backbone: VisorBackbone) -> Table:
    table = Table("layer", "role", "on in budgets", title="Decoder layers")
    for layer in range(backbone.num_layers):
        role, on = "text-only", ""
        if layer in backbone.cross_attention_layers:
            role, on = "cross-attention", "all"
        if layer in backbone.self_attention_layers:
            budgets = [
                index
                for index, layers in enumerate(backbone.budgets)
                if layer in layers
            ]
            role, on = "self-attention", _numbers(budgets) or "none"
        table.add_row(str(layer), role, on)
    return table


def _budget_table(
    lm: VisorCausalLM, text_tokens: int, vision_tokens: int
) -> Table:
    backbone = lm.backbone
    table = Table("budget", "self-attention layers on", title="Budgets")
    table.add_column("FLOPs", justify="right")
    table.add_column("saved", justify="right")
    dense = count_flops(backbone, text_tokens, vision_tokens)
    for index, layers in enumerate(backbone.budgets):
        flops = count_flops(
            backbone, text_tokens, vision_tokens, index, lm.reducer
        )
        table.add_row(
            str(index),
            _numbers(layers) or "none",
            _flops(flops),
            f"{dense / flops:.1f}x",
        )
    table.add_row("dense", "all layers", _flops(dense), "1.0x")
    return table


def _parameter_table(backbone: VisorBackbone) -> Table:
    tower = backbone.vision_tower
    encoder = tower.encoder.count_params()
    parts = {
        "vision encoder": encoder,
        "projector": tower.count_params() - encoder,
        "token embedding": backbone.token_embedding.count_params(),
        "decoder": sum(
            layer.count_params()
            for layer in (*backbone.decoder_layers, backbone.final_norm)
        ),
        "cross-attention": sum(
            layer.count_params() for layer in backbone.cross_attentions
        ),
        "policy": backbone.policy.count_params() if backbone.policy else 0,
    }
    table = Table("part", title="Parameters", show_footer=True)
    table.columns[0].footer = "total"
    table.add_column(
        "count", justify="right", footer=f"{backbone.count_params():,}"
    )
    for name, count in parts.items():
        table.add_row(name, f"{count:,}")
    return table


# === Words for numbers ===


def _layers_on(layers):
    if not layers:
        return "no self-attention layer on"
    return f"self-attention on at {_numbers(layers)}"


def _numbers(numbers):
    return ", ".join(map(str, numbers))


def _flops(count):
    for unit, size in (("T", 1e12), ("G", 1e9)):
        if count >= size:
            return f"{count / size:.2f} {unit}FLOP"
    return f"{count / 1e6:.2f} MFLOP"
