"""Unmixed batches: one group each, the same on all ranks, near their shares at every step, and any step at once."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import RecipeError
from curation.feed import FeedError
from curation.feed.mixture import Mixture
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature
from tests.feed.plans import make

KINDS: dict[str, dict[str, Any]] = {
    "proportional": {},
    "temperature": {"mixture": Temperature(tau=5.0)},
    "cooldown": {"mixture": Cooldown(at=0.3), "epochs": 5},
    "sizes": {"group_batch_size": {"en": 48, "sw": 7}},
    "sizes and cooldown": {"mixture": Cooldown(), "group_batch_size": {"en": 48, "sw": 100}, "epochs": 4},
    "subset, drop last": {"subset": RS2(fraction=0.4), "drop_last": True},
    "equal": {"mixture": Temperature(tau=float("inf")), "batch_size": 256},
}
EDGES = [0, 700, 900, 960]


def build(path, kind="proportional", **options):
    return make(path, **({"batches": "unmixed"} | KINDS[kind] | options))


@pytest.fixture(params=KINDS)
def plan(request, tmp_path):
    return build(tmp_path, request.param)


def test_batches__hold_one_group_and_are_full(plan):
    for step in range(plan.n_steps):
        rows = plan.batch(step)
        groups = np.searchsorted(EDGES, rows, side="right") - 1
        assert np.ptp(groups) == 0
        assert plan.group_of(step) == ["en", "fr", "sw"][groups[0]]
        assert len(rows) == plan._steps.sizes[groups[0]]


def test_batches__every_group_is_passed_through_before_it_begins_anew(plan):
    """A group smaller than its batch wraps into its next pass."""
    drawn = plan.draws(0, plan.n_draws)
    for a, b in ((0, 700), (700, 900), (900, 960)):
        own = drawn[(drawn >= a) & (drawn < b)]
        whole = own[: len(own) // (b - a) * (b - a)].reshape(-1, b - a)
        assert (np.sort(whole, axis=1) == np.arange(a, b)).all()
        assert np.unique(own[whole.size :]).size == len(own) - whole.size


def test_batches__steps_tile_epochs_and_the_training(plan):
    steps = np.concatenate([plan.batch(step) for step in range(plan.n_steps)])
    assert np.array_equal(steps, plan.draws(0, plan.n_draws))
    assert np.array_equal(steps, np.concatenate([plan.rows(epoch) for epoch in range(plan.epochs)]))
    assert plan.n_steps == plan.epochs * plan.steps_per_epoch
    a, b = plan.n_draws // 3, plan.n_draws // 2
    assert np.array_equal(plan.draws(a, b), steps[a:b])


@pytest.mark.parametrize("world_size", [2, 5, 64])
def test_batches__ranks_share_the_group(plan, world_size):
    for step in (0, plan.n_steps // 2, plan.n_steps - 1):
        parts = [plan.batch(step, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), plan.batch(step))
        keys = [plan.batch_keys(step, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(keys), plan.batch_keys(step))


def test_batches__keys_differ_over_the_training(plan):
    keys = np.concatenate([plan.batch_keys(step) for step in range(plan.n_steps)])
    assert np.unique(keys).size == plan.n_draws


def test_batches__shares_of_rows_hold(plan):
    """Groups with larger batches have fewer of them."""
    drawn = np.bincount(np.searchsorted(EDGES, plan.draws(0, plan.n_draws), side="right") - 1, minlength=3)
    assert plan.group_draws() == dict(zip(["en", "fr", "sw"], drawn.astype(float), strict=True))
    asked = sum((seg.stop - seg.start) * np.array(list(seg.shares.values())) for seg in plan.segments)
    if np.ptp(plan._steps.sizes) == 0:
        assert np.abs(drawn - asked * plan.batch_size).max() <= plan.bound * plan.batch_size


def test_plan__is_the_same_after_pickling(plan):
    again = pickle.loads(pickle.dumps(plan))
    assert np.array_equal(again.batch(5), plan.batch(5))


# the order of the groups


def targets(mixture):
    inside = np.clip(np.arange(1, mixture.boundaries[-1] + 1)[:, None] - mixture.boundaries[:-1], 0, None)
    return np.minimum(inside, np.diff(mixture.boundaries)) @ mixture.shares


def distance(mixture, groups):
    counts = np.cumsum(groups[:, None] == np.arange(mixture.shares.shape[1]), axis=0)
    return np.abs(counts - targets(mixture)).max()


def natural(mixture):
    parts, at = [], 0
    while at < mixture.boundaries[-1]:
        parts.append(mixture.natural(at, 2048)[0])
        at += len(parts[-1])
    return np.concatenate(parts)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 64), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_order__counts_stay_within_the_bound_at_every_step(n_groups, n_segments, seed):
    shares = np.random.default_rng(seed).gamma(0.5, size=(n_segments, n_groups)) + 1e-9
    shares /= shares.sum(axis=1, keepdims=True)
    mixture = Mixture.from_shares(np.arange(n_segments + 1) * 3000 // n_segments, shares)
    assert distance(mixture, natural(mixture)) <= mixture.bound() + 1e-9
    if n_segments == 1:
        assert mixture.bound() < 2


def test_order__the_test_has_power():
    """Drawing the group of a batch at random, as is often done, leaves the bound."""
    mixture = Mixture.from_shares(np.array([0, 3000]), np.array([[0.5, 0.3, 0.2]]))
    drawn = np.random.default_rng(0).choice(3, 3000, p=[0.5, 0.3, 0.2])
    assert distance(mixture, natural(mixture)) < 1
    assert distance(mixture, drawn) > 10 * mixture.bound()


def test_order__any_step_at_once(tmp_path):
    plan = build(tmp_path, data=[("a", 10**12), ("b", 10**10), ("c", 10**8)], batch_size=256, epochs=10)
    step = plan.n_steps - 3
    assert plan.batch(step).shape == (256,)
    assert plan.group_of(step) in "abc"
    assert plan.nbytes < 1000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=3, max_size=3), st.integers(0, 2**32 - 1))
def test_step_at__is_the_batch_that_holds_the_draw(tmp_path_factory, sizes, seed):
    """Groups of very different batches, whose shares change: the first guess is far off."""
    stated = dict(zip(["en", "fr", "sw"], sizes, strict=True))
    mixture = Cooldown(start=float("inf"), end=0.2)
    plan = build(tmp_path_factory.mktemp("plan"), mixture=mixture, group_batch_size=stated, epochs=9)
    firsts = [plan.first_draw(step) for step in range(plan.n_steps)]
    draws = np.random.default_rng(seed).integers(0, plan.n_draws, 20)
    steps = [plan._steps.step_at(draw) for draw in [0, plan.n_draws - 1, *firsts[:5], *draws.tolist()]]
    expected = np.searchsorted(firsts, [0, plan.n_draws - 1, *firsts[:5], *draws], side="right") - 1
    assert steps == expected.tolist()


# sizes, lengths, refusals


def test_group_batch_size__lengths_are_known(tmp_path):
    """Of 960 rows in proportion: 700 / 70 + 200 / 20 + 60 / 6 batches an epoch."""
    plan = build(tmp_path, group_batch_size={"en": 70, "fr": 20, "sw": 6}, epochs=2)
    assert (plan.steps_per_epoch, plan.n_steps, plan.n_draws) == (30, 60, 1920)
    assert np.bincount(plan.rows(0), minlength=960).tolist() == [1] * 960


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 30), (True, 29)])
def test_drop_last__rounds_the_batches_of_an_epoch(tmp_path, drop_last, steps):
    plan = build(tmp_path, batch_size=33, drop_last=drop_last)
    assert plan.steps_per_epoch == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": None}, r"feed\.batches: expected groups, got none"),
        (
            {"group_batch_size": {"eng": 3}},
            r'group_batch_size: expected groups of the data, got "eng"; did you mean "en"',
        ),
        ({"group_batch_size": {"en": 0}}, r'expected >= 1, got "en": 0'),
        (
            {"batches": "mixed", "group_batch_size": {"en": 3}},
            r"group_batch_size: expected batches: unmixed, got mixed",
        ),
        ({"mixture": Temperature(), "scalarize": True}, r"scalarize: expected false with batches: unmixed"),
        ({"subset": RS2(fraction=0.5, tail="drop")}, r"tail: expected carry with batches: unmixed, got drop"),
        ({"subset": RS2(fraction=0.5, replacement=True)}, r"replacement: expected false with batches: unmixed"),
        ({"batch_size": 1000, "drop_last": True}, r"drop_last: expected epochs of at least one batch, got 0\.96"),
        (
            {"mixture": Cooldown(at=5, unit="steps"), "group_batch_size": {"en": 3}},
            r"cooldown\.unit: expected share or rows with group_batch_size, got steps",
        ),
    ],
)
def test_write__refuses_what_does_not_fit(tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        build(tmp_path, **options)


def test_group_of__refuses_mixed_batches(tmp_path):
    with pytest.raises(FeedError, match="expected batches: unmixed, got mixed"):
        make(tmp_path, mixture=Temperature()).group_of(0)


def test_golden__first_groups_and_rows_never_change(tmp_path):
    """A change here breaks the resumption of trainings: bump ``ALGORITHM``, do not edit the numbers."""
    plan = build(tmp_path, "sizes and cooldown")
    assert [plan.group_of(step) for step in range(12)] == GOLDEN_GROUPS
    assert [plan.batch(step)[:2].tolist() for step in (0, 1, plan.n_steps - 1)] == GOLDEN_ROWS


GOLDEN_GROUPS = ["fr", "en", "fr", "en", "sw", "fr", "en", "fr", "en", "fr", "fr", "en"]
GOLDEN_ROWS = [[815, 889], [157, 153], [293, 164]]
