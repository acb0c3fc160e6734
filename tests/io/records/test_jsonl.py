"""JSON lines: every good line is kept as Python's parser reads it, every bad one is named exactly."""

from __future__ import annotations

import datetime as dt
import io
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.io.formats import UnreadableError
from curation.io.records import base
from curation.io.records.base import Options, WidenError
from curation.io.records.jsonl import JSONL
from tests.io.records.helpers import got

GOOD = b'{"x": 1, "s": "a"}\n'


def lines(*objects):
    return "".join(json.dumps(each) + "\n" for each in objects).encode()


def typed(data, **options):
    return JSONL.sniff(io.BytesIO(data), Options(**options), name="a.jsonl")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON: Expecting value at character 0"),
        (b'{"x": 1', "not JSON: Expecting ',' delimiter at character 7"),
        (b'{"x": 1} {"x": 2}', "not JSON: more than one value in the line, the next at character 8"),
        (b"[1, 2]", "expected a JSON object, got [1, 2]"),
        (b'"text"', "expected a JSON object, got 'text'"),
        (b'{"s": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        (b'{"x": 1, "x": 2}', "key 'x' stands twice"),
        (b'{"x": "abc"}', "column 'x': 'abc' is no int64; declare it: types: {x: string}"),
        (b'{"s": 5}', "column 's': 5 is no string; declare it: types: {s: string}"),
        (b'{"s": {"y": 1}}', "column 's': {'y': 1} is no string; declare it: types: {s: string}"),
        (b'{"x": true}', "column 'x': True is no int64; declare it: types: {x: string}"),
        (b'{"f": NaN}', "column 'f': NaN is no JSON; write null"),
        (b'{"f": -Infinity}', "column 'f': -Infinity is no JSON; write null"),
        (
            b'{"f": 9007199254740993}',
            "column 'f': 9007199254740993 is not exact as float64; declare it: types: {f: string}",
        ),
        (b'{"f": 1e999}', "'1e999' is beyond float64"),
        (
            b'{"x": 9223372036854775808}',
            "column 'x': 9223372036854775808 is beyond int64; declare it: types: {x: string}",
        ),
        (b'{"s": "\\ud800"}', "not JSON: half of a surrogate pair"),
        (b'{"s": "\x01"}', "not JSON: Invalid control character at at character 7"),
        (b'{"x": 1}\x00', "not JSON: more than one value in the line, the next at character 8"),
        (b'{"x": ' + b"[" * 300 + b"]" * 300 + b"}", "nested more than 200 levels deep"),
        (b'{"l": ["a"]}', "column 'l[]': 'a' is no int64; declare it: types: {l: string}"),
    ],
)
def test_bad_line__is_named_and_its_neighbours_are_kept(line, reason):
    first = lines({"x": 1, "s": "a", "f": 0.5, "l": [1]})
    found = got("jsonl", first + GOOD * 200 + line + b"\n" + GOOD * 200)
    assert found.reasons == {201: reason}
    assert found.rows[1:] == [{"x": 1, "s": "a", "f": None, "l": None}] * 400
    assert (found.bad[0].offset, found.bad[0].raw) == (len(first) + 200 * len(GOOD), line + b"\n")


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b'\xef\xbb\xbf{"x": 1}\n', [1]),
        (b'{"x": 1}\r\n{"x": 2}\r\n', [1, 2]),
        (b'\n  \n{"x": 1}\n\t\n\n{"x": 2}', [1, 2]),
        (b'{"x": "2020-01-01T00:00:00"}\n', ["2020-01-01T00:00:00"]),
        (b'{"x": "\\ud83d\\ude00\\u0000"}\n', ["\U0001f600\0"]),
        (b'{"x": {}}\n', [{}]),
        (b'{"x": []}\n{"x": null}\n{}\n', [[], None, None]),
        (b'{"x": [[1], []]}\n', [[[1], []]]),
        (b'{"x": 1}\n{"x": 1.5}\n', [1.0, 1.5]),
        (b'{"x": 18446744073709551616}\n{"x": 1.5}\n', [2.0**64, 1.5]),
        (b'{"x": -9223372036854775808}\n', [-(2**63)]),
    ],
)
def test_read__gives_what_json_says(data, rows):
    found = got("jsonl", data)
    assert [None if row is None else row["x"] for row in found.all] == rows


@pytest.mark.parametrize("data", [b'{"x": 1} {"x": 2}\n{"x":\n3}\n', b'{"x": 1} {"x": 2}\n\n{"x": {}\n}\n'])
def test_read__two_objects_in_a_line_do_not_hide_one_in_two_lines(data):
    found = got("jsonl", b'{"x": 0}\n' + data + b'{"x": 4}\n')
    assert found.all[0], found.all[-1] == ({"x": 0}, {"x": 4})
    assert len(found.bad) == 3


@pytest.mark.parametrize(
    ("known", "late", "wider"),
    [
        ({"x": 1}, {"x": 1.5}, pa.float64()),
        ({"x": None}, {"x": "a"}, pa.string()),
        ({"x": None}, {"x": {"y": [1]}}, pa.struct([("y", pa.list_(pa.int64()))])),
        ({"x": []}, {"x": [True]}, pa.list_(pa.bool_())),
        ({"x": {"y": 1}}, {"x": {"z": "a"}}, pa.struct([("y", pa.int64()), ("z", pa.string())])),
        ({"x": [{"y": 1}]}, {"x": [{"y": 0.5}]}, pa.list_(pa.struct([("y", pa.float64())]))),
        ({}, {"x": None}, pa.null()),
        ({}, {"x": 1}, pa.int64()),
    ],
)
def test_read__asks_for_a_wider_schema_when_one_fits(known, late, wider):
    schema = typed(lines(known))
    with pytest.raises(WidenError, match="column 'x'") as asked:
        list(JSONL.read(io.BytesIO(lines(known, known, late)), schema, Options(), name="a.jsonl"))
    assert asked.value.schema.field("x").type == wider
    assert len(got("jsonl", lines(known, known, late), schema=schema).rows) == 3


def test_read__integers_that_a_wider_column_cannot_hold_become_bad():
    found = got("jsonl", lines({"x": 2**53 + 1}, {"x": 2**60}, {"x": 0.5}))
    assert found.all == [None, {"x": float(2**60)}, {"x": 0.5}]


def test_types__a_column_declared_as_text_takes_every_value_as_written():
    data = (
        b'{"x": 1.50}\n{"x": "a"}\n{"x": {"y": [1, null]}}\n{"x": true}\n{"x": null}\n{"x": 12345678901234567890123}\n'
    )
    found = got("jsonl", data, options=Options(types={"x": pa.string()}))
    assert [row["x"] for row in found.rows] == [
        "1.50", "a", '{"y": [1, null]}', "true", None, "12345678901234567890123"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(pa.int64(), '{"x": 1.5}'), (pa.int8(), '{"x": 300}'), (pa.timestamp("us"), '{"x": "soon"}')],
)
def test_types__declared_ones_are_never_widened(kind, bad):
    found = got("jsonl", bad.encode() + b'\n{"x": null}\n', options=Options(types={"x": kind}))
    assert found.schema.field("x").type == kind
    assert list(found.reasons) == [0]


def test_types__a_declared_float_takes_integers_that_are_not_exact():
    found = got("jsonl", lines({"x": 2**53 + 1}), options=Options(types={"x": pa.float64()}))
    assert found.rows == [{"x": 2.0**53}]


@pytest.mark.parametrize(("kind", "day"), [(pa.date32(), dt.date), (pa.timestamp("us"), dt.datetime)], ids=str)
def test_types__a_declared_date_is_iso_text(kind, day):
    data = lines(*({"d": each} for each in ("2024-02-29", None, "1969-12-31", 17, "2024-02-30", "x", "17", 1.5, True)))
    found = got("jsonl", data, options=Options(types={"d": kind}))
    assert found.schema.field("d").type == kind
    assert [row["d"] for row in found.rows] == [day(2024, 2, 29), None, day(1969, 12, 31)]
    assert list(found.reasons) == [3, 4, 5, 6, 7, 8]


def test_types__a_text_that_is_no_date_is_named():
    found = got("jsonl", lines({"d": "2024-02-30", "x": 1}), options=Options(types={"d": pa.date32()}))
    assert "'2024-02-30' as a scalar of type date32" in found.reasons[0]


def test_projection__columns_that_are_not_wanted_cannot_spoil_a_row():
    data = (
        lines({"x": 1, "y": 2})
        + b'{"x": 3, "y": "text", "z": NaN}\n{"x": 4, "y": 1, "y": 2}\nbad\n{"x": 5, "new": 1}\n'
    )
    found = got("jsonl", data, columns=["x"])
    assert found.all == [{"x": 1}, {"x": 3}, {"x": 4}, None, {"x": 5}]


@pytest.mark.parametrize(
    ("known", "late"),
    [({"y": 1}, {"z": 2}), ([{"y": 1}], [{"z": 2}]), ({"y": {}}, {"y": {"z": 2}}), ({"y": 1}, {"y": None, "z": None})],
)
def test_projection__keeps_new_fields_of_a_wanted_struct(known, late):
    data = lines({"x": known, "u": 1}, *({"u": i, "x": known} for i in range(200)), {"x": late, "u": "text"})
    schema = typed(lines({"x": known, "u": 1}))
    found = got("jsonl", data, schema=schema, columns=["x"])
    assert found.schema == got("jsonl", lines({"x": known}, {"x": late})).schema
    assert same(late, found.rows[-1]["x"])


def test_projection__columns_that_are_not_wanted_cannot_spoil_a_struct():
    data = lines({"x": {"y": 1}, "u": 1}, {"x": {"y": 2}, "u": "text"}, {"u": {"x": 1}, "x": None}, {"x": {"y": 0.5}})
    found = got("jsonl", data + b'{"x": {"y": 3}, "u": 1, "u": 2}\n', columns=["x"])
    assert [row["x"] and row["x"]["y"] for row in found.all] == [1.0, 2.0, None, 0.5, 3.0]


def test_projection__of_no_column_still_counts():
    found = got("jsonl", GOOD * 5 + b"bad\n", columns=[])
    assert (len(found.all), list(found.reasons)) == (6, [5])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'[{"x": 1}]\n', "expected a JSON object"),
        (b'[\n{"x": 1},\n{"x": 2}\n]\n', "not JSON"),
        (b'{\n"x": [\n{"y": 1}\n]}\n', "not JSON"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8"),
        (b"x,y\n1,2\n", "not JSON"),
    ],
)
def test_sniff__refuses_what_is_no_json_lines(text, why):
    with pytest.raises(UnreadableError, match=f"not lines of JSON objects: {why}"):
        typed(text)


def test_sniff__of_nothing_is_no_column():
    assert typed(b"").names == []
    assert got("jsonl", b"").all == []


def test_sniff__looks_at_the_first_bytes_only(monkeypatch):
    monkeypatch.setattr(base, "SNIFF_BYTES", 30)
    monkeypatch.setattr(base, "READ_BYTES", 30)
    data = lines(*({"x": 1} for _ in range(20)), {"x": 1.5})
    assert typed(data).field("x").type == pa.int64()
    assert got("jsonl", data).schema.field("x").type == pa.float64()


def test_bomb__a_line_that_never_ends_is_one_bad_record(monkeypatch):
    monkeypatch.setattr(base, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(base, "READ_BYTES", 100)
    data = GOOD * 3 + b'{"x": ' + b"1" * 5000 + b"\n" + GOOD * 3
    found = got("jsonl", data)
    assert found.all == [{"x": 1, "s": "a"}] * 3 + [None] + [{"x": 1, "s": "a"}] * 3
    assert (found.bad[0].offset, found.bad[0].length) == (3 * len(GOOD), 5007)
    assert "longer than 1000 bytes" in found.bad[0].reason


@pytest.mark.parametrize("step", [1, 7, 50, 10_000])
def test_ranges__cover_every_line_once(step):
    data = (
        b"\xef\xbb\xbf"
        + lines(*({"x": i, "t": "é" * (i % 9)} for i in range(60)))
        + b"bad\n\n"
        + lines({"x": 60, "t": ""})
    )
    whole = got("jsonl", data)
    parts = [got("jsonl", data, schema=whole.schema, start=at, stop=at + step) for at in range(0, len(data), step)]
    assert [row for part in parts for row in part.all] == whole.all
    assert [b.offset for part in parts for b in part.bad] == [b.offset for b in whole.bad]


def test_ranges__are_refused_for_compressed_files():
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz: expected start=0"):
        next(JSONL.read(io.BytesIO(b""), pa.schema([]), Options(), name="a.jsonl.gz", start=5))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-(2**63), 2**63 - 1),
        "f": st.floats(allow_nan=False, allow_infinity=False),
        "s": st.text(st.characters(codec="utf-8"), max_size=20),
        "b": st.booleans(),
        "l": st.lists(st.integers(0, 99) | st.none(), max_size=4),
        "o": st.fixed_dictionaries({"u": st.text(max_size=3).filter(str.isascii), "n": st.none() | st.integers(0, 9)}),
    },
)
BROKEN = st.sampled_from(
    [b"{", b"}", b"[]", b"1", b'{"i": "x"}', b'{"s": 1}', b'{"s": "\xc3"}', b'{"f": NaN}', b'{"i": 1, "i": 1}', b"{}{}",
     b'{"l": 1}', b"\x00"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS | BROKEN, max_size=40), st.sampled_from([1, 3, 64]), st.sampled_from([17, 200, 1 << 20]))
def test_read__keeps_exactly_the_good_lines(records, group, size):
    text = [each if isinstance(each, bytes) else json.dumps(each, ensure_ascii=False).encode() for each in records]
    seed = {"i": 1, "f": 0.5, "s": "", "b": True, "l": [1], "o": {"u": "", "n": 1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curation.io.records.jsonl.GROUP", group)
        patch.setattr(base, "READ_BYTES", size)
        found = got("jsonl", b"\n".join([json.dumps(seed).encode(), *text]))
    whole = [{**dict.fromkeys(seed), **each} if isinstance(each, dict) else None for each in records]
    assert found.all[1:] == whole


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3), max_size=12))
def test_read__of_any_objects_keeps_a_row_whole_or_names_it(objects):
    found = got("jsonl", lines(*objects))
    for row, value in zip(found.all, objects, strict=True):
        assert row is None or same(value, row)


def same(value, row):
    """Whether a row holds a value; what the value lacks is NULL in the row."""
    if isinstance(value, dict):
        return all(same(value.get(key), row[key]) for key in row) and value.keys() <= row.keys()
    if isinstance(value, list):
        return len(value) == len(row) and all(map(same, value, row))
    return value == row and isinstance(value, bool) == isinstance(row, bool)
