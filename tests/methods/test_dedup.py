from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.dedup import (
    Dedup,
    Near,
    equal_groups,
    linked_survivors,
    listed,
    near_duplicates,
    rank_keys,
    row_keys,
    survivors,
)
from tests.flow.test_types import SAMPLES, column

# ---- options


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"columns": ["a"], "near": {"column": "text"}}, "columns, near: expected one of the two, got both"),
        ({"columns": ["a", "a"]}, "columns: expected each name once"),
        ({"columns": []}, "at least 1 item"),
        ({"near": {"column": "text", "bands": 1024}}, "bands x rows: expected <= 4096, got 8192"),
        ({"near": {"column": "text", "ngram": 0}}, "greater than or equal to 1"),
        ({"normalize": "some"}, "'none', 'whitespace' or 'aggressive'"),
        ({"prefer": {"column": "a", "order": "best"}}, "'largest' or 'smallest'"),
    ],
)
def test_dedup__refuses_options_that_make_no_sense(options, match):
    with pytest.raises(ValidationError, match=match):
        Dedup(**options)


@pytest.mark.parametrize(
    ("options", "normalization"),
    [({}, "none"), ({"near": {"column": "a"}}, "aggressive"), ({"normalize": "whitespace"}, "whitespace")],
)
def test_dedup__normalizes_near_texts_unless_told_otherwise(options, normalization):
    assert Dedup(**options).normalization == normalization


# ---- keys

VALUES = st.lists(st.sampled_from([None, 0.0, -0.0, 1.0, math.nan, -math.nan, math.inf]), max_size=8)


def value_of(row):
    """A row as Python compares it, with one NaN."""
    return tuple("nan" if isinstance(each, float) and math.isnan(each) else each for each in row)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([None, 0.0, -0.0, 1.0, math.nan]), st.sampled_from([None, "", "a"]))))
def test_row_keys__are_equal_where_rows_are(rows):
    table = pa.table({"x": pa.array([x for x, _ in rows], pa.float64()), "t": pa.array([t for _, t in rows], "string")})
    keys = [tuple(key) for key in row_keys(table).tolist()]
    values = [value_of(row) for row in rows]
    assert [[a == b for b in keys] for a in keys] == [[a == b for b in values] for a in values]


@settings(deadline=None)
@given(VALUES, st.data())
@pytest.mark.parametrize(
    "layout",
    [
        lambda a: a,
        lambda a: a.dictionary_encode(),
        lambda a: pa.StructArray.from_arrays([a], ["x"]),
        lambda a: pa.ListArray.from_arrays(np.arange(len(a) + 1, dtype=np.int32), a),
        lambda a: pa.FixedSizeListArray.from_arrays(a, 1),
    ],
)
def test_row_keys__do_not_depend_on_chunks_and_slices(layout, values, data):
    whole = layout(pa.array(values, pa.float32()))
    cut = data.draw(st.integers(0, len(values)))
    parts = pa.chunked_array([whole.slice(0, cut), whole.slice(cut)], whole.type)
    positive = layout(pa.array([None if v is None else v + 0.0 for v in values], pa.float32()))
    found, expected = row_keys(pa.table({"x": parts})), row_keys(pa.table({"x": positive}))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_row_keys__take_both_zeros_and_all_nan_for_one(kind):
    column = pa.array(np.array([0.0, -0.0, math.nan, -math.nan], kind.to_pandas_dtype()), kind)
    keys = row_keys(pa.table({"x": column}))
    assert (keys[0] == keys).all(axis=1).tolist() == [True, True, False, False]
    np.testing.assert_array_equal(keys[2], keys[3])


def test_row_keys__see_the_storage_of_extension_types():
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]]))
    keys = row_keys(pa.table({"x": tensor}))
    assert (keys[0] == keys).all(axis=1).tolist() == [True, True, False]


@pytest.mark.parametrize("kind", list(SAMPLES), ids=str)
def test_row_keys__take_every_type(kind):
    values = column(kind, [True, False, True, False])
    keys = row_keys(pa.table({"x": values}))
    assert (keys[0] == keys).all(axis=1).tolist() == [each == values.to_pylist()[0] for each in values.to_pylist()]


def test_row_keys__tell_columns_and_types_apart():
    a, b = pa.array([1, 2]), pa.array([2, 1])
    keys = [row_keys(pa.table(each)) for each in ({"a": a, "b": b}, {"b": b, "a": a}, {"a": b, "b": a})]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert not (keys[0] == keys[2]).any()
    assert not (row_keys(pa.table({"a": a})) == row_keys(pa.table({"a": a.cast(pa.int32())}))).any()


@pytest.mark.parametrize(
    ("normalize", "equal"),
    [
        ("none", [True, False, False, False]),
        ("whitespace", [True, True, False, False]),
        ("aggressive", [True, True, True, False]),
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_row_keys__do_not_tell_apart_what_normalization_leaves_out(normalize, equal, kind):
    text = pa.array(["One 2", " One  2", "one, (2)", None], kind)
    keys = row_keys(pa.table({"text": text, "n": [1] * 4}), normalize=normalize)
    assert (keys[0] == keys).all(axis=1).tolist() == equal


# ---- who stays


@pytest.mark.parametrize(
    ("kind", "ascending"),
    [
        (np.float32, [-math.inf, -1e30, -1e-45, 0, 1e-45, 1, math.inf]),
        (np.float64, [-math.inf, -1.5, 0, 5e-324, 1, 1e308, math.inf]),
        (np.int8, [-128, -1, 0, 1, 127]),
        (np.int64, [-(2**63), -1, 0, 1, 2**63 - 2]),
        (np.uint64, [0, 1, 2, 2**63, 2**64 - 2]),
        (np.bool_, [False, True]),
    ],
)
def test_rank_keys__rise_as_the_values_do(kind, ascending):
    values, known = np.array(ascending, kind), np.ones(len(ascending), bool)
    smallest, largest = (rank_keys(values, known, order).tolist() for order in ("smallest", "largest"))
    assert smallest == sorted(set(smallest))
    assert largest == sorted(set(largest), reverse=True)
    assert len(largest) == len(smallest) == len(values)


@pytest.mark.parametrize("order", ["largest", "smallest"])
def test_rank_keys__put_null_and_nan_last_and_take_zeros_for_one(order):
    values = np.array([math.inf, -math.inf, math.nan, -math.nan, 5.0, 0.0, -0.0])
    rank = rank_keys(values, np.array([True] * 4 + [False] + [True] * 2), order)
    assert set(rank[2:5].tolist()) == {2**64 - 1}
    assert max(rank[[0, 1, 5, 6]]) < 2**64 - 1
    assert rank[5] == rank[6]


@pytest.mark.parametrize("order", ["largest", "smallest"])
def test_rank_keys__of_integers_at_the_ends_stay_before_null(order):
    assert rank_keys(np.array([-(2**63), 2**63 - 1]), np.ones(2, bool), order).max() == 2**64 - 2


def test_rank_keys__refuse_text():
    with pytest.raises(TypeError, match="values: expected numbers, got <U1"):
        rank_keys(np.array(["a"]), np.ones(1, bool), "largest")


@pytest.mark.parametrize(
    ("keys", "starts"), [([], []), ([5], [0]), ([5, 5, 6], [0, 2]), ([[1, 2], [1, 2], [1, 3]], [0, 2])]
)
def test_equal_groups__begin_where_keys_change(keys, starts):
    assert equal_groups(np.array(keys, np.uint64)).tolist() == starts


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2), st.integers(0, 3), st.integers(0, 1)),
    max_size=30,
    unique_by=lambda row: row[3:],
)


def columns_of(rows):
    table = np.array(rows, np.uint64).reshape(len(rows), 5)
    return table[:, :2], {"rank": table[:, 2], "row_id": table[:, 3], "copy": table[:, 4].astype(np.uint32)}


@given(ROWS)
def test_survivors__are_the_first_of_each_key(rows):
    keys, order = columns_of(rows)
    first: dict[Any, int] = {}
    for at in sorted(range(len(rows)), key=lambda i: rows[i][2:]):
        first.setdefault(rows[at][:2], at)
    expected = [(at, first[row[:2]]) for at, row in enumerate(rows) if first[row[:2]] != at]
    dropped, kept = survivors(keys, **order)
    assert list(zip(dropped.tolist(), kept.tolist(), strict=True)) == expected


@given(ROWS, st.data())
def test_linked_survivors__are_the_first_of_each_component(rows, data):
    _, order = columns_of(rows)
    place = st.integers(0, max(0, len(rows) - 1))
    edges = data.draw(st.lists(st.tuples(place, place), max_size=20)) if rows else []
    component = [{at} for at in range(len(rows))]
    for a, b in edges:
        together = component[a] | component[b]
        for at in together:
            component[at] = together
    first = [min(each, key=lambda i: rows[i][2:]) for each in component]
    dropped, kept = linked_survivors(np.array(edges, np.int64).reshape(-1, 2), **order)
    expected = [(at, to) for at, to in enumerate(first) if to != at]
    assert sorted(zip(dropped.tolist(), kept.tolist(), strict=True)) == expected


def test_linked_survivors__take_a_row_that_is_named_twice_for_one():
    row_id, zero = np.array([1, 5, 5, 9], np.uint64), np.zeros(4, np.uint64)
    links = np.array([[1, 0], [3, 2]])  # 5 - 1 and 9 - 5
    dropped, kept = linked_survivors(links, rank=zero, row_id=row_id, copy=zero.astype(np.uint32))
    assert (row_id[dropped].tolist(), row_id[kept].tolist()) == ([5, 9], [1, 1])


PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=12)


@settings(deadline=None)
@given(PAIRS, PAIRS)
def test_listed__is_the_place_in_the_list(rows, others):
    known = np.array(sorted(set(others)), np.uint64).reshape(-1, 2)
    asked = np.array(rows, np.uint64).reshape(-1, 2)
    (asked_id, asked_copy), (known_id, known_copy) = asked.T, known.T
    small = np.uint32
    found = listed(asked_id, asked_copy.astype(small), listed_id=known_id, listed_copy=known_copy.astype(small))
    places = {pair: i for i, pair in enumerate(sorted(set(others)))}
    assert found.tolist() == [places.get(row, -1) for row in rows]


# ---- the whole, in memory


def shingles(text, n):
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def test_near_duplicates__find_what_is_alike_and_leave_what_is_not():
    draw = np.random.default_rng(0)
    base = [[f"w{w}" for w in draw.integers(0, 5000, 100)] for _ in range(200)]
    edited = [[*words[:50], "changed", *words[51:]] for words in base]  # Jaccard similarity 91 / 101
    texts = [" ".join(words) for words in (*base, *edited)]
    a, b = shingles(texts[0], 5), shingles(texts[200], 5)
    assert len(a & b) / len(a | b) == 91 / 101
    dropped, kept = near_duplicates(pa.array(texts))
    assert len(dropped) >= 199  # each with probability 0.9997
    assert (dropped - kept == 200).all()


def test_near_duplicates__ignore_null_and_empty_texts():
    dropped, _ = near_duplicates(pa.array([None, "", "...", None, ""]))
    assert len(dropped) == 0


def test_near_duplicates__of_scripts_without_spaces_by_characters():
    text = "".join(map(chr, range(0x4E00, 0x4E64)))
    texts = pa.array([text, "".join(reversed(text)), text[:-1] + "。"])
    dropped, kept = near_duplicates(texts, Near(column="text", unit="char"))
    assert (dropped.tolist(), kept.tolist()) == ([2], [0])


def test_row_keys__of_rows_without_columns_are_equal():
    keys = row_keys(pa.table({"x": [1, 2, 3]}).select([]))
    assert keys.shape == (3, 2)
    assert (keys == keys[0]).all()
