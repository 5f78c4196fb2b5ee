"""Timing functions side by side, and rows of the results."""

import statistics
import time
from collections.abc import Callable

# A turn of a function: the runs that begin within this many seconds, and at
# most so many. After another function's, the first run of a short one is
# slower; that of `transformers`, which takes seconds, was not.
TURN = 2.0
TURN_RUNS = 5

# Whatever takes longer than this, in seconds, is repeated less often.
SLOW = 10.0
SLOW_REPEATS = 3


def interleave(
    functions: dict[str, Callable], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each function, in rounds: a machine's speed drifts.

    Nothing is compiled here: call the functions once before.

    Args:
        functions: dict of functions without arguments, which return when all
            is done.
        repeats: int. Rounds; of slow functions three at most.

    Returns:
        For each function, for each round the median of the runs of its turn.
    """
    seconds = {name: [] for name in functions}
    for round_number in range(repeats):
        for name, function in functions.items():
            is_slow = seconds[name] and seconds[name][0] > SLOW
            if is_slow and round_number >= SLOW_REPEATS:
                continue
            seconds[name].append(median(_turn(function)))
    return seconds


def _turn(function) -> list[float]:
    seconds = []
    while sum(seconds) < TURN and len(seconds) < TURN_RUNS:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    return statistics.median(values)


def row(
    what: str,
    visual_tokens: int | None,
    batch: int,
    budget: str,
    value: float,
    transformers: float | None = None,
    **more,
) -> dict:
    """One row of results.json.

    `value` and `transformers` are what ours and theirs took, in seconds or
    bytes; `ratio` is above 1 where ours took less.
    """
    return {
        "what": what,
        "visual_tokens": visual_tokens,
        "batch": batch,
        "budget": budget,
        "value": value,
        "transformers": transformers,
        "ratio": transformers / value if transformers and value else None,
        **more,
    }
