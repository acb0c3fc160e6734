"""Encodings of columns in MDS, and the limits of the format."""

import datetime
import decimal
import json

import pyarrow as pa
import pytest

from curation.io import mds
from curation.io.mds import Encoding, encodings, mds_index, write_mds
from tests.export.project import read_mds


@pytest.mark.parametrize(
    ("kind", "gap", "encoding"),
    [
        (pa.binary(), False, Encoding("bytes")),
        (pa.binary(3), False, Encoding("bytes")),
        (pa.large_string(), False, Encoding("str")),
        (pa.string(), True, Encoding("json")),
        (pa.bool_(), False, Encoding("uint8", 1)),
        (pa.uint16(), False, Encoding("uint16", 2)),
        (pa.float32(), False, Encoding("float32", 4)),
        (pa.float32(), True, Encoding("json")),
        (pa.list_(pa.float16(), 6), False, Encoding("ndarray:float16:6", 12)),
        (pa.list_(pa.list_(pa.int64(), 3), 2), False, Encoding("ndarray:int64:2,3", 48)),
        (pa.list_(pa.int32()), False, Encoding("ndarray:int32")),
        (pa.list_(pa.int32()), True, Encoding("json")),
        (pa.list_(pa.list_(pa.int32(), 2)), False, Encoding("json")),
        (pa.list_(pa.string()), False, Encoding("json")),
        (pa.list_(pa.int32(), 0), False, Encoding("json")),
        (pa.timestamp("ns"), False, Encoding("json")),
    ],
)
def test_encoding__follows_type_and_gaps(kind, gap, encoding):
    gaps = frozenset({"a"} if gap else ())
    assert encodings(pa.schema([("a", kind)]), gaps=gaps) == {"a": encoding}


@pytest.mark.parametrize("length", [1, 255, 256, 70_000])
def test_lists__of_any_length_come_back(length, tmp_path):
    table = pa.table({"a": [list(range(length)), [7]]})
    shard = write_mds(table, tmp_path / "shard.00000.mds", encodings(table.schema, gaps=frozenset()))
    (tmp_path / "index.json").write_text(mds_index([shard]), "utf-8")
    assert [sample["a"] for sample in read_mds(tmp_path)] == table["a"].to_pylist()


def test_json__has_times_decimals_and_nothing_else_that_it_does_not_know(tmp_path):
    values = {
        "at": pa.array([1], pa.timestamp("ns", "UTC")),
        "day": [datetime.date(2026, 1, 2)],
        "long": [datetime.timedelta(seconds=90)],
        "cost": [decimal.Decimal("1.20")],
        "in": [{"day": datetime.date(2026, 1, 2)}],
    }
    table = pa.table(values)
    shard = write_mds(table, tmp_path / "shard.00000.mds", encodings(table.schema, gaps=frozenset()))
    (tmp_path / "index.json").write_text(mds_index([shard]), "utf-8")
    assert read_mds(tmp_path) == [
        {
            "at": "1970-01-01 00:00:00.000000001Z",
            "day": "2026-01-02",
            "long": 90.0,
            "cost": "1.20",
            "in": {"day": "2026-01-02"},
        }
    ]


def test_shard__larger_than_its_offsets_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mds, "MAX_BYTES", 1000)
    table = pa.table({"a": ["x" * 1000]})
    with pytest.raises(ValueError, match=r"a\.mds: [\d,]+ bytes, 1,000 fit; export fewer rows a shard"):
        write_mds(table, tmp_path / "a.mds", encodings(table.schema, gaps=frozenset()))
    assert not list(tmp_path.iterdir())


def test_index__is_sorted_json_of_version_2():
    assert json.loads(mds_index([])) == {"shards": [], "version": 2}
