"""Peak memory of a prefill above the weights, and what its cache holds.

Each peer runs in a process of its own. What is counted is `RssAnon` of
/proc/self/status: memory that the process alone holds, without mapped files.
A first prefill of the same shape compiles and warms up; its results are
dropped and free memory is given back. The peak of the second prefill, above
what was held before it, is the row's value. What the first one left behind
(programs, pools) is `left_behind`.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys

from prompts import make_prompt
from real_shape import Phase
from real_shape import anonymous_memory
from timing import row

PEERS = ("transformers", "dense", "two", "minimal")
# Freed memory is given back, that it be seen: large blocks are mapped one by
# one, and TensorFlow does without oneDNN, whose pool keeps all that it had.
GIVE_BACK = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


def measure(models, sizes, cell: dict, repeats: int):
    """Yield the rows of one length; memory is measured once."""
    results = {}
    for peer in PEERS:
        process = subprocess.run(
            [sys.executable, __file__, models.directory, peer],
            input=json.dumps([_plain(sizes), cell["visual_tokens"]]),
            env={**os.environ, **GIVE_BACK, "KERAS_BACKEND": _backend()},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[peer] = json.loads(process.stdout.splitlines()[-1])
    theirs = results.pop("transformers")
    for budget, result in results.items():
        for what in ("memory", "cache"):
            dense = results["dense"][what]
            yield row(
                what,
                cell["visual_tokens"],
                1,
                budget,
                result[what],
                theirs[what],
                dense=dense,
                of_dense=result[what] / dense if dense else None,
                **_more(what, result, results["dense"], theirs),
            )


def _more(what, result, dense, theirs):
    if what == "memory":
        return {
            "left_behind": result["left_behind"],
            "transformers_left_behind": theirs["left_behind"],
        }
    return {
        "counted": result["counted"],
        "transformers_counted": theirs["counted"],
        "counted_of_dense": result["counted"] / dense["counted"],
    }


def _backend():
    import keras

    return keras.config.backend()


def _plain(sizes):
    return {"text": sizes.text, "text_tokens": sizes.text_tokens}


# === One peer, in a process of its own ===


def measure_peer(directory, peer, plain, vision_length) -> dict:
    from types import SimpleNamespace

    sizes = SimpleNamespace(**plain)
    inputs = make_prompt(sizes, vision_length)
    run, count = _runner(directory, peer, sizes, inputs)
    loaded = _settled()
    run()
    before = _settled()
    with Phase() as phase:
        results = run()
    counted = count(results[1])
    held = _settled()
    del results
    return {
        "memory": phase.peak - before,
        "left_behind": before - loaded,
        "cache": max(held - _settled(), 0),
        "counted": counted,
    }


def _runner(directory, peer, sizes, inputs):
    """A function that prefills, and one that counts its cache's bytes."""
    if peer == "transformers":
        from peers import Transformers
        from peers import cache_bytes

        model = Transformers(directory)
        return lambda: model.prefill(inputs), cache_bytes
    import keras
    from models import Models
    from models import prefill

    lm, budget = Models(directory, sizes.text["num_hidden_layers"]).named(peer)

    def count(cache):
        tensors = keras.tree.flatten(cache)
        return sum(keras.ops.convert_to_numpy(t).nbytes for t in tensors)

    return lambda: prefill(lm, inputs, budget), count


def _settled() -> int:
    """Memory held once all that is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous_memory()


if __name__ == "__main__":
    print(json.dumps(measure_peer(*sys.argv[1:], *json.load(sys.stdin))))
