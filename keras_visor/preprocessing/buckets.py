"""Lengths to pad to or to cut into, so that few shapes are ever compiled."""

from collections.abc import Iterator
from collections.abc import Sequence

CHUNK_LENGTHS = (8, 4, 2, 1)


def bucket_length(length: int, minimum: int = 16) -> int:
    """Returns the padded length of a sequence.

    Every new length costs a compilation, every padded token costs time. The
    buckets are the whole numbers from 8 to 15 times a power of two, as far as
    they lie half of `minimum` apart (or the power of two below that): `16, 24,
    ..., 128, 144, 160, ..., 256, 288, ...`. A long sequence grows by less than
    an eighth, and each doubling of the length adds at most eight shapes.

    Args:
        length: int. The number of tokens, 0 or more.
        minimum: int. No bucket is shorter than this. Defaults to `16`.

    Returns:
        int. The smallest bucket that is at least `length` and `minimum`.

    Example:

    ```python
    bucket_length(3)  # 16
    bucket_length(33)  # 40
    ```
    """
    if length < 0:
        raise ValueError(f"`length` must be 0 or more. Received: {length}.")
    longest = max(length, minimum, 1)
    # Between 2**k and 2**(k + 1) the buckets lie an eighth of 2**k apart.
    step = 1 << max(
        longest.bit_length() - 4, (minimum // 2).bit_length() - 1, 0
    )
    return -(-longest // step) * step


def chunks(items: Sequence) -> Iterator[Sequence]:
    """Cut what runs in batches into batches of 8, 4, 2 and 1.

    So no row is there only to pad, and few shapes are compiled.

    Args:
        items: list or array.

    Yields:
        Slices of `items`, in order.
    """
    while len(items):
        size = next(size for size in CHUNK_LENGTHS if size <= len(items))
        yield items[:size]
        items = items[size:]
