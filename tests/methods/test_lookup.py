"""Kernels that find keys by hash: every pair of equal hashes, in partitions that together are the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.methods.lookup import (
    candidate_pairs,
    combined_hashes,
    numbers_within,
    partition_of,
    partition_slice,
    partition_starts,
)

HASHES = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1]), max_size=30)


@given(HASHES, st.integers(1, 9))
def test_partition_slices__are_the_rows_that_partition_of_names(hashes, parts):
    ordered = np.sort(np.array(hashes, np.uint64))
    number = partition_of(ordered, parts)
    for part in range(parts):
        found = partition_slice(ordered, part, parts)
        assert np.flatnonzero(number == part).tolist() == list(range(found.start, found.stop))


@given(st.integers(0, 2**64 - 1), st.integers(1, 1000))
def test_partition_of__is_the_share_of_the_range(value, parts):
    assert partition_of(np.array([value], np.uint64), parts).tolist() == [value * parts >> 64]


def test_partition_starts__refuses_no_partition():
    with pytest.raises(ValueError, match="parts: expected >= 1, got 0"):
        partition_starts(0)


@given(st.lists(st.integers(0, 5), max_size=20), st.lists(st.integers(0, 5), max_size=20))
def test_candidate_pairs__are_all_pairs_of_equal_hashes(table, wanted):
    table = sorted(table)
    query, found = candidate_pairs(np.array(table, np.uint64), np.array(wanted, np.uint64))
    expected = [(i, j) for i, w in enumerate(wanted) for j, t in enumerate(table) if w == t]
    assert list(zip(query.tolist(), found.tolist(), strict=True)) == expected


@given(st.lists(st.integers(0, 3), max_size=20))
def test_numbers_within__count_neighbours(values):
    values = sorted(values)
    found = numbers_within(np.array(values, np.int64)).tolist()
    assert found == [values[:i].count(value) for i, value in enumerate(values)]


def test_combined_hashes__depend_on_the_order_of_columns():
    a, b = (np.random.default_rng(i).integers(0, 2**63, 100).astype(np.uint64) for i in (0, 1))
    assert not (combined_hashes([a, b]) == combined_hashes([b, a])).any()
    assert combined_hashes([a]) is a


def test_combined_hashes__spread_small_differences_over_all_bits():
    a = np.zeros(2000, np.uint64)
    b = np.arange(2000, dtype=np.uint64)
    found = combined_hashes([a, b])
    counts = np.bincount(partition_of(found, 8), minlength=8)
    assert len(np.unique(found)) == 2000
    assert counts.min() > 150
