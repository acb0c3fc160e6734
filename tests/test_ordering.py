"""Keys in the order of their bytes are rows in order: by every type, up and down, NULL last."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.ordering import order_keys, sortable
from tests.stages.hands import rows_of

WIDE = [float("nan"), float("inf"), 0.0, -0.0, 1.5, -2.0, -float("inf"), None, 5e-324]
VALUES: dict[str, Any] = {
    "int8": (pa.int8(), [3, -128, 127, None, 0, -1]),
    "int64": (pa.int64(), [2**63 - 1, -(2**63), 0, None, 256, 255, -256]),
    "uint64": (pa.uint64(), [2**64 - 1, 0, 2**63, None, 255, 256]),
    "bool": (pa.bool_(), [True, False, None]),
    "float64": (pa.float64(), WIDE),
    "float32": (pa.float32(), WIDE),
    "text": (pa.string(), ["b", "", "a\0", "a", "a\0b", "ab", None, "é", "z", "\U0001f600", "\uffff"]),
    "bytes": (pa.binary(), [b"\x00", b"", b"\xff", b"\x00\xff", b"\x00\x00", None, b"\xff\x00", b"a"]),
    "fixed": (pa.binary(2), [b"\x00\xff", b"\xff\x00", b"\x00\x00", None]),
    "date": (pa.date32(), [dt.date(1969, 1, 1), dt.date(2020, 1, 1), None, dt.date(1, 1, 1)]),
    "time": (pa.time64("us"), [dt.time(23, 59), dt.time(0), None]),
    "timestamp": (pa.timestamp("us"), [dt.datetime(1969, 1, 1), dt.datetime(2020, 1, 1), None]),
    "duration": (pa.duration("ms"), [dt.timedelta(-1), dt.timedelta(1), None, dt.timedelta(0)]),
    "decimal128": (pa.decimal128(20, 3), [Decimal("-1.5"), Decimal("1.499"), None, Decimal("99999999999.999")]),
    "decimal256": (pa.decimal256(50, 3), [Decimal("-1.5"), Decimal("1.499"), None, Decimal("0")]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["b", "a", None, "c", "b"]),
    "null": (pa.null(), [None]),
    "view": (pa.string_view(), ["b", "a", None, "a rather long text here"]),
}


def ordered(table, *by):
    """Positions in the order of the keys."""
    keys = order_keys(table, tuple(by)).to_pylist()
    return sorted(range(len(keys)), key=keys.__getitem__)


def rank(value):
    """What Python compares."""
    return (2, 0) if value is None else (1, 0) if value != value else (0, value)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("descending", [False, True])
def test_keys__are_in_the_order_of_the_values(name, descending):
    kind, values = VALUES[name]
    table = rows_of(len(values), v=pa.array(values, kind))
    values = table.column("v").to_pylist()  # as that type holds them
    found = [rank(values[i]) for i in ordered(table, ("v", descending))]
    known = sorted((rank(v) for v in values if v is not None), reverse=descending)
    assert found == [*known, rank(None)]


@given(st.data())
def test_keys__agree_with_polars_on_several_columns(data):
    rows = data.draw(st.integers(0, 12))
    cell = {
        "a": st.none() | st.integers(-2, 2),
        "b": st.none() | st.sampled_from(["", "a", "a\0", "b"]),
        "c": st.none() | st.sampled_from([0.0, -1.0, float("inf"), float("nan")]),
    }
    columns = {n: data.draw(st.lists(each, min_size=rows, max_size=rows)) for n, each in cell.items()}
    kinds = {"a": pa.int64(), "b": pa.string(), "c": pa.float64()}
    table = rows_of(rows, **{n: pa.array(v, kinds[n]) for n, v in columns.items()})
    by = [(n, data.draw(st.booleans())) for n in data.draw(st.permutations("abc"))]
    frame = (
        pl.DataFrame(table)
        .with_row_index("at")
        .sort(
            [*(n for n, _ in by), "_row_id"],
            descending=[*(d for _, d in by), False],
            nulls_last=True,
            maintain_order=True,
        )
    )
    assert ordered(table, *by) == frame["at"].to_list()


def test_keys__tell_all_rows_apart_by_id_and_copy():
    table = pa.concat_tables([rows_of(3, v=[1, 1, 1])] * 2)
    table = table.append_column("_copy", pa.array([0, 0, 0, 1, 1, 1], pa.uint32()))
    ids = table.column("_row_id").to_pylist()
    assert ordered(table, ("v", False)) == sorted(range(6), key=lambda i: (ids[i], i))


def test_keys__do_not_depend_on_what_lies_under_null():
    junk = [pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\1"), pa.py_buffer(np.array([1, x]))]) for x in (7, 8)]
    assert order_keys(rows_of(2, v=junk[0]), (("v", False),)).equals(order_keys(rows_of(2, v=junk[1]), (("v", False),)))


def test_keys__of_slices_and_chunks_are_the_same():
    table = rows_of(9, v=pa.array(["x", None, "", "a\0", "b", None, "c", "d", "e"]), n=np.arange(9))
    by = (("v", True), ("n", False))
    parts = pa.concat_tables([table.slice(0, 2), table.slice(2, 4), table.slice(6)])
    assert order_keys(parts, by).equals(order_keys(table, by))
    assert order_keys(table.slice(3, 4), by).to_pylist() == order_keys(table, by).to_pylist()[3:7]


def test_keys__of_no_rows():
    assert len(order_keys(rows_of(0, v=pa.array([], pa.string())), (("v", False),))) == 0


@pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.struct([("a", pa.int8())])], ids=str)
def test_sortable__not_by_nested_types(kind):
    assert not sortable(kind)
