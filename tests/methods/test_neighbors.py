from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from curation.methods import neighbors
from curation.methods.neighbors import all_neighbors, exact_neighbors, require_finite


def naive(base, k, ids):
    """Direct float64 sums and a full sort by (distance, id)."""
    wide = base.astype(np.float64)
    d2 = np.zeros((len(base), len(base)))
    for column in wide.T:
        d2 += (column[:, None] - column) ** 2
    index = np.empty((len(base), k), np.int64)
    for i, row in enumerate(d2):
        order = np.lexsort((ids, row))
        index[i] = order[order != i][:k]
    return index, np.take_along_axis(d2, index, 1)


def assert_exact(base, k, ids=None):
    ids = np.arange(len(base), dtype=np.uint64) if ids is None else ids
    expected, expected_d2 = naive(base, k, ids)
    index, d2 = all_neighbors(base, k=k, ids=ids)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(d2, expected_d2)


@st.composite
def tied_rows(draw):
    n, d = draw(st.integers(2, 40)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base = rng.integers(-2, 3, (n, d)).astype(draw(st.sampled_from([np.float32, np.float64])))
    ids = rng.permutation(n).astype(np.uint64) << np.uint64(40)
    return (
        base * draw(st.sampled_from([1.0, 2.0**-140, 2.0**100])).__float__(),
        draw(st.integers(1, n - 1)),
        ids,
    )


@settings(max_examples=60, deadline=None)
@given(tied_rows())
def test_neighbors__are_exact_with_duplicates_and_ties(case):
    assert_exact(*case)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([np.float32, np.float64]))
def test_neighbors__are_exact_for_clusters_of_any_spread(seed, d, dtype):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((4, d)) * 10.0 ** rng.integers(-3, 9)
    base = centers[rng.integers(0, 4, 60)] + rng.standard_normal((60, d)) * 10.0 ** rng.integers(-9, 3)
    assert_exact(base.astype(dtype), 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_neighbors__survive_a_huge_offset(dtype, offset):
    base = (np.random.default_rng(0).integers(-4000, 4000, (300, 5)) * 8.0 + offset).astype(dtype)
    assert_exact(base, 7)


@pytest.mark.parametrize("scale", [2.0**-149, 2.0**-140])
def test_neighbors__survive_float32_denormals(scale):
    base = (np.random.default_rng(0).integers(0, 500, (100, 3)) * scale).astype(np.float32)
    assert_exact(base, 4)


@pytest.mark.parametrize("exponent", [-1074, -1000, -600, 600, 1010])
def test_neighbors__keep_the_order_where_squares_leave_float64(exponent):
    grid = np.random.default_rng(0).integers(-900, 900, (100, 3)).astype(np.float64)
    expected, _ = all_neighbors(grid, k=4)
    index, d2 = all_neighbors(np.ldexp(grid, exponent), k=4)
    np.testing.assert_array_equal(index, expected)
    assert (d2 == (0.0 if exponent < 0 else np.inf)).all()


def test_neighbors__of_the_largest_floats():
    top = np.finfo(np.float64).max
    index, _ = all_neighbors(np.array([[top], [-top], [top / 2], [0.0]]), k=1)
    np.testing.assert_array_equal(index.ravel(), [2, 3, 0, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbors__parity_with_sklearn(dtype):
    base = np.random.default_rng(1).standard_normal((3000, 16)).astype(dtype)
    distance, expected = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(base.astype(float)).kneighbors()
    index, d2 = all_neighbors(base, k=6)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(np.sqrt(d2), distance, rtol=1e-6)


@pytest.mark.parametrize("rows", [[[0.0]] * 5, [[0.0], [1.0], [3.0]], [[1.0], [2.0]]])
def test_neighbors__of_one_column_and_all_others(rows):
    assert_exact(np.array(rows), len(rows) - 1)


def test_neighbors__of_sorted_rows():
    assert_exact(np.arange(1500.0, dtype=np.float32)[:, None], 3)


def test_neighbors__of_equal_rows_are_the_lowest_ids():
    index, d2 = all_neighbors(np.ones((2000, 3), np.float32), k=2)
    np.testing.assert_array_equal(index[5:], np.tile([0, 1], (1995, 1)))
    assert not d2.any()


@pytest.mark.parametrize(("rows", "columns", "threads"), [(7, 33, 1), (64, 8, 2), (1024, 1024, 2)])
def test_neighbors__do_not_depend_on_blocks_or_threads(monkeypatch, rows, columns, threads):
    base = np.random.default_rng(2).standard_normal((700, 12)).astype(np.float32)
    whole = all_neighbors(base, k=5)
    monkeypatch.setattr(neighbors, "_ROWS", rows)
    monkeypatch.setattr(neighbors, "_COLUMNS", columns)
    with threadpool_limits(threads):
        again = all_neighbors(base, k=5)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (13, 400), (699, 700)])
def test_neighbors__of_a_range_are_a_slice_of_all(start, stop):
    base = np.random.default_rng(3).integers(0, 4, (700, 4)).astype(np.float32)
    ids = np.arange(700, dtype=np.uint64)[::-1].copy()
    whole = all_neighbors(base, k=5, ids=ids)
    part = exact_neighbors(base, start, stop, k=5, ids=ids)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[start:stop], b)


def test_neighbors__follow_a_permutation_of_the_rows():
    rng = np.random.default_rng(4)
    base, ids = rng.integers(0, 3, (200, 4)).astype(np.float64), rng.permutation(200).astype(np.uint64)
    order = rng.permutation(200)
    index, _ = all_neighbors(base, k=4, ids=ids)
    moved, _ = all_neighbors(base[order], k=4, ids=ids[order])
    np.testing.assert_array_equal(ids[index][order], ids[order][moved])


def test_neighbors__leave_the_input_alone_and_accept_any_layout():
    base = np.asfortranarray(np.random.default_rng(5).standard_normal((50, 3)))
    before = base.copy()
    index, _ = all_neighbors(base, k=3)
    np.testing.assert_array_equal(base, before)
    np.testing.assert_array_equal(index, all_neighbors(np.ascontiguousarray(base), k=3)[0])


@pytest.mark.parametrize(
    ("base", "kwargs", "match"),
    [
        (np.ones((3, 1)), {"k": 3}, r"k: expected 1 .. 2 .*, got 3; lower k"),
        (np.ones((3, 1)), {"k": 0}, r"k: expected 1 .. 2 .*, got 0"),
        (np.array([[1.0], [np.nan], [2.0]]), {"k": 1}, r"base\[1, 0\]: expected a finite number, got nan"),
        (np.array([[1.0], [2.0], [np.inf]]), {"k": 1}, r"base\[2, 0\]: expected a finite number, got inf"),
        (np.ones(3), {"k": 1}, r"base: expected \(n, d\)"),
        (np.ones((3, 1)), {"k": 1, "ids": np.arange(2, dtype=np.uint64)}, r"ids: expected uint64 \(3,\)"),
    ],
)
def test_neighbors__refuse_bad_input(base, kwargs, match):
    with pytest.raises(ValueError, match=match):
        all_neighbors(base, **kwargs)


def test_neighbors__refuse_integers_and_bad_ranges():
    with pytest.raises(TypeError, match="base: expected float32 or float64, got int64"):
        all_neighbors(np.ones((3, 1), np.int64), k=1)
    with pytest.raises(ValueError, match="queries: expected 0 <= start <= stop <= 3, got 2, 4"):
        exact_neighbors(np.ones((3, 1)), 2, 4, k=1, ids=np.arange(3, dtype=np.uint64))


def test_require_finite__accepts_sums_that_overflow():
    require_finite("x", np.full((3, 1), np.finfo(np.float64).max))
