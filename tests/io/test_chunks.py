"""Chunks cover a file once and in order, whatever its layout, and give exactly its rows, whoever reads them how."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import BuildError
from curation.io import chunks as module
from curation.io import parquet
from curation.io.chunks import CHUNK_BYTES, CHUNK_ROWS, Chunk, ChunkReader, Skip, cut
from curation.io.files import FileRef, file_ref
from curation.io.formats import Layout, Piece, open_file

FILE = FileRef("/data/a.parquet", "a.parquet", "parquet", 1, "key")
SCHEMA = pa.schema([("n", pa.int64())])

PIECES = st.lists(
    st.tuples(st.integers(0, 5) | st.integers(0, 200_000) | st.just(CHUNK_ROWS), st.sampled_from([0, 1, 60, 5000])),
    max_size=30,
)


def layout_of(pieces):
    return Layout(SCHEMA, tuple(Piece(rows, rows * width) for rows, width in pieces))


@given(PIECES)
def test_cut__covers_every_row_once_and_in_order(pieces):
    covered = [
        (span.piece, span.start, span.stop) for chunk in cut("a", FILE, layout_of(pieces)) for span in chunk.spans
    ]
    at = iter(covered)
    for index, (rows, _) in enumerate(pieces):
        start = 0
        while start < rows:
            piece, first, stop = next(at)
            assert (piece, first) == (index, start)
            assert stop > first
            start = stop
        assert start == rows
    assert next(at, None) is None


@given(PIECES)
def test_cut__numbers_the_rows_of_the_file(pieces):
    chunks = cut("a", FILE, layout_of(pieces))
    edges = [0, *itertools.accumulate(sum(s.stop - s.start for s in chunk.spans) for chunk in chunks)]
    assert [(chunk.start, chunk.stop) for chunk in chunks] == list(itertools.pairwise(edges))
    assert edges[-1] == sum(rows for rows, _ in pieces)


@given(PIECES)
def test_cut__keeps_rows_and_bytes_within_limits(pieces):
    chunks = cut("a", FILE, layout_of(pieces))
    per_row = sum(rows * width for rows, width in pieces) / max(1, sum(rows for rows, _ in pieces))
    assert all(0 < chunk.rows <= CHUNK_ROWS for chunk in chunks)
    assert all(chunk.bytes <= max(CHUNK_BYTES, per_row) for chunk in chunks)


@given(PIECES)
def test_cut__wastes_no_chunk(pieces):
    """Two neighbouring chunks of small pieces would not fit into one."""
    layout = layout_of(pieces)
    size, total = sum(p.bytes for p in layout.pieces), sum(p.rows for p in layout.pieces)
    limit = max(1, min(CHUNK_ROWS, int(CHUNK_BYTES / max(size / max(1, total), 1e-9))))
    for a, b in itertools.pairwise(cut("a", FILE, layout)):
        first = layout.pieces[b.spans[0].piece]
        assert a.rows + first.rows > limit or layout.pieces[a.spans[0].piece].rows > limit


def test_cut__splits_a_large_piece_evenly():
    chunks = cut("a", FILE, layout_of([(CHUNK_ROWS * 2 + 2, 8)]))
    assert [chunk.rows for chunk in chunks] == [43_691, 43_691, 43_692]


def test_cut__splits_wide_rows_by_bytes():
    assert [chunk.rows for chunk in cut("a", FILE, layout_of([(1000, 1 << 20)]))] == [62, 63] * 7 + [62, 63]


def test_key__changes_with_file_rows_place_and_skips():
    chunk = cut("a", FILE, layout_of([(10, 8)]))[0]
    others = [
        replace(chunk, input="b"),
        replace(chunk, file=replace(FILE, key="other")),
        replace(chunk, file=replace(FILE, relative="b.parquet")),
        replace(chunk, stop=9),
        chunk.without([Skip(3, 4, "bad")]),
    ]
    assert len({chunk.key, *(each.key for each in others)}) == 6
    assert replace(chunk, file=replace(FILE, path="/moved/a.parquet")).key == chunk.key


def test_place__names_rows_of_the_file():
    chunk = Chunk("a", FILE, 5, 9, (), 1)
    assert chunk.place() == "input 'a', /data/a.parquet, rows 5 to 8"
    assert chunk.place(7, 8) == "input 'a', /data/a.parquet, row 7"


# Reading


def table_of(rows):
    n = np.arange(rows)
    texts = pa.array([None if i % 5 == 3 else f"é{i}" for i in n])
    lists = pa.array([None if i % 7 == 2 else list(range(i % 4)) for i in n], pa.list_(pa.int64()))
    return pa.table({"n": n, "t": texts.dictionary_encode() if rows else texts, "x": lists, "f": n / 3})


def written(folder, kind, table, groups):
    """A file with row groups (record batches) of the given sizes."""
    path = Path(folder) / f"a.{kind}"
    edges = [0, *itertools.accumulate(groups)]
    parts = [table.slice(a, b - a).combine_chunks() for a, b in itertools.pairwise(edges)]
    if kind == "parquet":
        with pq.ParquetWriter(path, table.schema) as writer:
            for part in parts:
                writer.write_table(part, row_group_size=max(1, part.num_rows))
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            for part in parts:
                for batch in part.to_batches():
                    writer.write_batch(batch)
    return file_ref(path, path.name)


def cut_up(file, limit):
    reader = open_file(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ROWS", limit)
        chunks = cut("a", file, reader.layout())
    reader.close()
    return chunks


GROUPS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@settings(deadline=None, max_examples=40)
@given(groups=GROUPS, limit=st.integers(1, 60), stream=st.booleans(), data=st.data())
def test_reading__gives_the_rows_of_the_file_in_any_order(kind, groups, limit, stream, data):
    table = table_of(sum(groups))
    columns = data.draw(st.lists(st.sampled_from(["n", "t", "x", "f"]), min_size=1, unique=True))
    skips = [
        Skip(a, a + n, "bad")
        for a, n in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=3))
    ]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if stream:  # row groups are decoded a few rows at a time
            patch.setattr(parquet, "STREAM_BYTES", 1)
            patch.setattr(parquet, "BATCH_ROWS", 6000)
        file = written(folder, kind, table, groups)
        chunks = [chunk.without(skips) for chunk in cut_up(file, limit)]
        order = data.draw(st.permutations(range(len(chunks))))
        reader = ChunkReader()
        for at in [*order, *order[:2]]:
            chunk = chunks[at]
            found, numbers = reader.read(chunk, columns)
            gone = {row for skip in skips for row in range(skip.start, skip.stop)}
            rows = [row for row in range(chunk.start, chunk.stop) if row not in gone]
            assert numbers.tolist() == rows
            assert found.equals(table.select(columns).take(pa.array(rows, pa.int64())).cast(found.schema))
        reader.close()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_reading__changes_between_files_and_columns(tmp_path, kind):
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        files.append(written(tmp_path / name, kind, table_of(30), [10, 20]))
    chunks = [cut_up(file, 7) for file in files]
    reader = ChunkReader()
    for i in range(len(chunks[0])):
        for which, columns in itertools.product((0, 1), (["n"], ["n", "f"], [])):
            chunk = chunks[which][i]
            found, numbers = reader.read(chunk, columns)
            assert numbers.tolist() == list(range(chunk.start, chunk.stop))
            assert found.column_names == columns
            assert not columns or found.column("n").to_pylist() == numbers.tolist()
    reader.close()


def test_reading__where_all_rows_are_skipped_keeps_the_columns(tmp_path):
    file = written(tmp_path, "parquet", table_of(10), [10])
    chunk = cut_up(file, 10)[0].without([Skip(0, 10, "bad")])
    found, numbers = ChunkReader().read(chunk, ["f", "n"])
    assert (found.column_names, found.num_rows, len(numbers)) == (["f", "n"], 0, 0)


def broken(tmp_path):
    """A file whose second row group cannot be decompressed."""
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(30), path, row_group_size=10, compression="zstd")
    column = pq.read_metadata(path).row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(raw)
    return cut_up(file_ref(path, path.name), 65_536)[0]


def test_reading__of_a_broken_row_group_names_its_rows(tmp_path):
    expected = r"input 'a', .*a\.parquet, rows 10 to 19: cannot be decoded: .*`on_bad_rows: quarantine`"
    with pytest.raises(BuildError, match=expected):
        ChunkReader().read(broken(tmp_path), ["n"])


def test_reading__goes_on_after_a_broken_row_group(tmp_path):
    chunk, reader = broken(tmp_path), ChunkReader()
    found = reader.faults(chunk, ["n", "t"])
    assert [(skip.start, skip.stop, skip.readable) for skip in found] == [(10, 20, False)]
    table, numbers = reader.read(chunk.without(found), ["n"])
    assert table.column("n").to_pylist() == numbers.tolist() == [*range(10), *range(20, 30)]


def test_reading__refuses_rows_that_are_announced_and_not_there(tmp_path):
    chunk = cut_up(written(tmp_path, "parquet", table_of(10), [10]), 10)[0]
    longer = replace(chunk, stop=12, spans=(replace(chunk.spans[0], stop=12),))
    with pytest.raises(BuildError, match="rows 0 to 11: cannot be decoded: 12 rows announced, 10 found"):
        ChunkReader().read(longer, ["n"])
