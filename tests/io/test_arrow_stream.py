"""Arrow streams: read like files, and whole batches of a broken one are kept."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curation.io.files import file_ref
from curation.io.formats import UnreadableError, open_file
from tests.flow.helpers import people


def written(folder, table, rows=10, **options):
    path = folder / "a.arrow"
    with pa.ipc.new_stream(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def opened(path):
    return open_file(file_ref(path, path.name))


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
def test_stream__tells_schema_and_rows_of_every_batch(tmp_path, options):
    layout = opened(written(tmp_path, people(25), **options)).layout()
    assert layout.schema.equals(people(25).schema)
    assert [piece.rows for piece in layout.pieces] == [10, 10, 5]


@pytest.mark.parametrize("columns", [["x"], ["text", "id"], []])
def test_stream__is_read_in_any_order_of_pieces_and_columns(tmp_path, columns):
    table = people(25)
    reader = opened(written(tmp_path, table))
    for piece in (2, 0, 1, 1):
        found = next(reader.read(piece, columns))
        assert found.equals(table.select(columns).slice(10 * piece, 10)) or not columns
        assert found.num_rows == [10, 10, 5][piece]


def test_stream__with_dictionaries_that_grow(tmp_path):
    texts = pa.chunked_array([pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()])
    reader = opened(written(tmp_path, pa.table({"x": texts}), rows=2))
    assert [next(reader.read(i, ["x"])).column("x").to_pylist() for i in (1, 0)] == [["c", "a"], ["a", "b"]]


def test_stream__without_rows_has_its_schema(tmp_path):
    layout = opened(written(tmp_path, people(0))).layout()
    assert (layout.schema.equals(people(0).schema), sum(piece.rows for piece in layout.pieces)) == (True, 0)


@pytest.mark.parametrize("cut", [4, 12, 100, 1000, -300])
def test_stream__cut_short_keeps_whole_batches_and_names_the_rest(tmp_path, cut):
    table = people(2500)
    path = written(tmp_path, table, rows=1000)
    path.write_bytes(path.read_bytes()[: -cut if cut > 0 else cut])
    reader = opened(path)
    layout = reader.layout()
    assert f"cut short or damaged after {len(layout.pieces)} whole batches" in str(layout.broken)
    for piece in range(len(layout.pieces)):
        assert next(reader.read(piece, ["id"])).equals(table.select(["id"]).slice(1000 * piece, 1000))


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff\xff", b"text" * 100])
def test_stream__that_is_none_is_unreadable(tmp_path, content):
    path = tmp_path / "a.arrow"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="not a readable Arrow IPC file or stream"):
        opened(path)
