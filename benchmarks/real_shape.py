"""Memory and time of a model of LLaVA-OneVision 0.5B's real shape.

Writes a checkpoint of that shape with small random weights into a temporary
directory, 1.8 GB in bfloat16, and for each backend starts a fresh process
that loads it as a VISOR of the default layout and lets it answer one question
about a picture of three tiles, about 3,000 visual tokens. The memory is what
the process holds itself (`RssAnon` in /proc/self/status), without the mapped
checkpoint, whose pages the system can take back. Linux only.

Loading must never hold more, above what the process held after its imports,
than the model and its three largest tensors. It is repeated in processes of
their own, and the largest peak counts.

    python benchmarks/real_shape.py                 # all backends, a table
    python benchmarks/real_shape.py --backend jax --repeats 5
    python benchmarks/real_shape.py --write         # into real_shape.md
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from real_shape_checkpoint import TEXT
from real_shape_checkpoint import write_checkpoint

BACKENDS = ("jax", "tensorflow", "torch")
BUDGETS = ("minimal", "full")
NEW_TOKENS = 4
PICTURE_SIZE = (384, 1152)
QUESTION = "What is in the picture?"


# === One backend, in a process of its own ===


class Phase:
    """Peak anonymous memory, in bytes, and seconds of a `with` block."""

    def __enter__(self):
        self.peak = 0
        self._start = time.perf_counter()
        self._running = True
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self):
        while self._running:
            self.peak = max(self.peak, anonymous_memory())
            time.sleep(0.005)

    def __exit__(self, *exception):
        self.seconds = time.perf_counter() - self._start
        self._running = False
        self._thread.join()


def anonymous_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(directory: str, answers: bool) -> dict:
    import keras

    import keras_visor

    # The backend's threads and pools exist before memory is counted.
    keras.ops.convert_to_numpy(keras.ops.ones((8, 8)) @ keras.ops.ones((8, 8)))
    imported = anonymous_memory()
    with Phase() as load:
        lm = keras_visor.VisorCausalLM.from_preset(
            directory,
            dtype="bfloat16",
            **keras_visor.uniform_layout(TEXT["num_hidden_layers"]),
        )
    sizes = sorted(map(size_in_bytes, lm.backbone.weights), reverse=True)
    results = {
        "imported": imported,
        "load": [load.peak - imported, load.seconds],
        "loaded": anonymous_memory() - imported,
        "model": sum(sizes),
        "three_largest": sum(sizes[:3]),
    }
    if not answers:
        return results

    height, width = np.indices(PICTURE_SIZE)
    picture = np.stack(
        [height % 256, width % 256, (height + width) % 256], axis=-1
    ).astype("uint8")
    question = {"prompts": [QUESTION], "images": [picture]}
    prompt = lm.preprocessor.generate_preprocess(question)
    length = int(np.sum(np.asarray(prompt["padding_mask"])))
    for budget in BUDGETS:
        with Phase() as phase:
            _, report = lm.generate(
                question,
                max_length=length + NEW_TOKENS,
                budget=budget,
                # All the new tokens, whatever they are.
                stop_token_ids=None,
                return_report=True,
            )
        results[budget] = [phase.peak - imported, phase.seconds]
    results["vision_tokens"] = int(report["vision_tokens"][0])
    assert 2_900 <= results["vision_tokens"] <= 3_300, results
    return results


def size_in_bytes(variable) -> int:
    return math.prod(variable.shape) * np.dtype(variable.dtype).itemsize


# === The table ===


def table(results: dict[str, dict]) -> str:
    lines = [
        "| backend | imports | model | three largest tensors | both "
        "| peak of loading | after loading | load "
        "| peak, minimal | minimal | peak, full | full |",
        "|---" * 12 + "|",
    ]
    for backend, result in results.items():
        version = importlib.metadata.version(backend)
        cells = [
            f"{backend} {version}",
            megabytes(result["imported"]),
            megabytes(result["model"]),
            megabytes(result["three_largest"]),
            megabytes(result["model"] + result["three_largest"]),
            megabytes(max(result["load_peaks"])),
            megabytes(result["loaded"]),
            f"{result['load'][1]:.0f} s",
        ]
        for budget in BUDGETS:
            peak, seconds = result[budget]
            cells += [megabytes(peak), f"{seconds:.0f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def megabytes(size):
    return f"{size / 1e6:,.0f} MB"


def page(results, repeats) -> str:
    tokens = {result["vision_tokens"] for result in results.values()}
    return f"""\
# The real shape

Written by `python benchmarks/real_shape.py --write`, which says what is
measured. LLaVA-OneVision 0.5B's shape with the default layout, bfloat16; one
picture of {", ".join(f"{count:,}" for count in sorted(tokens))} visual tokens,
{NEW_TOKENS} new tokens. Memory is anonymous and stands above what the process
holds after its imports. Loading must stay below the model and its three largest
tensors, the column "both"; its peak is the largest of {repeats} processes. The
seconds of an answer include compiling its programs and encoding the picture.
{len(os.sched_getaffinity(0))} CPU core(s), {platform.machine()}, Keras \
{importlib.metadata.version("keras")}.

{table(results)}
"""


def run(directory: str, backend: str, repeats: int) -> dict:
    """Measure in processes of their own; only the last one answers."""
    peaks = []
    for repeat in range(repeats):
        command = [sys.executable, __file__, "--measure", directory]
        process = subprocess.run(
            command + ["--answers"] * (repeat == repeats - 1),
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        result = json.loads(process.stdout.splitlines()[-1])
        peaks.append(result["load"][0])
        print(backend, result, flush=True)
    return {**result, "load_peaks": peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument(
        "--answers", action="store_true", help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.answers)))
        return
    backends = [arguments.backend] if arguments.backend else BACKENDS
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(Path(directory))
        results = {
            backend: run(directory, backend, arguments.repeats)
            for backend in backends
        }
    print(table(results))
    if arguments.write:
        text = page(results, arguments.repeats)
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
