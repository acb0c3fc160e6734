from __future__ import annotations

import datetime as dt
import struct
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.hashing import HASH_VERSION, combine, fingerprint, key_hashes, row_hashes

D = Decimal
UNION = pa.UnionArray.from_sparse(
    pa.array([0, 1, 0, 1], pa.int8()),
    [pa.array([1, 2, None, 4]), pa.array(["a", "b", "c", None])],
    ["n", "t"],
)
# Of each type: four values, two of them equal, one null where the type has nulls.
ARRAYS = {
    "null": pa.nulls(4),
    "bool": pa.array([True, None, False, True]),
    "int8": pa.array([1, None, -1, 1], pa.int8()),
    "uint64": pa.array([1, None, 2**64 - 1, 1], pa.uint64()),
    "float16": pa.array(np.array([1, 2, -0.0, 1], np.float16), mask=np.array([False, True, False, False])),
    "float32": pa.array([1.5, None, float("nan"), 1.5], pa.float32()),
    "float64": pa.array([1.5, None, float("inf"), 1.5]),
    "decimal32": pa.array([D("1.5"), None, D("-2.5"), D("1.5")], pa.decimal32(5, 1)),
    "decimal64": pa.array([D("1.5"), None, D("-2.5"), D("1.5")], pa.decimal64(12, 1)),
    "decimal128": pa.array([D("1.5"), None, D("-2.5"), D("1.5")], pa.decimal128(20, 1)),
    "decimal256": pa.array([D("1.5"), None, D("-2.5"), D("1.5")], pa.decimal256(50, 1)),
    "date": pa.array([dt.date(2020, 1, 1), None, dt.date(1900, 1, 1), dt.date(2020, 1, 1)]),
    "time": pa.array([1, None, 3, 1], pa.time64("ns")),
    "timestamp": pa.array([1, None, 3, 1], pa.timestamp("us", "UTC")),
    "duration": pa.array([1, None, 3, 1], pa.duration("s")),
    "interval": pa.array([(1, 2, 3), None, (1, 2, 4), (1, 2, 3)], pa.month_day_nano_interval()),
    "fixed": pa.array([b"abc", None, b"abd", b"abc"], pa.binary(3)),
    "string": pa.array(["", None, "a long text of 29 bytes here.", ""]),
    "binary": pa.array([b"", None, b"\0", b""]),
    "list": pa.array([[1, 2], None, [], [1, 2]], pa.list_(pa.int32())),
    "list of null": pa.array([[1, None], None, [1, 0], [1, None]], pa.list_(pa.int32())),
    "list of bool": pa.array([[True], None, [False], [True]]),
    "list of text": pa.array([["a", "b"], None, ["ab"], ["a", "b"]]),
    "list of list": pa.array([[[1], []], None, [[], [1]], [[1], []]]),
    "fixed list": pa.array([[1.0, 2.0], None, [2.0, 1.0], [1.0, 2.0]], pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": None}, {"a": 1, "b": "x"}]),
    "map": pa.array([[("k", 1)], None, [("k", None)], [("k", 1)]], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["a", None, "b", "a"]).dictionary_encode(),
    "run ends": pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], pa.array(["a", None, "b", "a"])),
    "list of dictionary": pa.ListArray.from_arrays([0, 1, 2, 3, 4], pa.array([1, None, 2, 1]).dictionary_encode()),
    "extension": pa.array([b"a" * 16, None, b"b" * 16, b"a" * 16], pa.uuid()),
}
ALL = ARRAYS | {"union": UNION}
every = pytest.mark.parametrize("name", ALL)


def hashes(array):
    return row_hashes(pa.table({"x": array}))


@pytest.mark.parametrize("name", ARRAYS)
def test_rows__are_equal_exactly_if_their_values_are(name):
    h = hashes(ARRAYS[name])
    assert (h[0] == h[3]).all()
    n_distinct = 1 if name == "null" else 3
    assert len(np.unique(h[:, 0])) == len(np.unique(h[:, 1])) == n_distinct


def test_union__tells_its_members_apart():
    h = hashes(UNION)
    assert len(np.unique(h[:, 0])) == 4
    dense = pa.UnionArray.from_dense(
        pa.array([0, 1, 0, 1], pa.int8()),
        pa.array([0, 0, 1, 1], pa.int32()),
        [pa.array([1, None]), pa.array(["b", None])],
        ["n", "t"],
    )
    np.testing.assert_array_equal(hashes(dense), h)
    np.testing.assert_array_equal(hashes(dense[1:3]), h[1:3])


@every
@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 4), (2, 3), (3, 3)])
def test_rows__do_not_depend_on_slices_or_chunks(name, start, stop):
    array, whole = ALL[name], hashes(ALL[name])
    np.testing.assert_array_equal(hashes(array[start:stop]), whole[start:stop])
    chunks = pa.chunked_array([array[:start], array[start:stop], array[stop:]])
    np.testing.assert_array_equal(hashes(chunks), whole)


@every
def test_rows__do_not_depend_on_their_neighbours(name):
    whole = hashes(ALL[name])
    for i in range(4):
        np.testing.assert_array_equal(hashes(ALL[name][i : i + 1]), whole[i : i + 1])


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ("string", pa.large_string()),
        ("string", pa.string_view()),
        ("binary", pa.large_binary()),
        ("binary", pa.binary_view()),
        ("list", pa.large_list(pa.int32())),
        ("list", pa.list_view(pa.int32())),
        ("list", pa.large_list_view(pa.int32())),
        ("list of text", pa.large_list(pa.large_string())),
        ("fixed list", pa.list_(pa.float32())),
    ],
)
def test_layouts__of_one_type_agree(plain, other):
    array = pa.array(ARRAYS[plain].to_pylist(), other)
    np.testing.assert_array_equal(hashes(array), hashes(ARRAYS[plain]))
    np.testing.assert_array_equal(hashes(array[1:]), hashes(ARRAYS[plain])[1:])


@pytest.mark.parametrize("name", ["int8", "float32", "string", "decimal128", "fixed", "timestamp"])
def test_dictionary_and_run_ends__equal_decoded(name):
    array = ARRAYS[name]
    run_ends = pa.RunEndEncodedArray.from_arrays([1, 2, 3, 4], array)
    for encoded in (array.dictionary_encode(), run_ends):
        np.testing.assert_array_equal(hashes(encoded), hashes(array))
        np.testing.assert_array_equal(hashes(encoded[1:3]), hashes(array)[1:3])
        lists = pa.ListArray.from_arrays([0, 3, 4], encoded)
        np.testing.assert_array_equal(hashes(lists), hashes(pa.ListArray.from_arrays([0, 3, 4], array)))


def test_dictionary__with_a_null_among_its_values():
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    np.testing.assert_array_equal(hashes(array), hashes(pa.array(["a", None, None])))
    none = pa.DictionaryArray.from_arrays(pa.array([None], pa.int8()), pa.array([], pa.string()))
    np.testing.assert_array_equal(hashes(none), hashes(pa.array([None], pa.string())))


def test_nulls__ignore_the_bytes_below():
    mask = np.array([False, True])
    for values in (np.array([1, 2]), np.array([1.0, np.nan])):
        np.testing.assert_array_equal(
            hashes(pa.array(values, mask=mask)),
            hashes(pa.array([values[0], None], pa.from_numpy_dtype(values.dtype))),
        )
    bitmap = pa.py_buffer(b"\x01")
    text = pa.array(["a", "hidden"])
    hidden = pa.Array.from_buffers(pa.string(), 2, [bitmap, *text.buffers()[1:]])
    np.testing.assert_array_equal(hashes(hidden), hashes(pa.array(["a", None])))
    lists = pa.ListArray.from_arrays([0, 1, 3], pa.array([1, 2, 3]), mask=pa.array([False, True]))
    np.testing.assert_array_equal(hashes(lists), hashes(pa.array([[1], None])))


def test_nulls__are_distinct_from_empty_and_zero_at_every_level():
    rows = pa.array([None, [], [None], [{"a": None}], [{"a": 0}]], pa.list_(pa.struct([("a", pa.int32())])))
    assert len(np.unique(hashes(rows)[:, 0])) == 5


def test_floats__nan_is_one_value_and_zeros_are_two():
    nan = np.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    assert len(np.unique(hashes(pa.array(nan))[:, 0])) == 1
    assert len(np.unique(hashes(pa.array([0.0, -0.0]))[:, 0])) == 2
    lists = pa.array([[nan[0]], [nan[2]], [1.0]])
    assert len(np.unique(hashes(lists)[:, 0])) == 2


def test_columns__names_count_and_order_does_not():
    a, b = pa.array([1, 2]), pa.array([2, 1])
    one = row_hashes(pa.table({"a": a, "b": b}))
    np.testing.assert_array_equal(row_hashes(pa.table({"b": b, "a": a})), one)
    assert not (row_hashes(pa.table({"a": b, "b": a})) == one).any()
    assert not (row_hashes(pa.table({"a": a, "c": b})) == one).any()
    assert (one[0] != one[1]).all()


def test_types__count():
    different = [
        pa.int32(),
        pa.int64(),
        pa.float64(),
        pa.timestamp("s"),
        pa.timestamp("ms"),
        pa.decimal128(19, 0),
    ]
    found = [hashes(pa.array([1], pa.int64()).cast(kind))[0, 0] for kind in different]
    found += [hashes(pa.array(values))[0, 0] for values in (["1"], [b"1"], [[1]], [[[1]]], [{"a": 1}])]
    assert len(set(found)) == len(found)


def test_map__field_names_do_not_count():
    data = [[("k", 1)]]
    other = pa.map_(pa.field("name", pa.string(), nullable=False), pa.field("thing", pa.int64()))
    np.testing.assert_array_equal(hashes(pa.array(data, other)), hashes(ARRAYS["map"])[:1])


def test_table__without_columns_or_rows():
    assert row_hashes(pa.table({"x": pa.array([], pa.string())})).shape == (0, 2)
    assert fingerprint(row_hashes(pa.table({}))) == 0


def test_golden_values__of_version_1():
    assert HASH_VERSION == 1
    table = pa.table({name: ARRAYS[name] for name in ("int8", "float64", "string", "list of null", "struct")})
    assert f"{fingerprint(row_hashes(table)):032x}" == "7b848985492745f9a1e7a935d68722df"
    assert [f"{h:016x}" for h in key_hashes(pa.array([1, -1]), salt="users")] == [
        "4953d241a354ede5",
        "41515c441c2a5e6c",
    ]
    assert f"{key_hashes(pa.array(['k']), salt='users')[0]:016x}" == "44f020345232b5d5"


# ---- quality


@pytest.mark.parametrize("size", [8, 13, 24])
def test_bytes__every_bit_changes_half_of_each_lane(size):
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 256, (400, size), dtype=np.uint8)
    kind = pa.large_binary()

    def lanes(rows):
        return hashes(pa.array([row.tobytes() for row in rows], kind))

    base = lanes(texts)
    for bit in range(0, size * 8, 5):
        turned = texts.copy()
        turned[:, bit // 8] ^= np.uint8(1 << bit % 8)
        share = np.unpackbits((base ^ lanes(turned)).view(np.uint8), axis=1).mean(axis=0)
        assert abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(400)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(1_000_000),
        np.arange(1_000_000) << 40,
        np.arange(1_000_000, dtype=np.float64),
    ],
)
def test_numbers__do_not_collide(values):
    h = hashes(pa.array(values))
    assert np.unique(h[:, 0]).size == np.unique(h[:, 1]).size == values.size
    low = np.bincount((h[:, 0] & np.uint64(1023)).astype(int), minlength=1024)
    assert ((low - values.size / 1024) ** 2 / (values.size / 1024)).sum() < 1023 + 6 * np.sqrt(2 * 1023)


def test_short_texts__do_not_collide():
    texts = pa.array(np.arange(1_000_000)).cast(pa.string())
    assert np.unique(hashes(texts)[:, 0]).size == np.unique(hashes(texts)[:, 1]).size == 1_000_000
    assert np.unique(key_hashes(texts, salt="a")).size == 1_000_000


def test_texts__of_zeros_and_split_lists_do_not_collide():
    zeros = pa.array([b"\0" * n for n in range(100)])
    assert np.unique(hashes(zeros)[:, 0]).size == 100
    splits = pa.array([["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["", "abc"]])
    assert np.unique(hashes(splits)[:, 0]).size == 5


# ---- fingerprints


@settings(deadline=None)
@given(st.permutations(range(40)), st.integers(0, 40))
def test_fingerprint__ignores_order_and_adds_up(order, cut):
    h = hashes(pa.array(range(40)))
    parts = [fingerprint(h[order][:cut]), fingerprint(h[order][cut:])]
    assert combine(*parts) == fingerprint(h)
    assert fingerprint(h) == sum(int(a) | int(b) << 64 for a, b in h) % 2**128


def test_fingerprint__sees_copies():
    h = hashes(pa.array([1, 2]))
    assert fingerprint(h[[0, 0]]) != fingerprint(h[[1, 1]]) != fingerprint(h)


# ---- keys


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1))
def test_keys__of_equal_integers_agree_in_any_width(values):
    kinds = ["b", "B", "h", "H", "i", "I", "q", "Q"]
    types = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
    for value in values:
        found = set()
        for code, kind in zip(kinds, types, strict=True):
            try:
                struct.pack(f"<{code}", value)
            except struct.error:
                continue
            found.add(int(key_hashes(pa.array([value], kind), salt="s")[0]))
        assert len(found) == 1


def test_keys__of_negative_and_huge_integers_differ():
    assert key_hashes(pa.array([-1]), salt="s") != key_hashes(pa.array([2**64 - 1], pa.uint64()), salt="s")


def test_keys__agree_across_layouts():
    texts = ["a", "b", "a", "a longer key"]
    plain = key_hashes(pa.array(texts), salt="s")
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        np.testing.assert_array_equal(key_hashes(pa.array(texts, kind), salt="s"), plain)
    chunked = pa.chunked_array([texts[:1], texts[1:]])
    np.testing.assert_array_equal(key_hashes(chunked, salt="s"), plain)
    numbers = pa.array([3, 4, 3])
    np.testing.assert_array_equal(
        key_hashes(numbers.dictionary_encode(), salt="s"), key_hashes(numbers.cast(pa.uint8()), salt="s")
    )


def test_keys__of_floats_agree_in_width_and_zero():
    wide, narrow = (key_hashes(pa.array([0.0, -0.0, 1.5], kind), salt="s") for kind in (pa.float64(), pa.float32()))
    np.testing.assert_array_equal(wide, narrow)
    assert wide[0] == wide[1] != wide[2]


def test_keys__salt_and_bits():
    numbers = pa.array(range(1000))
    one, two = key_hashes(numbers, salt="a"), key_hashes(numbers, salt=b"b")
    assert not np.isin(one, two).any()
    np.testing.assert_array_equal(one, key_hashes(numbers, salt=b"a"))
    assert one.max() < 2**63
    np.testing.assert_array_equal(
        key_hashes(numbers, salt="a", bits=64) >> np.uint64(40), key_hashes(numbers, salt="a", bits=24)
    )


@pytest.mark.parametrize("keys", [pa.array([1, 2, None]), pa.array(["a", "b", None]).dictionary_encode(), pa.nulls(3)])
def test_keys__refuse_nulls(keys):
    with pytest.raises(ValueError, match=r"keys\[[02]\]: expected a value, got null"):
        key_hashes(keys, salt="s")


@pytest.mark.parametrize("bits", [0, 65])
def test_keys__refuse_bad_bits(bits):
    with pytest.raises(ValueError, match=f"bits: expected 1 .. 64, got {bits}"):
        key_hashes(pa.array([1]), salt="s", bits=bits)


def test_unknown_type__names_the_column(monkeypatch):
    monkeypatch.setattr("curation.hashing._KINDS", ())
    with pytest.raises(TypeError, match=r"column 'v': expected a type that can be hashed, got int64"):
        row_hashes(pa.table({"v": [1]}))
