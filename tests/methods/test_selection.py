from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.methods.selection import KEY_BITS, descend, digit_table, merge_tables


def kth_smallest(code, bits, cut, ranks, width):
    """Key of a rank in every stratum, digit by digit over two chunks: how the parts fit together."""
    prefix, rank = np.zeros(len(ranks), np.uint64), list(ranks)
    for depth in range(0, KEY_BITS, width):
        parts = [
            digit_table(code[s], bits[s], prefix=prefix, depth=depth, width=width)
            for s in (slice(cut), slice(cut, None))
        ]
        stratum, digit, count = merge_tables(*parts, width=width)
        for at in range(len(ranks)):
            here = stratum == at
            found, rank[at], _ = descend(digit[here], count[here], rank[at])
            prefix[at] = (int(prefix[at]) << width) | found
    return prefix


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**64 - 1)), min_size=1, max_size=60), st.data())
def test_kth_smallest__is_the_sorted_one_in_every_stratum(rows, data):
    rows = [*rows, *rows[:3], (0, 5), (1, 2**64 - 1), (2, 0)]
    code, bits = np.array([c for c, _ in rows]), np.array([b for _, b in rows], np.uint64)
    sizes = np.bincount(code, minlength=3)
    ranks = [data.draw(st.integers(1, int(size))) for size in sizes]
    found = kth_smallest(code, bits, data.draw(st.integers(0, len(rows))), ranks, data.draw(st.sampled_from([8, 16])))
    assert found.tolist() == [int(np.sort(bits[code == at])[rank - 1]) for at, rank in enumerate(ranks)]


def test_digit_table__counts_only_the_prefix_and_leaves_out_negative_codes():
    bits = np.array([0x0001_0002_0003_0004, 0x0001_0002_0003_0005, 0x0001_FFFF_0000_0000, 1 << 48], np.uint64)
    code = np.array([0, 0, 0, -1])
    shown = digit_table(code, bits, prefix=np.array([1], np.uint64), depth=16, width=16)
    assert [part.tolist() for part in shown] == [[0, 0], [2, 0xFFFF], [2, 1]]


@pytest.mark.parametrize("rank", [0, 6])
def test_descend__refuses_a_rank_that_is_not_there(rank):
    with pytest.raises(ValueError, match=f"rank: expected 1 to 5, got {rank}"):
        descend(np.array([0, 1]), np.array([2, 3]), rank)
