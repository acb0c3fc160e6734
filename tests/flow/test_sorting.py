"""Sorted runs are cut exactly, wherever the samples fall; the order reaches an output or it is said why not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.flow import sorting
from curation.flow.sorting import Cuts, Keys

SMALL = 4
"""Keys from one sample to the next here."""


@pytest.fixture(scope="module", autouse=True)
def small_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "SAMPLE", SMALL)
        yield


RUNS = st.lists(st.lists(st.binary(max_size=3), min_size=1, max_size=40), min_size=1, max_size=6)


def keys_of(run):
    """A sorted run, as the store would map it, and not at the begin of its buffers."""
    whole = pa.array([b"before", *sorted(run)], pa.large_binary())
    return Keys(pa.chunked_array([whole.slice(1)]))


@given(RUNS, st.data())
def test_cuts__are_the_first_rows_of_all(runs, data):
    seen: set[bytes] = set()
    runs = [[key for key in dict.fromkeys(run) if not (key in seen or seen.add(key))] for run in runs]  # type: ignore[func-returns-value]
    runs = [run for run in runs if run] or [[b"a"]]
    everything = sorted(key for run in runs for key in run)
    rank = data.draw(st.integers(0, len(everything) - 1))
    first = set(everything[:rank])
    found = Cuts([keys_of(run) for run in runs]).at(rank)
    assert found.tolist() == [sum(key in first for key in run) for run in runs]


def test_cuts__of_one_long_run_and_many_short_ones():
    keys = [i.to_bytes(4, "big") for i in range(3000)]
    runs = [keys_of(keys[:2000]), *(keys_of([key]) for key in keys[2000:2050]), keys_of(keys[2050:])]
    cuts = Cuts(runs)
    for rank in (0, 1, 1999, 2000, 2001, 2049, 2050, 2999):
        found = cuts.at(rank)
        assert found.sum() == rank
        assert found[0] == min(rank, 2000)


def test_cuts__also_hold_where_keys_are_equal():
    cuts = Cuts([keys_of([b"x"] * 30), keys_of([b"x"] * 30)])
    assert [int(cuts.at(rank).sum()) for rank in range(0, 60, 7)] == list(range(0, 60, 7))


def test_cuts__look_at_few_keys():
    class Counting(Keys):
        seen = 0

        def __getitem__(self, i):
            Counting.seen += 1
            return super().__getitem__(i)

    order = np.random.default_rng(0).permutation(20_000)
    runs = [sorted(int(i).to_bytes(4, "big") for i in order[a::4]) for a in range(4)]
    cuts = Cuts([Counting(pa.chunked_array([pa.array(run, pa.large_binary())])) for run in runs])
    Counting.seen = 0
    assert int(cuts.at(12_345).sum()) == 12_345
    assert Counting.seen < 300
