"""Lance data sets: fragments are pieces."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from curation.errors import CurationError
from curation.io.formats import UnreadableError
from curation.io.lance import LanceReader
from tests.flow.helpers import people


def written(folder, table, rows=10):
    lance = pytest.importorskip("lance")
    path = str(folder / "a.lance")
    lance.write_dataset(table, path, max_rows_per_file=rows, max_rows_per_group=rows)
    return path


def test_layout__tells_schema_and_rows_of_every_fragment(tmp_path):
    layout = LanceReader(written(tmp_path, people(25))).layout()
    assert layout.schema.equals(people(25).schema)
    assert [piece.rows for piece in layout.pieces] == [10, 10, 5]


@pytest.mark.parametrize("columns", [["x"], ["text", "id"]])
def test_read__gives_the_columns_in_the_order_asked(tmp_path, columns):
    reader = LanceReader(written(tmp_path, people(25)))
    for piece in (1, 0, 2):
        found = pa.concat_tables(reader.read(piece, columns))
        assert found.equals(people(25).select(columns).slice(10 * piece, 10))
    assert next(reader.read(2, [])).num_rows == 5


def test_read__leaves_deleted_rows_out(tmp_path):
    path = written(tmp_path, people(25))
    pytest.importorskip("lance").dataset(path).delete("id = 3")
    reader = LanceReader(path)
    assert reader.layout().pieces[0].rows == 9
    assert next(reader.read(0, ["id"])).column("id").to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_read__of_a_damaged_fragment_is_unreadable_and_others_are_kept(tmp_path):
    path = written(tmp_path, people(25))
    file = sorted((tmp_path / "a.lance" / "data").iterdir())[0]
    file.write_bytes(file.read_bytes()[:50])
    reader = LanceReader(path)
    good = []
    for piece in range(3):
        try:
            good.append(pa.concat_tables(reader.read(piece, ["text"])).num_rows)
        except UnreadableError as error:
            good.append(str(error))
    assert [each for each in good if isinstance(each, int)] in ([10, 5], [10, 10])
    assert [each for each in good if isinstance(each, str) and "Invalid range" in each]


def test_open__of_what_is_no_data_set_is_unreadable(tmp_path):
    pytest.importorskip("lance")
    with pytest.raises(UnreadableError, match="not a readable Lance data set"):
        LanceReader(str(tmp_path / "none.lance"))


def test_lance__is_asked_for_by_the_name_of_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(CurationError, match=r"pylance is not installed; install curation\[lance\]"):
        LanceReader("a.lance")
