"""Parquet and Arrow files: their layout from metadata, their rows by piece, and faults told apart from bugs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.io import parquet
from curation.io.files import file_ref
from curation.io.formats import UnreadableError, open_file
from tests.flow.helpers import people

KINDS = ["parquet", "arrow"]


def written(folder, kind, table, rows=10, **options):
    path = folder / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=rows, **options)
    else:
        with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table, max_chunksize=rows)
    return path


def opened(path):
    return open_file(file_ref(path, path.name))


@pytest.mark.parametrize("kind", KINDS)
def test_layout__tells_schema_and_rows_of_every_piece(tmp_path, kind):
    table = people(25)
    layout = opened(written(tmp_path, kind, table)).layout()
    assert layout.schema.equals(table.schema)
    assert [piece.rows for piece in layout.pieces] == [10, 10, 5]
    assert all(piece.bytes > 0 for piece in layout.pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_layout__of_a_file_without_rows_has_its_schema(tmp_path, kind):
    layout = opened(written(tmp_path, kind, people(0))).layout()
    assert layout.schema.equals(people(0).schema)
    assert sum(piece.rows for piece in layout.pieces) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [["x"], ["text", "id"], ["id", "lang", "text", "score", "weight", "x"]])
def test_read__gives_the_columns_in_the_order_asked(tmp_path, kind, columns):
    table = people(25)
    found = pa.concat_tables(opened(written(tmp_path, kind, table)).read(1, columns))
    assert found.equals(table.select(columns).slice(10, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_read__of_one_piece_after_another_in_any_order(tmp_path, kind):
    reader = opened(written(tmp_path, kind, people(25)))
    for piece, columns in [(2, ["id"]), (0, ["id", "x"]), (0, ["id"]), (1, ["x", "id"])]:
        found = pa.concat_tables(reader.read(piece, columns))
        assert found.column("id").to_pylist() == list(range(25))[10 * piece :][:10]
    reader.close()


def test_arrow__compressed_batches_are_read(tmp_path):
    table = people(25)
    reader = opened(written(tmp_path, "arrow", table, compression="zstd"))
    assert [piece.rows for piece in reader.layout().pieces] == [10, 10, 5]
    assert pa.concat_tables(reader.read(2, table.column_names)).equals(table.slice(20))


def test_parquet__a_large_row_group_comes_in_bounded_tables(tmp_path, monkeypatch):
    table = people(1000)
    reader = opened(written(tmp_path, "parquet", table, rows=1000))
    monkeypatch.setattr(parquet, "STREAM_BYTES", 1000)
    parts = list(reader.read(0, ["id", "text"]))
    assert max(part.num_rows for part in parts) < 1000
    assert pa.concat_tables(parts).equals(table.select(["id", "text"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [0, 3, 100, -1, -9])
def test_open__of_a_file_cut_short_is_unreadable(tmp_path, kind, cut):
    path = written(tmp_path, kind, people(25))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UnreadableError, match=r"not a readable (Parquet file|Arrow IPC file or stream): "):
        opened(path)


@pytest.mark.parametrize("kind", KINDS)
def test_open__of_a_file_of_the_other_format_is_unreadable(tmp_path, kind):
    other = written(tmp_path, "arrow" if kind == "parquet" else "parquet", people(25))
    with pytest.raises(UnreadableError, match="not a readable"):
        open_file(file_ref(other, other.name, kind))


def test_arrow__a_batch_with_broken_offsets_is_unreadable(tmp_path):
    table = people(25)
    path = written(tmp_path, "arrow", table.select(["text"]))
    offsets = table.slice(0, 10).combine_chunks().column("text").chunk(0).buffers()[1].to_pybytes()[:44]
    raw = path.read_bytes()
    path.write_bytes(raw.replace(offsets[:40], b"\xff" * 40, 1))
    assert path.read_bytes() != raw
    with pytest.raises(UnreadableError, match=r"Invalid|offset|negative|Offset"):
        list(opened(path).read(0, ["text"]))


def test_raw_range__holds_the_columns_of_a_row_group(tmp_path):
    path = written(tmp_path, "parquet", people(25), compression="none", use_dictionary=False)
    offset, length = opened(path).raw_range(1)
    raw = path.read_bytes()[offset : offset + length]
    assert "row 12 é".encode() in raw
    assert "row 2 é".encode() not in raw
    assert "row 22 é".encode() not in raw


def test_raw_range__of_arrow_is_the_whole_file(tmp_path):
    path = written(tmp_path, "arrow", people(25))
    assert opened(path).raw_range(1) == (0, path.stat().st_size)
