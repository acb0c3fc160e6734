"""Delimited text: records as the standard library reads them, and a stray quote that costs one line."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.io.formats import UnreadableError
from curation.io.records import base, csv_scan
from curation.io.records.base import Options, WidenError
from curation.io.records.csv import CSV
from tests.io.records.helpers import got

DECLARE = "; declare it: types: {{{}: string}}"
GOOD = b"1,a\n"


def typed(data, **options):
    return CSV.sniff(io.BytesIO(data), Options(**options), name="a.csv")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"1", "expected 2 fields, got 1"),
        (b"1,a,b", "expected 2 fields, got 3"),
        (b'1,"a,b",c', "expected 2 fields, got 3"),
        (b"x,a", "column 'n': 'x' is no int64" + DECLARE.format("n")),
        (b"007,a", "column 'n': '007' has spaces or leading zeros, which a number loses" + DECLARE.format("n")),
        (b" 7,a", "column 'n': ' 7' has spaces or leading zeros, which a number loses" + DECLARE.format("n")),
        (b"0x1F,a", "column 'n': '0x1F' has spaces or leading zeros, which a number loses" + DECLARE.format("n")),
        (b"9223372036854775808,a", "column 'n': '9223372036854775808' is no int64" + DECLARE.format("n")),
        (b"1,\xff", "not UTF-8: byte 2 is 0xff"),
        (b"1,a\x00b", "a NUL byte"),
        (b'1,"a"b', "a quote that is neither doubled nor the end of its field"),
        (b'1,"a', "a quote that is neither doubled nor the end of its field"),
        (b"1,a\rb", "a carriage return outside of quotes"),
    ],
)
def test_bad_record__is_named_and_its_neighbours_are_kept(record, reason):
    head, after = b"n,s\n" + GOOD * 100, b'2,"b"\n' * 50
    found = got("csv", head + record + b"\n" + after, schema=typed(head))
    assert found.reasons == {100: reason}
    assert found.rows == [{"n": 1, "s": "a"}] * 100 + [{"n": 2, "s": "b"}] * 50
    assert (found.bad[0].offset, found.bad[0].raw) == (len(head), record + b"\n")


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "-5", ""], pa.int64(), [1, -5, None]),
        (["1", "2.5"], pa.float64(), [1.0, 2.5]),
        (["9007199254740993", "2.5"], pa.string(), ["9007199254740993", "2.5"]),
        (["9223372036854775808"], pa.float64(), [2.0**63]),
        (["007"], pa.string(), ["007"]),
        (["true", "False"], pa.bool_(), [True, False]),
        (["1", "true"], pa.string(), ["1", "true"]),
        (["2024-02-29"], pa.date32(), [date(2024, 2, 29)]),
        (["2023-02-29"], pa.string(), ["2023-02-29"]),
        (["2024-01-02T03:04:05"], pa.timestamp("us"), [datetime(2024, 1, 2, 3, 4, 5)]),
        (["2024-01-02 03:04"], pa.timestamp("us"), [datetime(2024, 1, 2, 3, 4)]),
        (["2024-01-02T03:04:05Z"], pa.timestamp("us", "UTC"), [datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)]),
        (["2024-01-02", "2024-01-02T03:04:05"], pa.string(), ["2024-01-02", "2024-01-02T03:04:05"]),
        (["", ""], pa.null(), [None, None]),
    ],
)  # fmt: skip
def test_types__are_what_all_texts_are(texts, kind, values):
    found = got("csv", b"k,x\n" + b"".join(f"k,{each}\n".encode() for each in texts))
    assert found.schema.field("x").type == kind
    assert [row["x"] for row in found.rows] == values


@pytest.mark.parametrize(
    ("first", "late", "kind"),
    [("1", "2.5", pa.float64()), ("", "a", pa.string()), ("", "7", pa.int64()), ("", "2024-01-01", pa.date32())],
)
def test_read__asks_for_a_wider_schema_when_one_fits(first, late, kind):
    head = f"k,x\nk,{first}\n".encode()
    data = head + f"k,{first}\nk,{late}\n".encode()
    with pytest.raises(WidenError, match="column 'x'") as asked:
        list(CSV.read(io.BytesIO(data), typed(head), Options(), name="a.csv"))
    assert asked.value.schema.field("x").type == kind
    assert len(got("csv", data, schema=typed(head)).rows) == 3


def test_read__a_long_integer_among_floats_is_bad_if_it_would_be_rounded():
    schema = pa.schema([("x", pa.float64()), ("k", pa.string())])
    found = got("csv", b"x,k\n9007199254740993,a\n9007199254740992,a\n", schema=schema)
    assert found.all == [None, {"x": 2.0**53, "k": "a"}]
    assert found.reasons[0].startswith("column 'x': '9007199254740993' is not exact as float64")


def test_types__declared_ones_are_never_widened():
    found = got("csv", b"x,y\n1,007\n2.5,a\n", options=Options(types={"x": pa.int64(), "y": pa.string()}))
    assert found.all == [{"x": 1, "y": "007"}, None]
    assert found.reasons == {1: "column 'x': '2.5' is no int64"}


def test_types__that_cannot_be_are_refused():
    with pytest.raises(UnreadableError, match=r"types: .*list"):
        got("csv", b"x,y\n1,2\n", options=Options(types={"x": pa.list_(pa.int64())}))


def test_nulls__are_the_texts_that_the_options_name():
    found = got("csv", b"x,y\n1,NA\nNA,\n", options=Options(nulls=("NA",)))
    assert found.rows == [{"x": 1, "y": None}, {"x": None, "y": ""}]


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", None), ("a.csv", "\t"), ("a.txt", "\t")])
def test_delimiter__is_a_tab_for_tsv_or_what_is_said(name, delimiter):
    assert got("csv", b"x\ty\n1\ta,b\n", name=name, options=Options(delimiter)).rows == [{"x": 1, "y": "a,b"}]


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "é", "\n"])
def test_delimiter__of_another_kind_is_refused(delimiter):
    with (
        pytest.raises(UnreadableError, match="delimiter: expected one ASCII character")
        if delimiter
        else pytest.raises(UnreadableError, match="column 1 has no name")
    ):
        typed(b",b\n1,2\n", delimiter=delimiter)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (b"a,b,a\n1,2,3\n", "two columns have the name 'a'"),
        (b"a,,b\n1,2,3\n", "column 2 has no name"),
        (b"a,\xff\n1,2\n", "not UTF-8"),
        (b"a\x00,b\n1,2\n", "a NUL byte"),
        (b'a,"b\n1,2\n', "a quote that is not closed"),
    ],
)
def test_header__that_cannot_be_used_is_refused(head, why):
    with pytest.raises(UnreadableError, match=why):
        typed(head)


def test_header__may_begin_with_a_mark_of_byte_order_and_hold_quotes():
    assert got("csv", b'\xef\xbb\xbf"a ""b""","c\nd"\r\n1,2\r\n').rows == [{'a "b"': 1, "c\nd": 2}]


def test_projection__columns_that_are_not_wanted_cannot_spoil_a_row():
    found = got("csv", b"x,y,z\n1,1,1\n2,a,2.5\n3,1\n", columns=["z", "x"])
    assert found.all == [{"z": 1.0, "x": 1}, {"z": 2.5, "x": 2}, None]


def test_projection__of_no_column_still_counts():
    found = got("csv", b"x,y\n1,1\n2\n\n3,3\n", columns=[])
    assert (len(found.all), list(found.reasons)) == (3, [1])


def test_drift__a_column_that_the_header_lacks_is_null():
    found = got("csv", b"x,z\n1,2\nbad\n", schema=typed(b"y,x,z\na,1,2\n"))
    assert found.all == [{"y": None, "x": 1, "z": 2}, None]


def test_drift__a_new_column_widens():
    assert got("csv", b"x,y\n1,2.5\n", schema=typed(b"x\n1\n")).rows == [{"x": 1, "y": 2.5}]


def test_stray_quote__costs_its_own_line(monkeypatch):
    monkeypatch.setattr(csv_scan, "OPEN_LINES", 20)
    found = got("csv", b"n,s\n" + GOOD * 10 + b'2,"open\n' + GOOD * 100)
    assert found.reasons == {10: "a quote that is not closed"}
    assert found.rows == [{"n": 1, "s": "a"}] * 110


def test_stray_quote__at_the_end_of_the_file_costs_its_own_line():
    found = got("csv", b"n,s\n" + GOOD * 10 + b'2,"open\n' + GOOD * 100)
    assert found.reasons == {10: "a quote that is not closed"}
    assert len(found.rows) == 110


def test_bomb__a_record_that_never_ends_is_one_bad_record(monkeypatch):
    monkeypatch.setattr(base, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(base, "READ_BYTES", 100)
    found = got("csv", b"n,s\n" + GOOD * 3 + b"1," + b"x" * 5000 + b"\n" + GOOD * 3)
    assert found.all == [{"n": 1, "s": "a"}] * 3 + [None] + [{"n": 1, "s": "a"}] * 3
    assert (found.bad[0].offset, found.bad[0].length) == (4 + 3 * len(GOOD), 5003)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.text('",\n a', max_size=6)
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=30)


def written(row, quoting, end):
    out = io.StringIO()
    if "\r" in "".join(row):
        quoting = csv.QUOTE_ALL  # older versions of the library leave it bare
    csv.writer(out, quoting=quoting, lineterminator=end).writerow(row)
    return out.getvalue().encode()


@settings(max_examples=80, deadline=None)
@given(
    ROWS,
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([11, 90, 10_000]),
)
def test_read__gives_the_texts_that_were_written(rows, quoting, end, size):
    schema = pa.schema([(name, pa.string()) for name in "abc"])
    data = b"a,b,c" + end.encode() + b"".join(written(row, quoting, end) for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "READ_BYTES", size)
        found = got("csv", data, schema=schema, options=Options(nulls=(), types=dict.fromkeys("abc", pa.string())))
    assert [tuple(row.values()) for row in found.all] == rows


BROKEN = st.sampled_from([b"1,2\n", b"1,2,3,4\n", b'a,"b"c,d\n', b"a,\xff,c\n", b"a,b\0,c\n", b"a,b\rx,c\n", b"\n"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT) | BROKEN, max_size=30), st.sampled_from([11, 90, 10_000]))
def test_read__keeps_exactly_the_good_records(records, size):
    schema = pa.schema([(name, pa.string()) for name in "abc"])
    data = b"a,b,c\n" + b"".join(
        each if isinstance(each, bytes) else written(each, csv.QUOTE_ALL, "\n") for each in records
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "READ_BYTES", size)
        found = got("csv", data, schema=schema, options=Options(nulls=()))
    whole = [None if isinstance(each, bytes) else each for each in records if each != b"\n"]
    assert [row and tuple(row.values()) for row in found.all] == whole
