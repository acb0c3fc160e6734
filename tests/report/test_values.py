"""Values as text: all that Arrow holds, also what Python cannot."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from curation.errors import CurationError
from curation.report.values import matches, to_names, to_python, to_text

NS = pa.timestamp("ns")
BROKEN = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], NS), ["1970-01-01 00:00:00.000000001", None]),
        (pa.array([1, None], NS).dictionary_encode(), ["1970-01-01 00:00:00.000000001", None]),
        (pa.array([10**7, -(10**7)], pa.int32()).cast(pa.date32()), ["29349-01-26", "-25410-12-06"]),
        (pa.array([[1], None], pa.list_(NS)), ["['1970-01-01 00:00:00.000000001']", None]),
        (pa.array([b"\xff", None, b"a"]), ["b'\\xff'", None, "b'a'"]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.array([True, None]), ["true", None]),
        (BROKEN, ["b'\\xff\\xfe'"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_to_text__of_every_type(column, expected):
    assert to_text(column) == expected
    assert to_text(pa.chunked_array([column])) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([[1, 2]], pa.list_(NS, 2)), [["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"]]),
        (pa.array([{"at": 1, "n": 5}], pa.struct([("at", NS), ("n", pa.int8())])), None),
        (pa.array([[("x", 1)]], pa.map_(pa.string(), NS)), [[("x", "1970-01-01 00:00:00.000000001")]]),
        (pa.array([[1]], pa.list_view(NS)), ["<list_view<item: timestamp[ns]>>"]),
        (pa.array([1, None], pa.int64()), [1, None]),
        (pa.array([Decimal("1.50")]), [Decimal("1.50")]),
    ],
)
def test_to_python__writes_times_as_text(column, expected):
    expected = expected or [{"at": "1970-01-01 00:00:00.000000001", "n": 5}]
    assert to_python(column) == expected


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (pa.array([7, 5, None], pa.int8()), "5"),
        (pa.array([7, 2**63, None], pa.uint64()), str(2**63)),
        (pa.array([7, 0.1, None], pa.float32()), "0.1"),
        (pa.array([7, 0.5, None], pa.float16()), "0.5"),
        (pa.array([7, float("nan"), None]), "nan"),
        (pa.array([Decimal(7), Decimal("1.5"), None]), "1.50"),
        (pa.array(["a", "null", None]).dictionary_encode(), "null"),
        (pa.array(["a", "b", None], pa.string_view()), "b"),
        (pa.array([0, 1, None], NS), "1970-01-01 00:00:00.000000001"),
        (pa.array([True, False, None]), "false"),
    ],
)
def test_matches__finds_the_value(column, value):
    expected = [False, False, True] if value == "null" else [False, True, False]
    assert matches(column, value).tolist() == expected


@pytest.mark.parametrize("value", ["300", "x", "1.5", ""])
def test_matches__what_the_type_cannot_hold_is_nowhere(value):
    assert not matches(pa.array([1, 44], pa.int8()), value).any()


def test_matches__refuses_what_has_no_text():
    with pytest.raises(CurationError, match="cannot be named"):
        matches(pa.array([[1]]), "1")
    assert matches(pa.array([[1], None]), "null").tolist() == [False, True]
    assert matches(pa.array([], pa.int8()), "1").dtype == np.bool_


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, None, 1000], NS, ["1970-01-01 00:00:00", None, "1970-01-01 00:00:00.000001"]),
        ([0, None, 1], NS, ["1970-01-01 00:00:00", None, "1970-01-01 00:00:00.000000001"]),
        ([0, 10**18], pa.timestamp("us", "UTC"), ["1970-01-01 00:00:00+00:00", "-31878-09-27 01:46:40.000000Z"]),
        ([10**9, 1], pa.duration("ns"), ["0:00:01", "1"]),
        ([10**9, 1], pa.time64("ns"), ["00:00:01", "00:00:00.000000001"]),
        ([1, None], pa.int64(), ["1", None]),
    ],
    ids=str,
)
def test_to_names__are_those_of_python_where_it_holds_a_value(values, kind, expected):
    column = pa.array(values, pa.int64()).cast(kind)
    assert to_names(column) == expected
    assert to_names(pa.chunked_array([column.dictionary_encode()])) == expected


def test_to_names__of_text_that_is_no_utf8():
    assert to_names(BROKEN) == ["b'\\xff\\xfe'"]
