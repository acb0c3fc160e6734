"""Cooldown: temperatures over the training, cut into stretches of constant shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.cooldown import MAX_SEGMENTS, Cooldown, cooldown_segments, cooldown_temperature
from curation.methods.temperature import temperature_shares

SCHEDULES = ["step", "linear", "cosine", "exponential"]
OPUS = np.array([1_000_000, 1_000_000, 1_000_000, 294_000, 519_000, 102_000, 538_000, 83_000, 76_000])


def at(progress, schedule, start=5.0, end=1.0, switch=0.5):
    return cooldown_temperature(np.array(progress), start=start, end=end, at=switch, schedule=schedule).tolist()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_temperature__begins_at_start_and_is_end_from_at_on(schedule):
    first, *rest = at([0.0, 0.5, 0.7, 1.0], schedule)
    assert first == pytest.approx(5.0, rel=1e-12)
    assert rest == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("step", 5.0), ("linear", 3.0), ("cosine", 3.0), ("exponential", 5.0**0.5)],
)
def test_temperature__half_way_down(schedule, expected):
    assert at([0.25], schedule) == pytest.approx([expected], rel=1e-12)


@given(
    st.sampled_from(SCHEDULES),
    st.floats(0.1, 100),
    st.floats(0.1, 100),
    st.floats(0.01, 0.99),
    st.lists(st.floats(0, 1), min_size=2, max_size=50).map(sorted),
)
def test_temperature__is_monotone_and_stays_between(schedule, start, end, switch, progress):
    tau = np.array(at(progress, schedule, start, end, switch))
    assert min(start, end) <= tau.min()
    assert tau.max() <= max(start, end)
    assert (np.diff(tau) * np.sign(end - start) >= -1e-12 * max(start, end)).all()


def test_segments__step_has_two():
    boundaries, tau = cooldown_segments(60_000, start=5, end=1, at=0.5, schedule="step")
    assert boundaries.tolist() == [0, 30_000, 60_000]
    assert tau.tolist() == [5.0, 1.0]


@given(st.sampled_from(SCHEDULES), st.integers(2, 10**15), st.floats(0.001, 0.999), st.integers(2, MAX_SEGMENTS))
def test_segments__cover_the_training_in_few_stretches(schedule, n_draws, switch, most):
    boundaries, tau = cooldown_segments(n_draws, start=5, end=1, at=switch, schedule=schedule, max_segments=most)
    assert boundaries[0] == 0
    assert boundaries[-1] == n_draws
    assert (np.diff(boundaries) > 0).all()
    assert len(tau) == len(boundaries) - 1 <= most
    assert tau[-1] == 1.0
    assert abs(int(boundaries[-2]) - switch * n_draws) <= 1 + 1e-9 * n_draws


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_segments__follow_the_schedule(schedule):
    boundaries, tau = cooldown_segments(1_000_000, start=5, end=1, at=0.5, schedule=schedule)
    middle = (boundaries[:-1] + boundaries[1:]) / 2e6
    np.testing.assert_allclose(tau, at(middle, schedule), rtol=1e-12)


def test_segments__golden_mean_shares_and_exposure_of_the_paper():
    boundaries, tau = cooldown_segments(60_000, start=5, end=1, at=0.5, schedule="step")
    shares = np.array([temperature_shares(OPUS, t) for t in tau])
    mean = np.diff(boundaries) @ shares / 60_000
    assert mean[[0, 3, 5, 7, 8]].round(5).tolist() == [0.17615, 0.08490, 0.05396, 0.05017, 0.04869]
    exposure = mean / temperature_shares(OPUS, 1.0)
    assert exposure[[0, 3, 5, 7, 8]].round(3).tolist() == [0.812, 1.332, 2.440, 2.788, 2.955]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": 0.0}, "start: expected > 0, got 0.0"),
        ({"end": np.nan}, "end: expected > 0, got nan"),
        ({"start": np.inf, "schedule": "linear"}, "start: expected a finite temperature with linear"),
        ({"at": 1.0}, "at: expected 0 < at < 1, got 1.0"),
        ({"n_draws": 1}, "n_draws: expected >= 2, got 1"),
        ({"max_segments": 1}, "max_segments: expected >= 2, got 1"),
    ],
)
def test_segments__refuse(changed, message):
    options = {"n_draws": 100, "start": 5.0, "end": 1.0, "at": 0.5, "schedule": "step"} | changed
    with pytest.raises(ValueError, match=message):
        cooldown_segments(options.pop("n_draws"), **options)


def test_cooldown__reads_shape_as_the_recipe_spells_it():
    assert Cooldown.model_validate({"start": 4.0, "end": 2, "at": 0.3, "shape": "cosine"}).schedule == "cosine"
    assert Cooldown.shape == "plan"
    assert Cooldown() == Cooldown(start=5.0, end=1.0, at=0.5, schedule="step")


@pytest.mark.parametrize(
    "bad", [{"start": 0.0}, {"end": -1.0}, {"at": 0.0}, {"at": 1.0}, {"shape": "root"}, {"begin": 3.0}]
)
def test_cooldown__refuses(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Cooldown.model_validate(bad)


def test_cooldown__an_infinite_start_needs_a_step():
    assert Cooldown(start=float("inf")).start == np.inf
    with pytest.raises(ValidationError, match="expected finite temperatures with shape linear"):
        Cooldown(start=float("inf"), schedule="linear")
