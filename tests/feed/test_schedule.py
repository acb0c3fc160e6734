"""Mixtures: switches at any places, shares of another unit than rows, and weights in the place of draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from curation.errors import RecipeError
from curation.feed import Shares
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature, temperature_shares
from tests.feed.plans import LANGUAGES, make

ROWS = np.array([700, 200, 60])
TOKENS = np.array([70_000.0, 100_000.0, 600.0])  # 100, 500 and 10 a row


def by_rows(plan):
    drawn = np.histogram(plan.draws(0, plan.n_draws), [0, 700, 900, 960])[0]
    return drawn / drawn.sum()


# switches


def test_steps__any_number_of_switches(tmp_path):
    plan = make(tmp_path, mixture=Cooldown(steps=[[0.0, 5], [0.5, 2], [0.8, 1]]), epochs=10)
    assert [(seg.start, seg.stop) for seg in plan.segments] == [(0, 4800), (4800, 7680), (7680, 9600)]
    for segment, tau in zip(plan.segments, (5, 2, 1), strict=True):
        assert list(segment.shares.values()) == pytest.approx(temperature_shares(ROWS, tau).tolist(), rel=1e-12)


def test_steps__two_are_the_cooldown_with_start_and_end(tmp_path):
    a = make(tmp_path / "a", mixture=Cooldown(steps=[[0, 5], [0.3, 1]]))
    b = make(tmp_path / "b", mixture=Cooldown(start=5.0, end=1.0, at=0.3))
    assert np.array_equal(a.draws(0, a.n_draws), b.draws(0, b.n_draws))


@pytest.mark.parametrize(
    ("mixture", "at"),
    [
        (Cooldown(steps=[[0, 5], [45, 1]], unit="steps"), 960 + 15 * 32),
        (Cooldown(at=45, unit="steps"), 960 + 15 * 32),
        (Cooldown(steps=[[0, 5], [1000, 1]], unit="rows"), 1000),
        (Cooldown(at=1000, unit="rows"), 1000),
        (Cooldown(at=0.25), 720),
    ],
)
def test_unit__says_where_a_switch_stands(tmp_path, mixture, at):
    plan = make(tmp_path, mixture=mixture)
    assert plan.segments[1].start == at


@pytest.mark.parametrize("unit", ["steps", "rows"])
def test_unit__of_unmixed_batches(tmp_path, unit):
    place = 45 if unit == "steps" else 45 * 32
    plan = make(tmp_path, mixture=Cooldown(steps=[[0, 5], [place, 1]], unit=unit), batches="unmixed")
    assert plan.segments[1].start == 45


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            Cooldown(at=90, unit="steps"),
            r"cooldown\.at: expected a place before the end of the training, 90 steps, got 90",
        ),
        (Cooldown(steps=[[0, 5], [2880, 1]], unit="rows"), r"cooldown\.steps: .* 2880 rows, got 2880"),
    ],
)
def test_write__refuses_switches_after_the_end(tmp_path, mixture, message):
    with pytest.raises(RecipeError, match=message):
        make(tmp_path, mixture=mixture)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": [[0.1, 5]]}, r"steps: expected the first at 0, got 0\.1"),
        ({"steps": [[0, 5], [0.5, 2], [0.5, 1]]}, "steps: expected places that ascend, got 0, 0.5, 0.5"),
        ({"steps": [[0, 5], [1.0, 2]]}, "expected shares of the training < 1, got 1; say unit: steps"),
        ({"steps": [[0, 5], [1.5, 2]], "unit": "rows"}, r"expected whole numbers with unit: rows, got 1\.5"),
        ({"steps": [[0, 0]]}, "steps: expected temperatures > 0, got 0"),
        ({"steps": [[0, 5, 3]]}, r"steps: expected \[place, temperature\] each, got \[0.*, 5.*, 3"),
        ({"steps": [[0, 5]], "at": 0.3, "start": 2}, "expected steps alone, got at, start as well"),
        ({"at": 1.0}, "expected shares of the training < 1, got 1"),
    ],
)
def test_cooldown__refuses_places_that_are_none(options, message):
    with pytest.raises(ValidationError, match=message):
        Cooldown(**options)


@pytest.mark.parametrize(
    ("mixture", "notes"),
    [
        (Cooldown(), []),
        (Cooldown(steps=[[0, 5], [0.5, 1]]), []),
        (Cooldown(start=float("inf")), []),
        (Cooldown(schedule="linear"), ["little by little"]),
        (Cooldown(start=1.0, end=float("inf")), ["heats"]),
        (Cooldown(steps=[[0, 5], [0.5, 1], [0.7, float("inf")]]), ["heats"]),
        (Cooldown(schedule="cosine", start=1.0, end=5.0), ["little by little", "heats"]),
    ],
)
def test_notes__advise_against_gradual_and_heating_schedules(tmp_path, mixture, notes):
    found = make(tmp_path, mixture=mixture).notes
    assert len(found) == len(notes)
    assert all(part in text for part, text in zip(notes, found, strict=True))


def test_file__records_switches(tmp_path):
    make(tmp_path, mixture=Cooldown(steps=[[0, float("inf")], [5, 1.0]], unit="steps"))
    body = json.loads((tmp_path / "plan.json").read_text())
    assert body["mixture"] == {"use": "cooldown", "steps": [[0, "inf"], [5, 1.0]], "unit": "steps"}


# sizes


@pytest.mark.parametrize("batches", ["mixed", "unmixed"])
@pytest.mark.parametrize("tau", [1.0, 2.0, 5.0, float("inf")])
def test_size__shares_of_the_unit_follow_the_temperature(tmp_path, tau, batches):
    """The stream holds tokens as asked for: rows drawn times tokens a row."""
    plan = make(tmp_path, mixture=Temperature(tau=tau), size="tokens", sizes=TOKENS, epochs=30, batches=batches)
    wanted = temperature_shares(TOKENS, tau)
    assert list(plan.size_shares(0).values()) == pytest.approx(wanted.tolist(), rel=1e-12)
    tokens = by_rows(plan) * TOKENS / ROWS
    np.testing.assert_allclose(tokens / tokens.sum(), wanted, rtol=0.02)


def test_size__at_temperature_one_rows_are_drawn_in_proportion(tmp_path):
    plan = make(tmp_path, mixture=Temperature(tau=1.0), size="tokens", sizes=TOKENS)
    assert list(plan.shares(0).values()) == pytest.approx((ROWS / 960).tolist(), rel=1e-12)


def test_size__stated_shares_are_of_the_unit(tmp_path):
    shares = Shares("shares", {"en": 0.5, "fr": 0.5, "sw": 0})
    plan = make(tmp_path, mixture=shares, size="tokens", sizes=TOKENS)
    assert plan.size_shares(0) == pytest.approx({"en": 0.5, "fr": 0.5, "sw": 0})
    assert plan.shares(0) == pytest.approx({"en": 5 / 6, "fr": 1 / 6, "sw": 0})


def test_size__of_equal_rows_is_rows(tmp_path):
    plain = make(tmp_path / "a", mixture=Cooldown())
    sized = make(tmp_path / "b", mixture=Cooldown(), size="n", sizes=ROWS * 512.0)
    assert plain.fingerprint != sized.fingerprint
    assert list(sized.shares(0).values()) == pytest.approx(list(plain.shares(0).values()), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "sizes", "message"),
    [
        ({}, TOKENS, r"feed\.size: expected a mixture whose shares it is the unit of, got size tokens alone"),
        ({"mixture": Shares("rows", {"en": 1, "fr": 1, "sw": 1})}, TOKENS, "size: expected none with mixture rows"),
        ({"mixture": Temperature()}, [1, -1, 2], 'expected sizes >= 0, got -1 in group "fr"'),
        ({"mixture": Temperature()}, [1, float("nan"), 2], 'expected sizes >= 0, got nan in group "fr"'),
        ({"mixture": Temperature()}, [0, 0, 0], "expected a sum > 0 of column tokens, got 0"),
        (
            {"mixture": Shares("shares", {"en": 0.5, "fr": 0.5, "sw": 0})},
            [1, 0, 1],
            r'shares\["fr"\]: expected 0 for a group whose feed\.size sums to 0',
        ),
    ],
)
def test_write__refuses_sizes_that_do_not_fit(tmp_path, options, sizes, message):
    with pytest.raises(RecipeError, match=message):
        make(tmp_path, size="tokens", sizes=sizes, **options)


# scalarize


@pytest.mark.parametrize("subset", [None, RS2(fraction=0.3, tail="short"), RS2(fraction=0.3, replacement=True)])
def test_scalarize__draws_are_those_without_a_mixture(tmp_path, subset):
    weighed = make(tmp_path / "a", mixture=Cooldown(), scalarize=True, subset=subset)
    plain = make(tmp_path / "b", subset=subset)
    assert np.array_equal(weighed.draws(0, weighed.n_draws), plain.draws(0, plain.n_draws))


def test_scalarize__weights_are_share_over_share_of_the_data(tmp_path):
    plan = make(tmp_path, mixture=Cooldown(), scalarize=True)
    hot = temperature_shares(ROWS, 5.0) / (ROWS / 960)
    assert list(plan.weights(0).values()) == pytest.approx(hot.tolist(), rel=1e-12)
    assert plan.weights(45) == pytest.approx({"en": 1, "fr": 1, "sw": 1}, rel=1e-12)
    assert (hot * ROWS).sum() == pytest.approx(960)  # their mean over the rows is 1
    groups = np.searchsorted([0, 700, 900], plan.batch(3), side="right") - 1
    assert plan.batch_weights(3).tolist() == pytest.approx(hot[groups].tolist(), rel=1e-12)


def test_scalarize__a_batch_across_the_switch_has_both_weights(tmp_path):
    plan = make(tmp_path, [("a", 900), ("b", 60)], mixture=Cooldown(at=100, unit="rows"), scalarize=True, epochs=1)
    weights = plan.batch_weights(3)  # draws 96 to 127
    assert weights[4:] == pytest.approx(1, rel=1e-12)
    assert (weights[:4] != 1).all()


def test_scalarize__the_weighted_sum_is_that_of_the_mixture(tmp_path):
    """Over whole passes the weighted rows of each group are the draws that the mixture would give it."""
    weighed = make(tmp_path / "a", mixture=Temperature(tau=5.0), scalarize=True, batch_size=960)
    sums = np.bincount(
        np.searchsorted([0, 700, 900], weighed.batch(0), side="right") - 1, weights=weighed.batch_weights(0)
    )
    drawn = make(tmp_path / "b", mixture=Temperature(tau=5.0), batch_size=960)
    assert np.abs(sums - 960 * np.array(list(drawn.shares(0).values()))).max() < 1e-9


def test_ess__golden_numbers_of_the_paper(tmp_path):
    """OPUS-100 subset at 5, 2 and 1: F = 1.78555, 1.20084, 1."""
    sizes = [10**6] * 3 + [294_000, 519_000, 102_000, 538_000, 83_000, 76_000]
    data = [(f"{i}", n) for i, n in enumerate(sizes)]
    plan = make(tmp_path, data, mixture=Cooldown(steps=[[0, 5], [0.25, 2], [0.5, 1]]), scalarize=True, epochs=2)
    factors = [(seg.stop - seg.start) / seg.ess for seg in plan.segments]
    assert factors == pytest.approx([1.78555, 1.20084, 1.0], abs=5e-6)


def test_scalarize__refuses_to_weigh_nothing(tmp_path):
    with pytest.raises(RecipeError, match=r"feed\.scalarize: expected a mixture, got none"):
        make(tmp_path, LANGUAGES, scalarize=True)


def test_repeats__fewest_mean_and_most(tmp_path):
    plan = make(tmp_path, mixture=Temperature(tau=5.0), epochs=7)
    times = np.bincount(plan.draws(0, plan.n_draws), minlength=960)
    for (name, rows), start in zip(LANGUAGES, (0, 700, 900), strict=True):
        own, found = times[start : start + rows], plan.repeats()[name]
        assert (found.least, found.most) == (own.min(), own.max())
        assert found.mean == pytest.approx(own.mean())
