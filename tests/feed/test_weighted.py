"""Rows by weight: counts within 1 of their expectation in every epoch, factors that undo it, and any draw at once."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curation.errors import RecipeError
from curation.feed import FeedError, Plan, Shares
from curation.feed.weighted import bits_of, open_column, write_weights
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature
from tests.feed.plans import make


def build(path, weights, *, parts=3, **options):
    data = options.pop("data", [(None, len(weights))])
    options = {"groups": None, "sample_by": "w"} | options
    return make(path, data, weights=np.array_split(np.asarray(weights, np.float64), parts), **options)


def heavy(n, seed=0):
    return np.random.default_rng(seed).pareto(1.1, n)


@pytest.mark.parametrize("fraction", [1.0, 0.3, 0.01])
def test_epochs__every_row_comes_floor_or_ceil_of_its_expectation(tmp_path, fraction):
    weights = heavy(5000)
    plan = build(tmp_path, weights, subset=RS2(fraction=fraction), epochs=4)
    expected = plan.epoch_draws * weights / weights.sum()
    for epoch in range(plan.epochs):
        times = np.bincount(plan.rows(epoch), minlength=5000)
        assert np.abs(times - expected).max() < 1 + 1e-6


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.floats(0.5, 2.0)), min_size=1, max_size=200),
    st.integers(1, 7),
)
def test_epochs__any_weights_at_all(tmp_path_factory, weights, parts):
    if not 0 < math.fsum(weights) < math.inf:
        return
    plan = build(tmp_path_factory.mktemp("plan"), weights, parts=parts, epochs=1)
    rows = plan.rows(0)
    expected = len(weights) * np.array(weights) / math.fsum(weights)
    assert np.abs(np.bincount(rows, minlength=len(weights)) - expected).max() < 1 + 1e-6
    assert (np.array(weights)[rows] > 0).all()


def test_weights__are_one_over_n_p(tmp_path):
    weights = heavy(1000) + 0.01
    plan = build(tmp_path, weights, batch_size=1000, epochs=1)
    p = weights / weights.sum()
    np.testing.assert_allclose(plan.batch_weights(0), 1 / (1000 * p[plan.batch(0)]), rtol=1e-7)


def estimates(plan, values, weighted):
    out = []
    for epoch in range(plan.epochs):
        weights = plan.batch_weights(epoch) if weighted else 1.0
        out.append((values[plan.batch(epoch)] * weights).mean())
    return stats.ttest_1samp(out, values.mean()).pvalue


def test_weights__make_the_mean_of_a_batch_unbiased(tmp_path):
    """The mean of 400 epochs, p > 1e-4; without the factor it is far off, and the same test sees it."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=2000)
    weights = np.exp(0.3 * values + rng.normal(size=2000))
    plan = build(tmp_path, weights, subset=RS2(fraction=0.05), batch_size=100, epochs=400)
    assert estimates(plan, values, weighted=True) > 1e-4
    assert estimates(plan, values, weighted=False) < 1e-4


def inclusion_p(counts, expected, trials):
    """Probability of counts as far from their expectation, each row being in or out of an epoch."""
    z = (counts - trials * expected) / np.sqrt(trials * expected * (1 - expected))
    return stats.chi2.sf((z**2).sum(), len(z))


def test_epochs__are_random_in_which_rows_they_round_up(tmp_path):
    """Over 3000 epochs each row comes in proportion; rows of one epoch exclude each other, so that chi² runs low."""
    weights = np.random.default_rng(3).uniform(1, 2, 60)
    plan = build(tmp_path, weights, subset=RS2(fraction=0.2), epochs=3000)
    expected = 12 * weights / weights.sum()
    counts = np.bincount(plan.draws(0, plan.n_draws), minlength=60)
    assert inclusion_p(counts, expected, 3000) > 1e-4
    assert inclusion_p(counts, 12 * weights**1.3 / (weights**1.3).sum(), 3000) < 1e-4


def test_epochs__are_shuffled(tmp_path):
    plan = build(tmp_path, np.ones(3000), epochs=2)
    first, second = plan.rows(0), plan.rows(1)
    assert np.array_equal(np.sort(first), np.arange(3000))  # equal weights: a permutation
    for rows in (first, second):
        assert abs(stats.spearmanr(rows, np.arange(3000)).statistic) < 4 / np.sqrt(3000)
    assert (first == second).mean() < 0.01


def test_plan__slices_ranks_and_copies_agree(tmp_path):
    plan = build(tmp_path, heavy(500), batch_size=64)
    whole = np.concatenate([plan.rows(epoch) for epoch in range(3)])
    assert np.array_equal(np.concatenate([plan.batch(step) for step in range(plan.n_steps)]), whole)
    assert np.array_equal(plan.draws(77, 1100), whole[77:1100])
    assert np.array_equal(pickle.loads(pickle.dumps(plan)).batch(5, 1, 3), plan.batch(5, 1, 3))
    parts = [plan.batch_weights(5, rank, 3) for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), plan.batch_weights(5))


def test_plan__does_not_depend_on_how_rows_are_cut_into_parts(tmp_path):
    weights = heavy(1000)
    plans = [build(tmp_path / str(parts), weights, parts=parts) for parts in (1, 2, 17)]
    assert len({plan.fingerprint for plan in plans}) == 1
    assert np.array_equal(plans[0].rows(1), plans[2].rows(1))


def test_shares__are_those_of_the_weights(tmp_path):
    weights = np.concatenate([np.full(700, 1.0), np.full(200, 3.0), np.zeros(60)])
    plan = build(tmp_path, weights, data=[("en", 700), ("fr", 200), ("sw", 60)], groups="language")
    assert plan.shares(0) == pytest.approx({"en": 7 / 13, "fr": 6 / 13, "sw": 0}, rel=1e-8)
    assert plan.repeats()["fr"].mean == pytest.approx(3 * 960 * 6 / 13 / 200, rel=1e-8)
    assert plan.repeats()["fr"].most is None


def test_memory__a_plan_keeps_nothing_per_row(tmp_path):
    plan = build(tmp_path, np.ones(100_000))
    assert plan.nbytes < 1000
    assert 8 * 100_000 < (tmp_path / "plan-weights.arrow").stat().st_size < 8 * 100_000 + 1000
    assert (tmp_path / "plan-buckets.arrow").stat().st_size < 2.1 * 100_000 + 1000


def test_file__the_sums_end_at_the_draws_of_an_epoch(tmp_path):
    names = {"weights": "w.arrow", "buckets": "b.arrow"}
    write_weights(tmp_path, names, [np.array([1.0, 0.0, 2.0, 0.0])], 3)
    ends = open_column(tmp_path / "w.arrow")
    assert ends.tolist() == [1 << bits_of(3), 1 << bits_of(3), 3 << bits_of(3), 3 << bits_of(3)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.arrow", "w.arrow"]


def test_open__refuses_tables_of_another_plan(tmp_path):
    build(tmp_path / "a", heavy(100))
    build(tmp_path / "b", heavy(99))
    weights = tmp_path / "a" / "plan-weights.arrow"
    weights.write_bytes((tmp_path / "b" / "plan-weights.arrow").read_bytes())
    with pytest.raises(FeedError, match=r"expected the table that plan\.json names, got another"):
        Plan.open(tmp_path / "a")
    weights.write_bytes(b"no table")
    with pytest.raises(FeedError, match="expected a table of the plan, got"):
        Plan.open(tmp_path / "a")


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([0.0, 0.0], {}, r"sample_by: expected a finite sum > 0 of column w, but weights: .* got 0"),
        ([1e308, 1e308], {}, r"sample_by: expected a finite sum > 0 of column w"),
        ([1.0], {"groups": "g", "mixture": Temperature()}, r"sample_by: expected none with mixture, got w; both say"),
        ([1.0], {"groups": "g", "mixture": Shares("rows", {None: 1})}, "sample_by: expected none with mixture"),
        ([1.0], {"groups": "g", "batches": "unmixed"}, "sample_by: expected none with batches: unmixed"),
        ([1.0], {"groups": "g", "subset": RS2(fraction=1, stratify=True)}, "expected none with subset.stratify"),
        ([1.0], {"subset": RS2(fraction=1, tail="drop")}, r"subset\.tail: expected none with sample_by, got drop"),
        ([1.0], {"subset": RS2(fraction=1, replacement=True)}, r"subset\.replacement: expected none with sample_by"),
        ([1.0], {"max_repeats": 9.0}, r"max_repeats: expected none with sample_by, got 9"),
    ],
)
def test_write__refuses_what_does_not_fit(tmp_path, weights, options, message):
    with pytest.raises(RecipeError, match=message):
        build(tmp_path, weights, **options)


def test_golden__first_rows_never_change(tmp_path):
    """A change here breaks the resumption of trainings: bump ``ALGORITHM``, do not edit the numbers."""
    plan = build(tmp_path, np.arange(100_000) % 97, epochs=2)
    assert [*plan.batch(0)[:4].tolist(), *plan.rows(1, 70_000, 70_003).tolist()] == GOLDEN
    with pa.ipc.open_file(tmp_path / "plan-weights.arrow") as reader:
        assert reader.read_all()["end"][1].as_py() == GOLDEN_END


GOLDEN = [39911, 49921, 20615, 75553, 74882, 5754, 12899]
GOLDEN_END = 91631982330
