from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from curation.methods.sample import (
    Sample,
    apportion,
    arrival_horizon,
    arrival_keys,
    arrivals_until,
    long_tail_sizes,
    order_bits,
)
from curation.rng import stream_key

KEY = stream_key(0, "sample", "draws")
WEIGHTS = np.array([0.5, 1.0, 2.0, 4.0, 0.0, 1.5])


def draw_first(weights, n_trials, seed):
    """Winner of a race among the weights, many times over: ids differ from trial to trial."""
    ids = np.arange(n_trials * weights.size, dtype=np.uint64)
    key = stream_key(seed, "sample", "draws")
    return arrival_keys(key, ids, weight=np.tile(weights, n_trials)).reshape(n_trials, -1)


def chi_square_p(counts, shares):
    counts, shares = counts[shares > 0], shares[shares > 0]
    return stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue


# ---- the race


@pytest.mark.parametrize("seed", range(3))
def test_first_arrival__follows_the_weights(seed):
    winner = draw_first(WEIGHTS, 50_000, seed).argmin(axis=1)
    assert chi_square_p(np.bincount(winner, minlength=6), WEIGHTS) > 1e-4


def test_first_arrival__the_test_has_power():
    wrong = WEIGHTS * np.array([1, 1, 1, 1.05, 1, 1])
    winner = draw_first(wrong, 50_000, 0).argmin(axis=1)
    assert chi_square_p(np.bincount(winner, minlength=6), WEIGHTS) < 1e-4


def pair_probabilities(weights):
    """Chance of each unordered pair as the first two draws without replacement (closed form)."""
    p = weights / weights.sum()
    return {(i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i in range(6) for j in range(i + 1, 6)}


def pair_p(weights, seed):
    first = np.sort(np.argsort(draw_first(weights, 100_000, seed), axis=1)[:, :2], axis=1)
    expected = pair_probabilities(WEIGHTS)
    counts = np.array([((first[:, 0] == i) & (first[:, 1] == j)).sum() for i, j in expected])
    return chi_square_p(counts, np.array(list(expected.values())))


@pytest.mark.parametrize("seed", range(3))
def test_without_replacement__pairs_have_their_efraimidis_spirakis_chance(seed):
    assert pair_p(WEIGHTS, seed) > 1e-4


def test_without_replacement__the_pair_test_has_power():
    assert pair_p(WEIGHTS * np.array([1, 1, 1, 1.05, 1, 1]), 0) < 1e-4


def draw_with_replacement(weights, k, seed):
    key, ids = stream_key(seed, "sample", "copies"), np.arange(weights.size, dtype=np.uint64)
    position, _, arrival = arrivals_until(key, ids, arrival_horizon(k, weights.sum()), weights)
    assert arrival.size >= k
    return np.bincount(position[np.argsort(arrival)[:k]], minlength=weights.size)


@pytest.mark.parametrize("seed", range(3))
def test_with_replacement__counts_are_multinomial(seed):
    counts = draw_with_replacement(np.tile(WEIGHTS, 20), 100_000, seed)
    assert counts.sum() == 100_000
    assert chi_square_p(counts, np.tile(WEIGHTS, 20)) > 1e-4
    # and not more even than independent draws would be
    assert stats.chi2.cdf(stats.chisquare(counts[2::6]).statistic, 19) > 1e-4


def test_with_replacement__the_test_has_power():
    wrong = np.tile(WEIGHTS, 20) * np.where(np.arange(120) % 2, 1.05, 1.0)
    assert chi_square_p(draw_with_replacement(wrong, 100_000, 0), np.tile(WEIGHTS, 20)) < 1e-4


def test_arrivals__are_exponential():
    times = arrival_keys(KEY, np.arange(100_000), weight=np.full(100_000, 2.0))
    assert stats.kstest(times, "expon", args=(0, 0.5)).pvalue > 1e-4
    assert stats.kstest(times * 1.05, "expon", args=(0, 0.5)).pvalue < 1e-4


def test_arrivals__of_copies_are_gamma_with_independent_gaps():
    ids = np.arange(100_000, dtype=np.uint64)
    first, third = arrival_keys(KEY, ids), arrival_keys(KEY, ids, copy=2)
    assert stats.kstest(third, "gamma", args=(3,)).pvalue > 1e-4
    assert abs(np.corrcoef(first, third - first)[0, 1]) < 4 / np.sqrt(ids.size)


@settings(deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=20), st.floats(0, 5))
def test_arrivals_until__are_the_arrival_keys_up_to_the_time(weights, t_max):
    weight, ids = np.array(weights), np.arange(len(weights), dtype=np.uint64) * np.uint64(2**33 + 1)
    position, copy, arrival = arrivals_until(KEY, ids, t_max, weight)
    np.testing.assert_array_equal(arrival, arrival_keys(KEY, ids[position], copy=copy, weight=weight[position]))
    assert (arrival <= t_max).all()
    for i, n in enumerate(np.bincount(position, minlength=ids.size)):
        assert arrival_keys(KEY, ids[i : i + 1], copy=int(n), weight=weight[i : i + 1])[0] > t_max


def test_arrivals__do_not_depend_on_order_or_chunks():
    ids, weight = np.arange(100, dtype=np.uint64), np.linspace(0, 3, 100)
    whole, order = arrival_keys(KEY, ids, weight=weight), np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(arrival_keys(KEY, ids[order], weight=weight[order]), whole[order])


def test_streams__race_apart():
    ids = np.zeros(1000, np.uint64)
    assert np.unique(arrival_keys(KEY, ids, stream=np.arange(1000))).size == 1000
    np.testing.assert_allclose(
        arrival_keys(KEY, ids[:1], copy=1), arrival_keys(KEY, ids[:2], stream=np.arange(2)).sum(), rtol=1e-15
    )


def test_weight_zero__is_never_drawn():
    ids = np.arange(1000)
    assert np.isinf(arrival_keys(KEY, ids, weight=np.zeros(1000))).all()
    assert arrivals_until(KEY, ids, 1e9, np.zeros(1000))[0].size == 0


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights__refuse_bad_numbers_naming_the_row(bad):
    with pytest.raises(ValueError, match=rf"weight\[2\]: expected finite >= 0, got {bad}"):
        arrival_keys(KEY, np.arange(3), weight=np.array([1.0, 0.0, bad]))


def test_arrivals__refuse_misfits():
    with pytest.raises(ValueError, match=r"weight: expected one per row \(3,\), got \(2,\)"):
        arrival_keys(KEY, np.arange(3), weight=np.ones(2))
    with pytest.raises(ValueError, match="copy: expected one integer >= 0"):
        arrival_keys(KEY, np.arange(3), copy=-1)
    with pytest.raises(ValueError, match="t_max: expected a finite time >= 0, got inf"):
        arrivals_until(KEY, np.arange(3), np.inf)
    with pytest.raises(ValueError, match="total_weight: expected finite > 0, got 0"):
        arrival_horizon(3, 0.0)


# ---- thresholds


@given(st.lists(st.floats(allow_nan=False), min_size=2))
def test_order_bits__keep_the_order(values):
    array = np.array(values)
    bits = order_bits(array)
    np.testing.assert_array_equal(bits[:-1] < bits[1:], array[:-1] < array[1:])
    np.testing.assert_array_equal(bits[:-1] == bits[1:], array[:-1] == array[1:])


def test_order_bits__put_nan_last():
    assert order_bits(np.array([np.nan]))[0] > order_bits(np.array([np.inf]))[0]
    assert order_bits(np.array([-np.nan])) == order_bits(np.array([np.nan]))


# ---- sizes


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any), st.integers(0, 10**13))
def test_apportion__is_proportional_and_adds_up(sizes, total):
    dealt = apportion(total, sizes)
    assert dealt.sum() == total
    assert all(abs(int(d) * sum(sizes) - total * n) < sum(sizes) for d, n in zip(dealt, sizes, strict=True))
    if total <= sum(sizes):
        assert (dealt <= sizes).all()


def test_apportion__breaks_ties_by_order():
    assert apportion(5, [1, 1, 1]).tolist() == [2, 2, 1]
    assert apportion(0, [0, 0]).tolist() == [0, 0]


@pytest.mark.parametrize(("total", "sizes", "match"), [(-1, [1], "got -1, 1"), (3, [0], "at least one row")])
def test_apportion__refuses_bad_sizes(total, sizes, match):
    with pytest.raises(ValueError, match=match):
        apportion(total, sizes)


def test_long_tail__of_equal_classes_falls_exponentially():
    assert long_tail_sizes([500] * 3, 100).tolist() == [500, 50, 5]
    assert long_tail_sizes([5000] * 10, 100).tolist()[::9] == [5000, 50]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30), st.floats(1.001, 1000))
def test_long_tail__keeps_order_and_never_more_than_there_are(sizes, imbalance):
    kept = long_tail_sizes(sizes, imbalance)
    assert (kept <= sizes).all()
    assert (kept >= 1).all()
    assert (np.diff(kept[np.argsort(-np.array(sizes), kind="stable")]) <= 0).all()


@pytest.mark.parametrize(("sizes", "imbalance", "match"), [([3, 0], 2, r"sizes\[1\]"), ([3], 1.0, "imbalance")])
def test_long_tail__refuses_bad_arguments(sizes, imbalance, match):
    with pytest.raises(ValueError, match=match):
        long_tail_sizes(sizes, imbalance)


# ---- options


@pytest.mark.parametrize(
    "options",
    [
        {"n": 5, "weight": "w"},
        {"fraction": 0.1, "by": "g"},
        {"fraction": 2.5, "replacement": True},
        {"quotas": {"a": 3, 4: 0, True: 1, 0.5: 9}, "by": "g"},
        {"long_tail": {"imbalance": 100.0}, "by": "g"},
    ],
)
def test_options__accept_each_size(options):
    assert Sample(**options).model_dump(exclude_unset=True) == options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "expected exactly one, got none"),
        ({"n": 5, "fraction": 0.5}, r"expected exactly one, got \['n', 'fraction'\]"),
        ({"quotas": {"a": 3}}, "quotas: expected by as well"),
        ({"long_tail": {"imbalance": 10.0}}, "long_tail: expected by as well"),
        ({"fraction": 1.5}, "fraction: expected <= 1, got 1.5; lower it or set replacement"),
        ({"fraction": float("inf"), "replacement": True}, "fraction: expected a finite number"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"by": "g", "quotas": {"a": -3}}, r"quotas\['a'\]: expected >= 0, got -3"),
        ({"by": "g", "long_tail": {"imbalance": 1.0}}, "greater than 1"),
        ({"by": "g", "long_tail": {"imbalance": 9.0}, "replacement": True}, "expected replacement: false"),
    ],
)
def test_options__refuse_mistakes(options, match):
    with pytest.raises(ValidationError, match=match):
        Sample(**options)
