"""Shares by temperature: the formula, its limits and the figures of the card."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.temperature import Temperature, temperature_shares

sizes = st.lists(st.integers(1, 10**12), min_size=1, max_size=30).map(np.array)
taus = st.floats(0.05, 1e6) | st.just(np.inf)

OPUS = np.array([1_000_000, 1_000_000, 1_000_000, 294_000, 519_000, 102_000, 538_000, 83_000, 76_000])
TRILLIONS = np.array([2733, 162, 39, 1])


def second_moment(n_rows, tau):
    """F(tau) = sum of p(tau)**2 / p(1): how much upweighting multiplies the gradient's second moment."""
    return (temperature_shares(n_rows, tau) ** 2 / temperature_shares(n_rows, 1.0)).sum()


@given(sizes, taus)
def test_shares__sum_to_one_and_keep_the_order_of_sizes(n_rows, tau):
    p = temperature_shares(n_rows, tau)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert (np.diff(p[np.argsort(n_rows, kind="stable")]) >= -1e-15).all()


@given(sizes, taus)
def test_shares__do_not_depend_on_the_unit_of_size(n_rows, tau):
    np.testing.assert_allclose(
        temperature_shares(n_rows, tau), temperature_shares(n_rows * 7, tau), rtol=1e-9, atol=1e-300
    )


@given(sizes)
def test_shares__weights_have_mean_one(n_rows):
    p1, p5 = temperature_shares(n_rows, 1.0), temperature_shares(n_rows, 5.0)
    assert (p1 * (p5 / p1)).sum() == pytest.approx(1.0)


def test_shares__parity_with_direct_formula():
    n = np.array([1_000_000, 10_000, 100])
    np.testing.assert_allclose(temperature_shares(n, 5.0), n**0.2 / (n**0.2).sum(), rtol=1e-12)


def test_shares__limits():
    n = np.array([900, 100])
    np.testing.assert_allclose(temperature_shares(n, 1.0), [0.9, 0.1], rtol=1e-14)
    assert temperature_shares(n, np.inf).tolist() == [0.5, 0.5]
    np.testing.assert_allclose(temperature_shares(n, 0.5), [0.81 / 0.82, 0.01 / 0.82], rtol=1e-13)
    assert temperature_shares(n, 1e-3).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("n_rows", "tau", "expected"),
    [
        (OPUS, 1.0, [0.21683, 0.06375, 0.11253, 0.02212, 0.11665, 0.01800, 0.01648]),
        (OPUS, 5.0, [0.13547, 0.10605, 0.11881, 0.08581, 0.11967, 0.08235, 0.08091]),
    ],
)
def test_shares__golden_translation_corpora(n_rows, tau, expected):
    assert temperature_shares(n_rows, tau)[2:].round(5).tolist() == expected


@pytest.mark.parametrize(
    ("n_rows", "tau", "expected"),
    [
        (TRILLIONS, 3.33, [0.55554, 0.23780, 0.15506, 0.05160]),
        (TRILLIONS, 5.0, [0.45430, 0.25818, 0.19419, 0.09333]),
        (np.array([56_000_000, 600_000]), 5.0, [0.71243, 0.28757]),
    ],
)
def test_shares__golden_web_corpora(n_rows, tau, expected):
    assert temperature_shares(n_rows, tau).round(5).tolist() == expected


@pytest.mark.parametrize(
    ("n_rows", "tau", "expected"),
    [
        (OPUS, 2.0, 1.20084),
        (OPUS, 5.0, 1.78555),
        (OPUS, 100.0, 2.52454),
        (np.array([56_000_000, 600_000]), 5.0, 8.3138),
        (np.array([56_000_000, 600_000]), 3.0, 3.7565),
        (np.array([56_000_000, 600_000]), 2.0, 1.6600),
        (np.array([40_000_000, 600_000]), 5.0, 6.6481),
        (TRILLIONS, 3.33, 10.98),
        (TRILLIONS, 5.0, 29.83),
        (TRILLIONS, 100.0, 174.5),
    ],
)
def test_shares__golden_second_moments(n_rows, tau, expected):
    digits = len(str(expected).split(".")[1])
    assert second_moment(n_rows, tau) == pytest.approx(expected, abs=0.51 * 10**-digits)


@pytest.mark.parametrize(
    ("a", "expected"),
    [(0, [1, 1, 1, 1]), (1, [1.1618, 1.2844, 1.4033, 1.5998]), (2, [1.8065, 2.7398, 3.8219, 5.8465])],
)
def test_shares__golden_power_law_groups(a, expected):
    n = np.round(1e15 * np.arange(1, 11, dtype=np.float64) ** -a).astype(np.int64)
    assert [round(second_moment(n, tau), 4) for tau in (2.0, 3.0, 5.0, 100.0)] == expected


@pytest.mark.parametrize(
    ("tau", "mean", "var_s", "var_ts"), [(2.0, 8.75, 193.2292, 47.1875), (5.0, 10.878099, 508.9376, 57.6736)]
)
def test_shares__golden_toy_gradients(tau, mean, var_s, var_ts):
    n, values = np.array([9, 1]), [np.arange(1, 10), np.array([20])]
    p, w = temperature_shares(n, tau), temperature_shares(n, tau) / temperature_shares(n, 1.0)
    first = sum(p[g] * values[g].mean() for g in range(2))
    drawn = sum(p[g] * (values[g] ** 2).mean() for g in range(2)) - first**2
    weighted = sum(n[g] / 10 * w[g] ** 2 * (values[g] ** 2).mean() for g in range(2)) - first**2
    assert first == pytest.approx(mean, abs=1e-6)
    assert weighted == pytest.approx(var_s, abs=1e-4)
    assert drawn == pytest.approx(var_ts, abs=1e-4)


@pytest.mark.parametrize(
    ("n_rows", "tau", "message"),
    [
        ([], 1.0, "n_rows: expected at least one group"),
        ([5, 0], 1.0, r"n_rows\[1\]: expected > 0, got 0"),
        ([5], 0.0, "tau: expected > 0, got 0.0"),
        ([5], np.nan, "tau: expected > 0, got nan"),
    ],
)
def test_shares__refuse(n_rows, tau, message):
    with pytest.raises(ValueError, match=message):
        temperature_shares(np.array(n_rows, dtype=np.int64), tau)


def test_shares__leave_their_input_alone():
    n = OPUS.copy()
    temperature_shares(n, 5.0)
    assert np.array_equal(n, OPUS)


@pytest.mark.parametrize("tau", [0, -1.0, float("nan"), "5"])
def test_temperature__refuses_a_bad_tau(tau):
    with pytest.raises(ValidationError, match="tau"):
        Temperature(tau=tau)


def test_temperature__shape_and_default():
    assert Temperature.shape == "plan"
    assert Temperature().tau == 1.0
    assert Temperature(tau=float("inf")).tau == np.inf
