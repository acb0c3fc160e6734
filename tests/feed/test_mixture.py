"""Shares become counts: exact sums, never negative, never far from the target, from any place at once."""

from __future__ import annotations

import numpy as np
import pytest

from curation.feed.mixture import WINDOW, Mixture
from curation.feed.permutation import derive_key, shuffled
from curation.methods.temperature import temperature_shares


def shuffle(segment, window, size):
    return shuffled(size, derive_key(1, segment, window))


def target(boundaries, shares, draw):
    inside = np.clip(draw - boundaries[:-1], 0, np.diff(boundaries))
    return inside @ shares


def random_schedule(seed):
    rng = np.random.default_rng(seed)
    n_groups, n_segments = int(rng.choice([1, 2, 3, 16, 100, 400])), int(rng.choice([1, 2, 7, 60]))
    sizes = np.maximum(1, rng.lognormal(9, 2.5, n_groups).astype(np.int64))
    taus = np.sort(rng.uniform(0.5, 8, n_segments))[::-1]
    shares = np.array([temperature_shares(sizes, tau) for tau in taus])
    return np.append(0, np.cumsum(rng.integers(1, 20_000, n_segments))), shares


@pytest.mark.parametrize("seed", range(100))
def test_counts__stay_close_to_the_target(seed):
    boundaries, shares = random_schedule(seed)
    mixture = Mixture.from_shares(boundaries, shares)
    rng = np.random.default_rng(seed)
    draws = np.unique(np.concatenate([boundaries, rng.integers(0, boundaries[-1], 20)]))
    before = np.zeros(shares.shape[1], dtype=np.int64)
    for draw in draws.tolist():
        counts = mixture.counts(draw)
        assert counts.sum() == draw
        assert (counts >= before).all()
        assert np.abs(counts - target(boundaries, shares, draw)).max() < 1.5
        before = counts


@pytest.mark.parametrize("seed", range(5))
def test_window__holds_the_counts_and_numbers_each_group_in_order(seed):
    boundaries, shares = random_schedule(seed)
    mixture = Mixture.from_shares(boundaries, shares)
    for draw in (0, int(boundaries[-1]) // 2, int(boundaries[-1]) - 1):
        start, groups, cursors = mixture.window(draw, shuffle)
        assert start <= draw < start + len(groups)
        before = mixture.counts(start)
        gained = mixture.counts(start + len(groups)) - before
        assert np.array_equal(np.bincount(groups, minlength=shares.shape[1]), gained)
        for g in np.flatnonzero(gained)[:10]:
            assert np.array_equal(cursors[groups == g], before[g] + np.arange(gained[g]))


def test_window__does_not_depend_on_the_draw_that_asks():
    mixture = Mixture.from_shares(np.array([0, 3000]), np.array([[0.7, 0.3]]))
    asked = [mixture.window(draw, shuffle) for draw in (0, 5, WINDOW - 1)]
    assert all(np.array_equal(asked[0][1], groups) for _, groups, _ in asked)
    assert mixture.window(WINDOW, shuffle)[0] == WINDOW


def test_window__shuffles_within_itself():
    """Half and half would alternate without the shuffle."""
    mixture = Mixture.from_shares(np.array([0, WINDOW]), np.array([[0.5, 0.5]]))
    _, groups, _ = mixture.window(0, shuffle)
    changes = (groups[1:] != groups[:-1]).mean()
    assert changes == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(WINDOW))


@pytest.mark.parametrize("shares", [[0.0, 1.0], [1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0, 0.0]])
def test_counts__a_share_of_zero_gets_nothing(shares):
    mixture = Mixture.from_shares(np.array([0, 10**15]), np.array([shares]))
    for draw in (1, 2, 3, 1000, 10**15):
        assert (mixture.counts(draw)[np.array(shares) == 0] == 0).all()


def test_counts__a_share_may_become_zero_or_positive():
    shares = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.25, 0.75, 0.0]])
    mixture = Mixture.from_shares(np.array([0, 101, 202, 302]), shares)
    assert mixture.counts(101).tolist() == [101, 0, 0]
    assert mixture.counts(202)[0] == 101
    assert mixture.counts(302)[2] == mixture.counts(202)[2]
    assert abs(mixture.counts(302)[0] - 126) <= 1


@pytest.mark.parametrize("t", [1, 2**31 + 7, 2**53 + 1, 10**18 + 9])
def test_counts__long_multiplication_is_exact(t):
    part = 0.3
    mixture = Mixture.from_shares(np.array([0, 2**61]), np.array([[1 - part, part]]))
    split = int(mixture._split[0, 0])  # the larger group is the left child
    assert mixture.counts(t)[0] == (t * split + (1 << 62)) >> 63


def test_memory__is_groups_times_segments():
    mixture = Mixture.from_shares(np.array([0, 10**15, 2 * 10**15]), np.full((2, 1000), 1e-3))
    assert mixture.nbytes < 120_000
