"""What the rows of results.json are held against."""

from collections.abc import Iterator

# Targets are for the real shape on two cores; "every" backend must reach
# those that name no best one.
PREFILL = {
    "minimal": {1_485: 15, 3_699: 35, 7_371: 60},
    "two": {1_485: 6, 3_699: 8, 7_371: 9},
    "dense": {1_485: 1, 3_699: 1, 7_371: 1},
}
OF_FLOPS_RATIO = 0.7
MEMORY = {"minimal": 0.5, "two": 0.9, "dense": 1.0}
CACHE = {"minimal": 0.36, "two": 0.45}


def targets_of(row: dict, best: bool) -> Iterator[tuple[str, bool]]:
    """What a row is held against, in words, and whether it is met.

    Args:
        row: dict. A row of results.json.
        best: bool. Whether no other backend has a better value.
    """
    what, budget = row["what"], row["budget"]
    if what == "prefill":
        least = PREFILL.get(budget, {}).get(row["visual_tokens"])
        if least is not None:
            least = least if best else least / 2
            yield f"ratio ≥ {least:g}", row["ratio"] >= least
        if "of_flops_ratio" in row and budget != "dense":
            yield (
                f"of FLOPs ratio ≥ {OF_FLOPS_RATIO}",
                row["of_flops_ratio"] >= OF_FLOPS_RATIO,
            )
    elif what == "decode":
        yield "ratio ≥ 1", row["ratio"] >= 1
        if budget == "minimal":
            least = 1.0 if row["batch"] == 1 else 1.1
            yield f"against dense ≥ {least}", row["dense_ratio"] >= least
    elif what == "memory" and budget in MEMORY:
        most = MEMORY[budget]
        part = row["value"] / row["transformers"]
        yield f"of transformers ≤ {most:g}", part <= most
    elif what == "cache" and budget in CACHE:
        most = CACHE[budget]
        yield f"of dense ≤ {most}", max(_parts(row)) <= most
    elif what == "routing" and budget == "mixed":
        yield "of groups apart ≤ 1.15", row["of_apart"] <= 1.15
    elif what == "routing":
        yield "of prefill ≤ 3 %", row["of_prefill"] <= 0.03
    elif what == "reduction" and budget == "two average_pooling:0.5":
        yield "against unreduced ≥ 1.7", row["unreduced_ratio"] >= 1.7
    elif what == "train_step" and budget == "universal":
        yield "of dense ≤ 0.30", row["of_dense"] <= 0.30


def _parts(row):
    """By measure and by count."""
    return [row["of_dense"] or 0, row["counted_of_dense"]]
