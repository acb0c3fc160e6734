import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from curation.methods.split import Split, split_port

SHARES = [0.7, 0.2, 0.1]


def chi_square_p(ports, shares):
    counts = np.bincount(ports, minlength=len(shares))
    return stats.chisquare(counts, np.array(shares) * len(ports)).pvalue


def test_split__ports_are_the_parts():
    assert Split(shares={"train": 0.9, "held_out": 0.1}).ports() == ("train", "held_out")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 0.5, "b": 0.4}, "sum to 1, got a sum of 0.9"),
        ({"a": 1.5, "b": -0.5}, "shares > 0 and <= 1, got a: 1.5"),
        ({"a.b": 1.0}, "expected names of letters, digits, '_' and '-', got 'a.b'"),
        ({}, "at least 1 item"),
    ],
)
def test_split__refuses_bad_shares(shares, message):
    with pytest.raises(ValidationError, match=message):
        Split(shares=shares)


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=8),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=30),
)
def test_split_port__parity_with_the_definition(weights, u):
    shares = [w / sum(weights) for w in weights]
    expected = []
    for value in u:
        inside = [j for j in range(len(shares)) if value < np.longdouble(0) + sum(shares[: j + 1])]
        expected.append(inside[0] if inside else len(shares) - 1)
    found = split_port(np.array(u, dtype=np.float64), shares)
    edges = np.cumsum(shares)
    safe = [i for i, value in enumerate(u) if np.abs(edges - value).min() > 1e-12]
    assert [found[i] for i in safe] == [expected[i] for i in safe]
    assert ((found >= 0) & (found < len(shares))).all()


def test_split_port__bounds_belong_to_the_next_part():
    assert split_port(np.array([0.0, 0.5, np.nextafter(1, 0)]), [0.5, 0.5]).tolist() == [0, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_split_port__follows_the_shares(seed):
    u = np.random.default_rng(seed).random(100_000)
    assert chi_square_p(split_port(u, SHARES), SHARES) > 1e-4


def test_split_port__the_test_has_power():
    u = np.random.default_rng(0).random(100_000)
    assert chi_square_p(split_port(u, [0.69, 0.21, 0.1]), SHARES) < 1e-4


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([], "at least one share"),
        ([0.0, 1.0], r"shares\[0\]: expected > 0"),
        ([0.5, 0.4], "sum of 1, got 0.9"),
    ],
)
def test_split_port__refuses_bad_shares(shares, message):
    with pytest.raises(ValueError, match=message):
        split_port(np.array([0.5]), shares)
