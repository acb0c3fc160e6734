"""RS2: rounds without repeats, cycles that are permutations, in closed form."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chi2

from curation.methods.rs2 import RS2, round_rows, round_size, rounds_per_cycle, subset_size


class Order:
    """A stored permutation."""

    def __init__(self, values):
        self._values, self._places = values, np.argsort(values)

    def at(self, positions):
        return self._values[positions]

    def inverse(self, values):
        return self._places[values]


def orders(seed):
    """Stored permutations by name; equal names give equal permutations."""

    @cache
    def keyed(purpose, number, size):
        rng = np.random.default_rng([seed, sum(purpose.encode()), number, size])
        return Order(rng.permutation(size))

    return keyed


def rounds(n, m, count, *, tail="carry", replacement=False, keyed=None):
    keyed = keyed or orders(0)
    return [
        round_rows(
            t,
            np.arange(round_size(t, n_rows=n, n_subset=m, tail=tail, replacement=replacement)),
            n_rows=n,
            n_subset=m,
            tail=tail,
            replacement=replacement,
            keyed=keyed,
        )
        for t in range(count)
    ]


@pytest.mark.parametrize("part", range(4))
def test_carry__no_repeats_in_a_round_and_every_cycle_a_permutation(part):
    """All N < 40, m <= N, 60 rounds; cycles being permutations, counts differ by at most 1 at every draw."""
    for n in range(1 + part, 40, 4):
        keyed = orders(n)
        for m in range(1, n + 1):
            drawn = rounds(n, m, 60, keyed=keyed)
            assert all(np.bincount(rows, minlength=n).max() == 1 for rows in drawn), (n, m)
            sequence = np.concatenate(drawn)
            cycles = sequence[: len(sequence) // n * n].reshape(-1, n)
            assert (np.sort(cycles, axis=1) == np.arange(n)).all(), (n, m)
            counts = np.bincount(sequence, minlength=n)
            assert counts.max() - counts.min() <= 1, (n, m)


@pytest.mark.parametrize(("n", "m", "count", "times"), [(10, 4, 5, 2), (1000, 70, 100, 7), (1000, 930, 100, 93)])
def test_carry__golden_exposure(n, m, count, times):
    assert (np.bincount(np.concatenate(rounds(n, m, count))) == times).all()


@given(st.integers(1, 200), st.data())
def test_round__any_slice_in_any_order_equals_the_whole(n, data):
    m = data.draw(st.integers(1, n))
    options = {
        "n_rows": n,
        "n_subset": m,
        "tail": data.draw(st.sampled_from(["carry", "short", "drop"])),
        "replacement": data.draw(st.booleans()),
        "keyed": orders(n),
    }
    t = data.draw(st.integers(0, 40))
    size = round_size(t, n_rows=n, n_subset=m, tail=options["tail"], replacement=options["replacement"])
    whole = round_rows(t, np.arange(size), **options)
    some = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), dtype=np.int64)
    assert np.array_equal(round_rows(t, some, **options), whole[some])


def test_carry__a_late_round_needs_no_earlier_one():
    """Round 10**9 asks for a handful of bijections, whatever came before."""
    asked = []

    def keyed(purpose, number, size):
        asked.append((purpose, number, size))
        return orders(0)(purpose, number, size)

    for m in (300, 700):
        rows = round_rows(
            10**9 + 1, np.arange(m), n_rows=1001, n_subset=m, tail="carry", replacement=False, keyed=keyed
        )
        assert np.unique(rows).size == m
    assert len(asked) <= 10


def test_short__the_last_round_of_a_cycle_is_smaller():
    drawn = rounds(10, 4, 6, tail="short")
    assert [len(rows) for rows in drawn] == [4, 4, 2, 4, 4, 2]
    assert rounds_per_cycle(10, 4, "short") == 3
    for cycle in (drawn[:3], drawn[3:]):
        assert np.sort(np.concatenate(cycle)).tolist() == list(range(10))


def test_drop__a_cycle_leaves_out_its_rest():
    drawn = rounds(10, 4, 6, tail="drop")
    assert all(np.unique(rows).size == 4 for rows in drawn)
    assert all(np.unique(np.concatenate(drawn[t : t + 2])).size == 8 for t in (0, 2, 4))


@pytest.mark.parametrize(("r", "count", "expected"), [(0.1, 10, 0.6513), (0.1, 20, 0.8784), (0.3, 4, 0.7599)])
def test_replacement__coverage_follows_the_formula(r, count, expected):
    n, m = 1000, int(1000 * r)
    share = [
        np.unique(np.concatenate(rounds(n, m, count, replacement=True, keyed=orders(seed)))).size / n
        for seed in range(50)
    ]
    assert np.mean(share) == pytest.approx(1 - (1 - m / n) ** count, abs=0.01)
    assert np.mean(share) == pytest.approx(expected, abs=0.01)


def test_replacement__rounds_are_independent():
    n, m, count = 400, 120, 400
    sets = [set(rows.tolist()) for rows in rounds(n, m, count, replacement=True)]
    overlap = np.array([len(a & b) for a, b in pairwise(sets)])
    variance = m * (m / n) * (1 - m / n) * (n - m) / (n - 1)
    assert abs(overlap.mean() - m * m / n) < 4 * np.sqrt(variance / count)


@pytest.mark.parametrize(("n", "m"), [(20, 3), (20, 7), (20, 13), (20, 19)])
def test_carry__every_row_is_equally_likely_at_every_place(n, m):
    """Over keys; the 6 rounds reach both kinds of rounds, inside a cycle and across two."""
    for t in range(6):
        counts = np.zeros((m, n))
        for seed in range(600):
            rows = round_rows(
                t, np.arange(m), n_rows=n, n_subset=m, tail="carry", replacement=False, keyed=orders(seed)
            )
            counts[np.arange(m), rows] += 1
        statistic = ((counts - 600 / n) ** 2 / (600 / n)).sum()
        # rows exclude each other inside a round: fewer degrees of freedom by the factor (n - m / n) / n at
        # most
        assert chi2.sf(statistic, m * (n - 1)) > 1e-5, (t, statistic)


@pytest.mark.parametrize(("n", "m"), [(12, 5), (12, 8)])
def test_carry__every_pair_is_equally_likely_in_a_round(n, m):
    seeds, t = 1500, 4
    pairs = np.zeros((n, n))
    for seed in range(seeds):
        keyed = orders(seed)
        rows = round_rows(t, np.arange(m), n_rows=n, n_subset=m, tail="carry", replacement=False, keyed=keyed)
        pairs[np.ix_(rows, rows)] += 1
    rate = pairs[np.triu_indices(n, 1)] / seeds
    expected = m * (m - 1) / (n * (n - 1))
    assert np.abs(rate - expected).max() < 4.5 * np.sqrt(expected * (1 - expected) / seeds)


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [
        (10, 0.25, 3),
        (10, 0.24, 2),
        (50, 0.29, 15),
        (5, 0.5, 3),
        (3, 0.01, 1),
        (7, 1.0, 7),
        (10**15, 0.1, 10**14),
    ],
)
def test_subset_size__rounds_half_up_and_is_at_least_one(n, fraction, expected):
    assert subset_size(n, fraction) == expected


@pytest.mark.parametrize(
    ("n", "fraction", "message"),
    [
        (0, 0.5, "n_rows: expected >= 1, got 0"),
        (5, 0.0, "fraction: expected 0 < fraction <= 1"),
        (5, 1.1, "fraction: expected 0 < fraction <= 1, got 1"),
    ],
)
def test_subset_size__refuses(n, fraction, message):
    with pytest.raises(ValueError, match=message):
        subset_size(n, fraction)


def test_rs2__defaults():
    options = RS2(fraction=0.1)
    assert (options.replacement, options.tail, RS2.shape) == (False, "carry", "plan")


@pytest.mark.parametrize("bad", [{"fraction": 0.0}, {"fraction": 1.5}, {"fraction": 0.5, "tail": "wrap"}, {}])
def test_rs2__refuses(bad):
    with pytest.raises(ValidationError, match=r"fraction|tail"):
        RS2.model_validate(bad)
