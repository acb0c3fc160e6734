from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE
from imblearn.utils import check_sampling_strategy
from pydantic import ValidationError
from scipy import stats

from curation.methods.neighbors import all_neighbors
from curation.methods.smote import Smote, interpolate, sampling_targets, smote, smote_draws, usable_k
from curation.rng import stream_key

KEY = stream_key(0, "smote", "class 1")


def blob(n, d, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


# ---- how many rows


@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 40), min_size=2),
    st.sampled_from(["auto", "minority", "not minority", "not majority", "all"]),
)
def test_targets__parity_with_imblearn(counts, target):
    y = np.repeat(list(counts), list(counts.values()))
    expected = check_sampling_strategy(target, y, "over-sampling")
    if len(set(counts.values())) == len(counts):  # of equal classes, imbalanced-learn takes the first in order of y
        assert {label: n for label, n in sampling_targets(counts, target).items() if n} == {
            int(label): int(n) for label, n in expected.items() if n
        }
    assert all(n >= 0 for n in sampling_targets(counts, target).values())


@pytest.mark.parametrize("ratio", [0.37, 0.5, 1.0])
def test_targets__ratio_parity_with_imblearn(ratio):
    expected = check_sampling_strategy(ratio, np.repeat([0, 1], [101, 17]), "over-sampling")
    assert sampling_targets({0: 101, 1: 17}, ratio) == {0: 0} | expected


def test_targets__rows_per_class():
    assert sampling_targets({"a": 3, "b": 9}, {"a": 5}) == {"a": 2, "b": 0}
    assert sampling_targets({True: 3, False: 9}, {True: 3, False: 10}) == {True: 0, False: 1}


@pytest.mark.parametrize(
    ("counts", "target", "match"),
    [
        ({1: 3, 2: 9, 3: 9}, 0.5, "target: expected two classes with a ratio, got 3"),
        ({1: 3, 2: 9}, 0.2, r"target: expected a ratio >= 0.333333 \(the present one\), got 0.2"),
        ({1: 3, 2: 9}, 1.5, r"target: expected a ratio in \(0, 1\], got 1.5"),
        ({1: 3, 2: 9}, {7: 5}, r"target\[7\]: expected one of \[1, 2\], got 7"),
        ({1: 3, 2: 9}, {2: 5}, r"target\[2\]: expected >= 9 \(rows present\), got 5"),
        ({1: 3}, "auto", "target: expected two classes or more"),
        ({1: 3, 2: 0}, "auto", r"counts\[2\]: expected >= 1 row, got 0"),
        ({1: 3, 2: 4}, "most", "target: expected one of .*'most'"),
    ],
)
def test_targets__each_mistake_has_its_message(counts, target, match):
    with pytest.raises(ValueError, match=match):
        sampling_targets(counts, target)


@pytest.mark.parametrize(("n_rows", "small", "k"), [(6, "error", 5), (3, "shrink", 2), (3, "copy", 2), (1, "copy", 0)])
def test_usable_k__follows_the_rule_for_small_classes(n_rows, small, k):
    assert usable_k(n_rows, 5, small) == k


@pytest.mark.parametrize(("n_rows", "small", "least"), [(5, "error", 6), (1, "shrink", 2), (0, "copy", 1)])
def test_usable_k__refuses_classes_too_small(n_rows, small, least):
    with pytest.raises(ValueError, match=f"class 'cat': expected >= {least} rows for k=5, .*got {n_rows}"):
        usable_k(n_rows, 5, small, label="cat")


# ---- which rows


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 200), st.data())
def test_draws__any_slice_is_computed_alone(n_rows, n_new, data):
    start = data.draw(st.integers(0, n_new))
    stop = data.draw(st.integers(start, n_new))
    ids = np.random.default_rng(n_rows).permutation(n_rows).astype(np.uint64)
    for base in ("even", "iid"):
        for width in (None, 3):
            options = {"n_new": n_new, "ids": ids, "k": 4, "base": base, "width": width}
            whole, part = smote_draws(KEY, 0, n_new, **options), smote_draws(KEY, start, stop, **options)
            for a, b in zip(whole, part, strict=True):
                np.testing.assert_array_equal(a[start:stop], b)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 200))
def test_draws__even_serves_every_row_equally(n_rows, n_new):
    base, _, _ = smote_draws(KEY, 0, n_new, n_new=n_new, ids=np.arange(n_rows, dtype=np.uint64), k=3)
    counts = np.bincount(base, minlength=n_rows)
    assert counts.sum() == n_new
    assert np.ptp(counts) <= 1


def chi_square_p(index, n):
    return stats.chisquare(np.bincount(index, minlength=n)).pvalue


@pytest.mark.parametrize("seed", range(3))
def test_draws__iid_bases_slots_and_mix_are_uniform(seed):
    key = stream_key(seed, "smote", "class 1")
    base, slot, mix = smote_draws(key, 0, 50_000, n_new=50_000, ids=np.arange(40, dtype=np.uint64), k=5, base="iid")
    assert chi_square_p(base, 40) > 1e-4
    assert chi_square_p(slot, 5) > 1e-4
    assert stats.kstest(mix, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_draws__even_slots_and_mix_are_uniform(seed):
    key = stream_key(seed, "smote", "class 1")
    _, slot, mix = smote_draws(key, 0, 50_000, n_new=50_000, ids=np.arange(40, dtype=np.uint64), k=5)
    assert chi_square_p(slot, 5) > 1e-4
    assert stats.kstest(mix, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(slot, mix)[0, 1]) < 4 / np.sqrt(mix.size)


def test_draws__the_tests_have_power():
    _, slot, mix = smote_draws(KEY, 0, 50_000, n_new=50_000, ids=np.arange(40, dtype=np.uint64), k=5)
    slot[:800] = 0
    assert chi_square_p(slot, 5) < 1e-4
    assert stats.kstest(mix**1.06, "uniform").pvalue < 1e-4


def test_draws__classes_share_none():
    ids = np.arange(500, dtype=np.uint64)
    one, two = (
        smote_draws(stream_key(0, "smote", f"class {c}"), 0, 20_000, n_new=20_000, ids=ids, k=5)[2] for c in "ab"
    )
    assert not np.isin(one, two).any()
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(one.size)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"start": 3, "stop": 2}, "start, stop: expected 0 <= start <= stop <= 9, got 3, 2"),
        ({"ids": np.empty(0, np.uint64)}, "ids: expected at least one row"),
        ({"k": 0}, "k: expected >= 1, got 0"),
    ],
)
def test_draws__refuse_bad_arguments(args, match):
    options = {"start": 0, "stop": 9, "n_new": 9, "k": 1, "ids": np.arange(3, dtype=np.uint64)} | args
    with pytest.raises(ValueError, match=match):
        smote_draws(KEY, options.pop("start"), options.pop("stop"), **options)


# ---- the new rows


def test_smote__of_two_points_lies_on_the_line_and_is_uniform():
    new, _ = smote(np.array([[0.0, 0.0], [1.0, 2.0]]), 20_000, k=1)
    np.testing.assert_array_equal(new[:, 1], 2 * new[:, 0])
    assert stats.kstest(new[:, 0], "uniform").pvalue > 1e-4


def variance_ratio(new, x):
    return new.var(axis=0) / x.var(axis=0)


def test_smote__shrinks_the_variance_as_in_closed_form():
    x = blob(40, 4)
    expected = 2 / 3 - 1 / (3 * 39)
    new, _ = smote(x, 200_000, k=39, base="iid")
    np.testing.assert_allclose(variance_ratio(new, x), expected, atol=6e-3)
    np.testing.assert_allclose(new.mean(axis=0), x.mean(axis=0), atol=0.01)


def test_smote__the_variance_test_has_power():
    x = blob(40, 4)
    _, info = smote(x, 200_000, k=39, base="iid")
    crowded = interpolate(x, info["parent_a"], info["parent_b"], info["mix"] ** 1.1)
    assert np.abs(variance_ratio(crowded, x) - (2 / 3 - 1 / (3 * 39))).max() > 6e-3


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 30),
    st.integers(1, 6),
    st.integers(-300, 300),
    st.sampled_from(["segment", "box"]),
    st.booleans(),
)
def test_smote__stays_in_the_box_of_its_parents(n, d, exponent, gap, single):
    x = np.ldexp(blob(n, d, seed=n), exponent // 10 if single else exponent).astype(np.float32 if single else float)
    new, info = smote(x, 100, k=min(3, n - 1), gap=gap)
    a, b = x[info["parent_a"]], x[info["parent_b"]]
    assert (new >= np.minimum(a, b)).all()
    assert (new <= np.maximum(a, b)).all()
    assert new.dtype == x.dtype


def test_smote__segment_lies_between_its_parents():
    x = blob(50, 8)
    new, info = smote(x, 500)
    a, b = x[info["parent_a"]], x[info["parent_b"]]
    length = np.linalg.norm
    np.testing.assert_allclose(length(new - a, axis=1) + length(b - new, axis=1), length(b - a, axis=1), rtol=1e-6)


def test_smote__box_mixes_each_feature_on_its_own():
    _, info = smote(blob(50, 3), 20_000, gap="box")
    r = np.corrcoef(info["mix"].T)
    assert np.abs(r - np.eye(3)).max() < 4 / np.sqrt(20_000)


def test_interpolate__parity_with_imblearn_fed_with_its_draws():
    x, k, seed = blob(60, 7), 5, 3
    other = blob(200, 7, seed=9)
    y = np.repeat([1, 0], [60, 200])
    expected, _ = SMOTE(random_state=seed, k_neighbors=k).fit_resample(np.vstack([x, other]), y)
    state = np.random.RandomState(seed)
    pair = state.randint(0, 60 * k, 140)
    mix = state.uniform(size=140)
    near, _ = all_neighbors(x, k=k)
    new = interpolate(x, pair // k, near[pair // k, pair % k], mix)
    np.testing.assert_allclose(new, expected[260:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("base", ["even", "iid"])
def test_smote__does_not_depend_on_the_order_of_the_rows(base):
    x, ids = blob(40, 3), np.random.default_rng(1).permutation(40).astype(np.uint64)
    order = np.random.default_rng(2).permutation(40)
    new, info = smote(x, 101, base=base, ids=ids)
    moved, info_moved = smote(x[order], 101, base=base, ids=ids[order])
    np.testing.assert_array_equal(new, moved)
    np.testing.assert_array_equal(ids[info["parent_a"]], ids[order][info_moved["parent_a"]])


def test_smote__translates_and_scales_with_its_input():
    x = np.round(blob(40, 3) * 64)
    np.testing.assert_allclose(smote(x * 4 + 16, 90)[0], smote(x, 90)[0] * 4 + 16, rtol=1e-12)


def test_smote__counts_copies():
    x = np.vstack([np.zeros((6, 2)), [[1.0, 1.0]]])
    new, info = smote(x, 70, k=2)
    assert info["n_degenerate"] == 60 == int((new == 0).all(axis=1).sum())


def test_smote__same_seed_same_rows_and_input_untouched():
    x = blob(30, 3)
    before = x.copy()
    np.testing.assert_array_equal(smote(x, 50, seed=5)[0], smote(x, 50, seed=5)[0])
    assert not np.isin(smote(x, 50, seed=5)[0], smote(x, 50, seed=6)[0]).any()
    np.testing.assert_array_equal(x, before)


def test_smote__of_no_rows_is_empty():
    assert smote(blob(10, 3), 0)[0].shape == (0, 3)


def test_interpolate__survives_the_largest_floats():
    top = np.finfo(np.float64).max
    new = interpolate(np.array([[-top], [top]]), np.array([0, 0]), np.array([1, 1]), np.array([0.5, 0.75]))
    np.testing.assert_allclose(new.ravel(), [0.0, top / 2])


@pytest.mark.parametrize(
    ("x", "kwargs", "match"),
    [
        (blob(5, 2), {}, "class 'x': expected >= 6 rows for k=5"),
        (np.array([[np.nan]] * 7), {}, r"x\[0, 0\]: expected a finite number, got nan \(7 such"),
        (np.zeros(7), {}, r"x: expected \(T, d\)"),
        (blob(7, 2), {"n_new": -1}, "n_new: expected >= 0, got -1"),
    ],
)
def test_smote__refuses_bad_input(x, kwargs, match):
    with pytest.raises(ValueError, match=match):
        smote(x, kwargs.get("n_new", 3))


def test_interpolate__refuses_bad_input():
    at, mix = np.zeros(2, np.int64), np.zeros(2)
    with pytest.raises(TypeError, match="x: expected float32 or float64, got int64"):
        interpolate(np.zeros((3, 1), np.int64), at, at, mix)
    with pytest.raises(ValueError, match="base, neighbor, mix: expected"):
        interpolate(np.zeros((3, 2)), at, at, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"neighbor: expected positions 0 .. 2"):
        interpolate(np.zeros((3, 2)), at, at + 3, mix)


# ---- options


@pytest.mark.parametrize("target", [{1: 500, "b": 3, False: 4, 0.5: 2}, 1, 0.3, "not minority"])
def test_options__accept_every_form_of_target(target):
    assert Smote(label="y", features=["x"], target=target).target == target


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"features": []}, "at least 1 item"),
        ({"features": ["x", "y"]}, r"each column once, got \['y'\] twice"),
        ({"target": 1.5}, r"target: expected a ratio in \(0, 1\], got 1.5"),
        ({"target": {1: -5}}, r"target\[1\]: expected >= 0, got -5"),
        ({"k": 0}, "greater than or equal to 1"),
    ],
)
def test_options__refuse_mistakes(options, match):
    with pytest.raises(ValidationError, match=match):
        Smote(**({"label": "y", "features": ["x"]} | options))
