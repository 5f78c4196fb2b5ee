import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_visor.preprocessing.buckets import bucket_length

LADDER = [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4)]


def test_is_the_ladder():
    for length in range(65):
        expected = next(step for step in LADDER if step >= length)
        assert bucket_length(length, minimum=1) == expected


@given(st.integers(0, 10**7), st.integers(0, 1000))
def test_bucket_fits_and_is_its_own_bucket(length, minimum):
    bucket = bucket_length(length, minimum)
    assert bucket >= length and bucket >= minimum
    assert bucket == bucket_length(bucket, minimum)
    added = bucket - max(length, minimum, 1)
    assert added * 8 < bucket or added < minimum // 2


def test_few_shapes():
    # 16, 24, ..., 128, then eight for each of seven doublings.
    assert len({bucket_length(n) for n in range(16384)}) == 15 + 8 * 7


def test_minimum_is_rounded_up():
    assert bucket_length(0) == bucket_length(16) == 16
    assert bucket_length(3, minimum=9) == 12


def test_negative_length():
    with pytest.raises(ValueError, match="`length`.*-1"):
        bucket_length(-1)
