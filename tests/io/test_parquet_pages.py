"""Places of values in Parquet files: those of other writers, too; damage is named and never a crash."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.io.formats import UnreadableError
from curation.io.parquet_pages import NULL_LENGTH, page_header, read_footer, value_places

PLAIN: dict[str, Any] = {"use_dictionary": False, "compression": "none"}
COLUMNS: dict[str, list[bytes | None]] = {
    "values": [b"", b"abc", b"x" * 300, "é".encode()],
    "with holes": [None, b"a", None, None, b"", b"b" * 9, None, b"c"] * 40,
    "one hole in many": [*[b"v"] * 500, None, *[b"w"] * 500],
    "only holes": [None] * 20,
    "no rows": [],
}


def by_arrow(values, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": range(len(values)), "v": pa.array(values, pa.binary())}), sink, **PLAIN | options)
    return sink.getvalue()


def by_polars(values):
    sink = io.BytesIO()
    frame = pl.DataFrame({"n": range(len(values)), "v": pl.Series(values, dtype=pl.Binary)})
    frame.write_parquet(sink, compression="uncompressed", row_group_size=400, data_page_size=512)
    return sink.getvalue()


def places(raw, column="v"):
    data = np.frombuffer(raw, np.uint8)
    return value_places(data, read_footer(data), column)


def read_back(raw, found):
    pairs = zip(found.offsets.tolist(), found.lengths.tolist(), strict=True)
    return [None if length == NULL_LENGTH else raw[offset : offset + length] for offset, length in pairs]


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("options", [{}, {"data_page_size": 64, "write_batch_size": 8}, {"row_group_size": 7}], ids=str)
def test_places__of_arrow_files_hold_the_values(values, options):
    raw = by_arrow(values, **options)
    assert read_back(raw, places(raw)) == values


@pytest.mark.parametrize("seed", range(3))
def test_places__of_polars_files_hold_the_values(seed):
    draw = np.random.default_rng(seed)
    values = [draw.bytes(int(size)) if size > 20 else None for size in draw.integers(0, 200, 800)]
    raw = by_polars(values)
    assert read_back(raw, places(raw)) == values


@given(st.lists(st.none() | st.binary(max_size=40), max_size=60), st.integers(1, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_places__of_any_column_hold_the_values(values, rows, nullable):
    values = values if nullable else [value or b"" for value in values]
    schema = pa.schema([pa.field("v", pa.binary(), nullable=nullable)])
    sink = io.BytesIO()
    small = {"row_group_size": rows, "data_page_size": 30, "write_batch_size": 4}
    pq.write_table(pa.table([values], schema), sink, **PLAIN, **small)
    assert read_back(sink.getvalue(), places(sink.getvalue())) == values


def test_chunks__have_the_hash_of_their_bytes():
    raw = by_arrow(COLUMNS["with holes"], row_group_size=100)
    found = places(raw).chunks
    assert [(chunk.row, chunk.rows) for chunk in found] == [(0, 100), (100, 100), (200, 100), (300, 20)]
    for chunk in found:
        assert chunk.xxh3 == xxhash.xxh3_64(raw[chunk.offset : chunk.offset + chunk.bytes]).hexdigest()


REFUSED = {
    "dictionary": ({"use_dictionary": True}, r"column 'v', row group 0: expected PLAIN values, got a dictionary"),
    "compressed": ({"compression": "zstd"}, r"expected uncompressed pages, got codec 6"),
    "page of version 2": ({"data_page_version": "2.0"}, r"expected a data page of version 1, got page type 3"),
    "other encoding": ({"column_encoding": {"v": "DELTA_BYTE_ARRAY"}}, r"expected PLAIN values with RLE levels, got 7"),
}


@pytest.mark.parametrize(("options", "text"), REFUSED.values(), ids=REFUSED)
def test_places__of_another_layout_are_refused(options, text):
    with pytest.raises(UnreadableError, match=text):
        places(by_arrow([b"a", b"b"] * 9, **options))


@pytest.mark.parametrize(
    ("kind", "value"), [(pa.list_(pa.binary()), [b"a"]), (pa.int64(), 1), (pa.struct({"x": pa.binary()}), {"x": b""})]
)
def test_places__of_another_type_are_refused(kind, value):
    sink = io.BytesIO()
    pq.write_table(pa.table({"v": pa.array([value], kind)}), sink, **PLAIN)
    with pytest.raises(UnreadableError, match="column 'v': expected text or bytes that are not nested"):
        places(sink.getvalue())


def test_places__of_an_unknown_column_are_refused():
    with pytest.raises(UnreadableError, match=r"column 'w': expected text or bytes .*, got none of this name"):
        places(by_arrow([b"a"]), "w")


@pytest.mark.parametrize("raw", [b"", b"PAR1", b"PAR1\x00\x00\x00PAR1", b"no parquet file at all"])
def test_footer__of_no_parquet_file_is_refused(raw):
    with pytest.raises(UnreadableError, match="no Parquet file, or cut short"):
        places(raw)


def test_footer__that_is_longer_than_the_file_is_refused():
    with pytest.raises(UnreadableError, match="the footer of 99 bytes does not fit into the file of 12 bytes"):
        places(b"PAR1" + b"c\x00\x00\x00" + b"PAR1")


def test_footer__knows_columns_that_are_not_nested():
    table = pa.table({"s": [{"a": b"1", "l": [1]}], "l": [[b"2"]], "v": [b"3"], "s.a": [b"4"]})
    sink = io.BytesIO()
    pq.write_table(table, sink, **PLAIN)
    raw = sink.getvalue()
    footer = read_footer(np.frombuffer(raw, np.uint8))
    assert {name: leaf.index for name, leaf in footer.leaves.items()} == {"v": 3, "s.a": 4}
    assert read_back(raw, places(raw, "s.a")) == [b"4"]


SMALL = {"row_group_size": 90, "data_page_size": 200, "write_batch_size": 8}
SOUND = by_arrow(COLUMNS["with holes"] + COLUMNS["values"], **SMALL)
FOOTER = len(SOUND) - 8 - int.from_bytes(SOUND[-8:-4], "little")


@given(st.lists(st.tuples(st.integers(0, FOOTER - 1), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_places__of_damaged_pages_are_refused_or_inside_the_file(changes):
    raw = bytearray(SOUND)
    for at, value in changes:
        raw[at] = value
    try:
        found = places(bytes(raw))
    except UnreadableError:
        return
    present = found.lengths != NULL_LENGTH
    assert (found.offsets[present] + found.lengths[present] <= FOOTER).all()


@given(st.lists(st.tuples(st.integers(FOOTER, len(SOUND) - 9), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_places__of_a_damaged_footer_are_refused_or_inside_the_file(changes):
    raw = bytearray(SOUND)
    for at, value in changes:
        raw[at] = value
    try:
        found = places(bytes(raw))
    except UnreadableError:
        return
    present = found.lengths != NULL_LENGTH
    assert (found.offsets[present] + found.lengths[present] <= len(raw)).all()


@given(st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_page_header__of_any_bytes_ends_with_a_header_or_a_named_error(raw):
    try:
        page = page_header(np.frombuffer(raw, np.uint8), 0, len(raw), "here")
    except UnreadableError:
        return
    assert 0 < page.start <= page.stop <= len(raw)


DAMAGED = {
    "cut short": (b"\x15", "here, page at byte 0: cut short"),
    "a number without end": (b"\x15" + b"\xff" * 12, "a number has no end"),
    "an unknown type": (b"\x1d\x00", "unknown type 13"),
    "structs without end": (b"\x1c" * 40, "nested too deep"),
    "lists without end": (b"\x19" + b"\x19" * 40, "nested too deep"),
    "a list longer than the file": (b"\x19\xf5\xff\xff\xff\x0f\x00", "here, page at byte 0: cut short"),
    "text longer than the file": (b"\x18\xff\x01ab", "here, page at byte 0: cut short"),
    "an index page": (b"\x15\x02\x00", "expected a data page of version 1, got page type 1"),
    "no sizes": (b"\x15\x00\x00", "the header lacks a field"),
}


@pytest.mark.parametrize(("raw", "text"), DAMAGED.values(), ids=DAMAGED)
def test_page_header__that_is_damaged_is_named(raw, text):
    with pytest.raises(UnreadableError, match=text):
        page_header(np.frombuffer(raw, np.uint8), 0, len(raw), "here")


def test_page_header__skips_what_it_does_not_need():
    # behind the known fields: a truth value, a double, a set of bytes, a map of numbers and text, an empty map
    fields = b"\x15\x00\x15\x04\x15\x04" + b"\x2c" + b"\x15\x02\x15\x00\x15\x06\x15\x06\x00"
    tail = b"\x51" + b"\x17" + b"8bytes.." + b"\x1a\x23ab" + b"\x1b\x01\x58\x0e\x01z" + b"\x1b\x00" + b"\x00"
    raw = fields + tail + b"\x00\x00"
    page = page_header(np.frombuffer(raw, np.uint8), 0, len(raw), "here")
    assert (page.values, page.stop - page.start) == (1, 2)
