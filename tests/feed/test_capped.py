"""Caps: no group beyond its cap, nothing changed that is below, and what cannot be is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import RecipeError
from curation.feed import Shares
from curation.feed.capped import capped_shares
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature
from tests.feed.plans import make

GROUPS = st.lists(st.integers(1, 10**6), min_size=1, max_size=12)
SEEDS = st.integers(0, 2**32 - 1)


def some_shares(n_segments, n_groups, seed):
    shares = np.random.default_rng(seed).gamma(0.3, size=(n_segments, n_groups)) + 1e-6
    return shares / shares.sum(axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.integers(1, 4), st.floats(1.01, 20), SEEDS)
def test_capped__no_group_above_its_cap_and_every_segment_sums_to_one(rows, n_segments, room, seed):
    draws = np.full(n_segments, 1000)
    caps = np.array(rows) / sum(rows) * draws.sum() * room
    out = capped_shares(some_shares(n_segments, len(rows), seed), draws, caps)
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-12)
    assert (draws @ out <= caps + 1e-9 * draws.sum()).all()
    assert (out >= 0).all()


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.integers(1, 4), st.floats(1.01, 3), SEEDS)
def test_capped__groups_below_their_cap_keep_their_proportions(rows, n_segments, room, seed):
    shares, draws = some_shares(n_segments, len(rows), seed), np.full(n_segments, 1000)
    caps = np.array(rows) / sum(rows) * draws.sum() * room
    out = capped_shares(shares, draws, caps)
    free = draws @ out < caps * (1 - 1e-6)
    factors = out[:, free] / shares[:, free]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-6)


def test_capped__one_segment_by_hand():
    """0.5 of 100 is cut to 10; 0.3 and 0.2 share 90 as 3 to 2, and 54 is cut to 50."""
    out = capped_shares(np.array([[0.5, 0.3, 0.2]]), np.array([100]), np.array([10.0, 50.0, 100.0]))
    np.testing.assert_allclose(out, [[0.1, 0.5, 0.4]], rtol=1e-12)


def test_capped__caps_that_do_not_bite_change_nothing():
    shares = np.array([[0.5, 0.5]])
    assert capped_shares(shares, np.array([100]), np.array([50.0, 50.0])) is shares


def test_capped__refuses_too_little_room():
    with pytest.raises(ValueError, match="expected a sum >= 100 draws in segment 0, got 90"):
        capped_shares(np.array([[0.5, 0.5, 0.0]]), np.array([100]), np.array([40.0, 50.0, 1000.0]))


# in plans

MIXTURES = {
    "equal": Temperature(tau=float("inf")),
    "cooldown": Cooldown(start=100.0, end=5.0),
    "gradual": Cooldown(start=100.0, end=2.0, schedule="linear"),
    "stated": Shares("shares", {"en": 0.1, "fr": 0.1, "sw": 0.8}),
}


@pytest.mark.parametrize(
    ("batches", "repeats"),
    # whole batches do not fill room to the row, so that unmixed ones need a little more than 3
    [("mixed", 3.0), *((kind, repeats) for kind in ("mixed", "unmixed") for repeats in (3.5, 4.0, 7.0))],
)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_max_repeats__no_row_is_drawn_more_often(tmp_path, mixture, batches, repeats):
    plan = make(tmp_path, mixture=MIXTURES[mixture], max_repeats=repeats, batches=batches, batch_size=4)
    times = np.bincount(plan.draws(0, plan.n_draws), minlength=960)
    assert times.max() <= np.ceil(repeats)
    for a, b in ((0, 700), (700, 900), (900, 960)):
        assert times[a:b].sum() <= repeats * (b - a)


def test_max_repeats__says_what_it_bites(tmp_path):
    plan = make(tmp_path, mixture=Temperature(tau=float("inf")), max_repeats=4)
    assert plan.capped == {"fr": (960.0, 800), "sw": (960.0, 240)}
    assert plan.group_draws() == {"en": 1840.0, "fr": 800.0, "sw": 240.0}
    assert plan.notes == [
        'max_repeats 4 bites group "fr": 960 draws asked for, 800 given',
        'max_repeats 4 bites group "sw": 960 draws asked for, 240 given',
    ]
    body = json.loads((tmp_path / "plan.json").read_text())
    assert (body["max_repeats"], body["capped"]) == (4, [['"fr"', 960.0, 800], ['"sw"', 960.0, 240]])


def test_max_repeats__one_that_does_not_bite_moves_no_row(tmp_path):
    free = make(tmp_path / "a", mixture=Temperature(tau=5.0))
    held = make(tmp_path / "b", mixture=Temperature(tau=5.0), max_repeats=100)
    assert held.capped == {}
    assert np.array_equal(held.draws(0, held.n_draws), free.draws(0, free.n_draws))
    assert held.fingerprint != free.fingerprint


def test_max_repeats__refuses_groups_without_room(tmp_path):
    with pytest.raises(RecipeError, match=r"expected room for 2880 draws, got 2600 \(10 times each of 260 rows"):
        make(tmp_path, mixture=Shares("shares", {"en": 0, "fr": 0.5, "sw": 0.5}), max_repeats=10)


@pytest.mark.parametrize("mixture", [None, Temperature(tau=5.0)])
def test_max_repeats__refuses_more_epochs_before_any_data_is_known(tmp_path, mixture):
    with pytest.raises(RecipeError, match=r"max_repeats: expected >= 1\.5, as 3 epochs of 0\.5 of the rows"):
        make(tmp_path, mixture=mixture, max_repeats=1.4, subset=RS2(fraction=0.5))
    make(tmp_path, mixture=mixture, max_repeats=1.5, subset=RS2(fraction=0.5))
