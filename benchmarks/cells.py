"""What one measurement covers: the peers that are compared with each other."""

WHAT = (
    "prefill",
    "decode",
    "memory",
    "routing",
    "end_to_end",
    "reduction",
    # Last, where one process does it all: it changes the models.
    "train_step",
)


def cells_of(what: str, sizes) -> list[dict]:
    """The measurements of one kind of row, by the keys that tell them apart.

    Args:
        what: str. One of `WHAT`.
        sizes: `Sizes`.
    """
    decoded = sizes.decoded_visual_tokens
    return {
        "prefill": [
            {"visual_tokens": length, "batch": 1}
            for length in (*sizes.visual_tokens, *sizes.longer)
        ],
        "decode": [
            {"visual_tokens": decoded, "batch": batch}
            for batch in sizes.batches
        ],
        "memory": [
            {"visual_tokens": length, "batch": 1}
            for length in sorted({max(sizes.visual_tokens), decoded})
        ],
        "routing": [
            {"visual_tokens": decoded, "batch": batch}
            for batch in (1, sizes.mixed_batch)
        ],
        "train_step": [{"visual_tokens": min(sizes.visual_tokens), "batch": 1}],
        "end_to_end": [{"side": side, "batch": 1} for side in sizes.sides],
        "reduction": [{"batch": 1}],
    }[what]
