"""Stratified RS2: every epoch has the same number of rows of each group, and each group cycles for itself."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import RecipeError
from curation.feed import Shares
from curation.methods.rs2 import RS2, stratum_sizes, subset_size
from curation.methods.temperature import Temperature
from tests.feed.plans import LANGUAGES, make

EDGES = [0, 700, 900, 960]


def build(path, fraction=0.1, *, tail="carry", replacement=False, stratify=True, **options):
    subset = RS2(fraction=fraction, tail=tail, replacement=replacement, stratify=stratify)
    return make(path, **({"subset": subset, "epochs": 12} | options))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any), st.floats(1e-6, 1.0))
def test_sizes__sum_to_the_subset_and_stay_within_one(rows, fraction):
    sizes = stratum_sizes(np.array(rows), fraction)
    assert sizes.sum() == subset_size(sum(rows), fraction)
    exact = [Fraction(repr(fraction)) * n for n in rows]
    assert all(abs(size - part) < 1 or sizes.sum() == 1 for size, part in zip(sizes.tolist(), exact, strict=True))
    assert (sizes <= np.array(rows)).all()


def test_sizes__largest_remainders_go_up():
    assert stratum_sizes(np.array([14, 14, 12]), 0.25).tolist() == [4, 3, 3]
    assert stratum_sizes(np.array([3, 3, 6]), 0.5).tolist() == [2, 1, 3]


@pytest.mark.parametrize("options", [{}, {"tail": "drop"}, {"replacement": True}, {"stratify": "language"}])
@pytest.mark.parametrize("fraction", [0.1, 0.17, 0.6, 1.0])
def test_epochs__have_the_same_rows_of_each_group(tmp_path, fraction, options):
    plan = build(tmp_path, fraction, **options)
    sizes = stratum_sizes(np.array([700, 200, 60]), fraction)
    for epoch in range(plan.epochs):
        rows = plan.rows(epoch)
        assert np.unique(rows).size == plan.epoch_draws
        assert np.histogram(rows, EDGES)[0].tolist() == sizes.tolist()
        assert np.array_equal(plan.rows(epoch, 5, 31), rows[5:31])


@pytest.mark.parametrize("fraction", [0.1, 0.17, 0.61])
def test_epochs__no_row_of_a_group_twice_before_every_row_once(tmp_path, fraction):
    plan = build(tmp_path, fraction, epochs=40)
    times = np.zeros(960, dtype=np.int64)
    for epoch in range(plan.epochs):
        times += np.bincount(plan.rows(epoch), minlength=960)
        assert all(np.ptp(times[a:b]) <= 1 for a, b in ((0, 700), (700, 900), (900, 960)))


def test_epochs__plain_rs2_varies_from_epoch_to_epoch(tmp_path):
    """What stratifying is for: without it the smallest group has a different number of rows in each epoch."""
    plain = make(tmp_path / "a", subset=RS2(fraction=0.1), epochs=12)
    strata = build(tmp_path / "b")
    counts = [[(plan.rows(epoch) >= 900).sum() for epoch in range(12)] for plan in (plain, strata)]
    assert len(set(counts[0])) > 1
    assert set(counts[1]) == {6}


def test_epochs__groups_are_mixed_within(tmp_path):
    """Runs of one group would be long in an order by group."""
    groups = np.searchsorted(EDGES, build(tmp_path, 1.0).rows(0), side="right")
    share = np.array([700, 200, 60]) / 960
    changes = (groups[1:] != groups[:-1]).mean()
    assert changes == pytest.approx(1 - (share**2).sum(), abs=4 * 0.5 / np.sqrt(960))


def test_batches__tile_the_training(tmp_path):
    plan = build(tmp_path, 0.3, drop_last=True)
    steps = [plan.batch(step) for step in range(plan.n_steps)]
    assert plan.steps_per_epoch == 9
    assert np.array_equal(np.concatenate(steps[:9]), plan.rows(0, 0, 288))


def test_scalarize__composes(tmp_path):
    """Draws are those of the strata; only weights come on top."""
    subset = RS2(fraction=0.1, stratify=True)
    weighed = make(tmp_path / "a", subset=subset, mixture=Temperature(tau=5.0), scalarize=True)
    assert np.array_equal(weighed.draws(0, 288), make(tmp_path / "b", subset=subset).draws(0, 288))
    assert weighed.batch_weights(0).max() > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": None}, r"subset\.stratify: expected groups, got none"),
        ({"stratify": "lang"}, r"stratify: expected the column of feed\.groups, language, got lang"),
        ({"tail": "short"}, "tail: expected carry or drop with stratify, got short; the groups end"),
        (
            {"mixture": Shares("shares", dict.fromkeys(dict(LANGUAGES), 1 / 3))},
            "expected none with a mixture, got True",
        ),
        ({"batches": "unmixed"}, "expected none with batches: unmixed, got True"),
        ({"fraction": 0.005}, r'expected at least 1 row of every group in an epoch, got none of "sw" \(60 rows\)'),
    ],
)
def test_write__refuses_what_does_not_fit(tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        build(tmp_path, **options)


def test_golden__first_rows_never_change(tmp_path):
    """A change here breaks the resumption of trainings: bump ``ALGORITHM``, do not edit the numbers."""
    plan = build(tmp_path, 0.17)
    assert [*plan.batch(0)[:4].tolist(), *plan.rows(7, 60, 64).tolist()] == GOLDEN


GOLDEN = [303, 247, 39, 867, 668, 669, 643, 477]
