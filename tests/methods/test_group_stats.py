"""Moments and sketches: right in one piece, and the same from any number of pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.group_stats import (
    GroupStats,
    bucket_middle,
    bucket_of,
    group_moments,
    merged_moments,
    merged_sketches,
    quantile_name,
    renumbered,
    sketch,
    sketch_quantiles,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
RNG = np.random.default_rng
SHAPES = {
    "normal": RNG(0).normal(size=5000),
    "wide": RNG(1).lognormal(sigma=8, size=5000),
    "mixed": np.concatenate([-RNG(2).lognormal(size=999), np.zeros(500), RNG(3).integers(0, 9, 2001)]),
    "infinite": np.array([-np.inf, -1.0, 0.0, 2.0, np.inf]),
    "one": np.array([3.25]),
}


@pytest.mark.parametrize(("q", "name"), [(0.05, "q05"), (0.5, "q50"), (1.0, "q100"), (0.0, "q00"), (0.999, "q99_9")])
def test_quantile_name__is_the_percent(q, name):
    assert quantile_name(q) == name


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quantiles": [1.5]}, "expected quantiles >= 0 and <= 1, got 1.5"),
        ({"quantiles": [0.5, 0.5]}, "quantile q50 is given twice"),
        ({"columns": ["a", "a"]}, "column 'a' is named twice"),
    ],
)
def test_group_stats__refuses_options_that_do_not_fit(options, text):
    with pytest.raises(ValidationError, match=text):
        GroupStats(**options)


@given(st.lists(FINITE, max_size=20))
def test_buckets__are_in_the_order_of_the_numbers(values):
    ordered = np.sort(np.array(values, np.float64))
    assert (np.diff(bucket_of(ordered)) >= 0).all()


@given(st.floats(min_value=2.0**-1022, max_value=1.7e308), st.sampled_from([1, -1]))
def test_bucket_middle__is_within_two_to_the_minus_eight(value, sign):
    middle = bucket_middle(bucket_of(np.array([value * sign])))[0]
    assert abs(middle - value * sign) <= 2.0**-8 * value


def test_bucket_middle__of_zero_and_infinity_is_exact():
    assert bucket_middle(bucket_of(np.array([0.0, -0.0, np.inf, -np.inf]))).tolist() == [0.0, 0.0, np.inf, -np.inf]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.75, 0.999, 1.0])
def test_quantiles__agree_with_numpy(name, q):
    values = SHAPES[name]
    keys, counts = sketch(values, np.zeros(len(values), np.int64))
    found = sketch_quantiles(keys, counts, np.array([len(values)]), q)
    expected = np.sort(values)[int(np.floor(q * (len(values) - 1)))]  # numpy's "lower", also beside infinity
    np.testing.assert_allclose(found, [expected], rtol=2.0**-8)


@given(st.lists(st.tuples(st.integers(0, 3), FINITE), max_size=40), st.integers(0, 40))
def test_sketches__of_two_parts_are_that_of_the_whole(rows, cut):
    pair = np.array([p for p, _ in rows], np.int64)
    values = np.array([v for _, v in rows], np.float64)
    parts = merged_sketches(sketch(values[:cut], pair[:cut]), sketch(values[cut:], pair[cut:]))
    for found, expected in zip(parts, sketch(values, pair), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_renumbered__moves_pairs_and_keeps_buckets():
    values, pair = np.array([1.0, -2.0, 3.0]), np.array([0, 1, 1])
    keys, _ = sketch(values, pair)
    moved, _ = sketch(values, np.array([4, 7, 7]))
    assert renumbered(keys, np.array([4, 7])).tolist() == moved.tolist()


def test_quantiles__of_a_pair_without_numbers_are_nan():
    keys, counts = sketch(np.array([1.0, 2.0]), np.array([0, 2]))
    found = sketch_quantiles(keys, counts, np.array([1, 0, 1]), 0.5)
    assert np.isnan(found).tolist() == [False, True, False]
    assert np.isnan(sketch_quantiles(keys[:0], counts[:0], np.array([0]), 0.5)).all()


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_moments__of_parts_agree_with_numpy(parts):
    rng = np.random.default_rng(parts)
    values, code = rng.normal(1e6, 3.0, 4000), rng.integers(0, 5, 4000)
    pieces = np.array_split(np.arange(4000), parts)
    found = group_moments(values[pieces[0]], code[pieces[0]], groups=6)
    for piece in pieces[1:]:
        found = merged_moments(found, group_moments(values[piece], code[piece], groups=6))  # type: ignore[arg-type,assignment]
    for g in range(5):
        x = values[code == g]
        assert (found["n"][g], found["min"][g], found["max"][g]) == (len(x), x.min(), x.max())
        np.testing.assert_allclose(found["mean"][g], x.mean(), rtol=1e-12)
        np.testing.assert_allclose(np.sqrt(found["m2"][g] / (len(x) - 1)), x.std(ddof=1), rtol=1e-9)
    assert found["n"][5] == 0


def test_moments__of_a_part_without_numbers_change_nothing():
    none = group_moments(np.zeros(0), np.zeros(0, np.int64), groups=1)
    some = group_moments(np.array([np.inf, 1.0]), np.zeros(2, np.int64), groups=1)
    for both in (merged_moments(none, some), merged_moments(some, none)):  # type: ignore[arg-type]
        assert (both["n"][0], both["mean"][0], both["min"][0], both["max"][0]) == (2, np.inf, 1.0, np.inf)
