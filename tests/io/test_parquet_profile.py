"""The layout of Parquet shards: bare bytes with places, small footers, bounded row groups, equal bytes."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from curation.io import parquet_profile
from curation.io.parquet_profile import group_edges, has_offsets, write_offsets, write_parquet


def pictures(rows=300, size=900, **more):
    draw = np.random.default_rng(0)
    blobs = [None if i % 7 == 3 else draw.bytes(int(draw.integers(1, 2 * size))) for i in range(rows)]
    words = [f"{i} " + "word " * 120 for i in range(rows)]
    return pa.table(
        {"id": range(rows), "image": pa.array(blobs, pa.binary()), "text": words, "lang": ["en", "fr"] * (rows // 2)}
        | more
    )


def written(folder, table, compression="zstd"):
    path = folder / "part.parquet"
    write_parquet(table, path, compression=compression)
    return path


def chunk(path, column, group=0):
    found = pq.read_metadata(path).row_group(group)
    return next(found.column(i) for i in range(found.num_columns) if found.column(i).path_in_schema == column)


@pytest.mark.parametrize(
    ("column", "compression", "dictionary", "statistics"),
    [
        ("image", "UNCOMPRESSED", False, False),
        ("text", "ZSTD", False, False),
        ("lang", "ZSTD", True, True),
        ("id", "ZSTD", True, True),
    ],
)
def test_write__each_kind_of_column_has_its_layout(tmp_path, column, compression, dictionary, statistics):
    found = chunk(written(tmp_path, pictures()), column)
    assert (found.compression, found.has_dictionary_page, found.is_stats_set) == (compression, dictionary, statistics)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.string(), pa.string_view()], ids=str
)
def test_write__gives_the_table_back(tmp_path, kind):
    values = pa.array([None, b"a", b"", b"c" * 3000] * 5, pa.binary()).cast(kind)
    table = pa.table({"v": values, "l": [[1, None]] * 20, "d": pa.array(["x"] * 20).dictionary_encode()})
    back = pq.read_table(written(tmp_path, table))
    assert back.schema.equals(table.schema)
    assert back.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("rows", [0, 1])
def test_write__few_rows_are_a_table_too(tmp_path, rows):
    table = pictures().slice(0, rows)
    assert pq.read_table(written(tmp_path, table)).equals(table)


def test_write__equal_tables_in_other_chunks_are_equal_files(tmp_path):
    table = pictures()
    whole = written(tmp_path, table).read_bytes()
    parts = pa.concat_tables([table.slice(0, 11), table.slice(11, 0), table.slice(11)])
    assert written(tmp_path, parts).read_bytes() == whole


@pytest.mark.parametrize(("length", "plain"), [(511, False), (512, True)])
def test_write__text_is_long_from_512_bytes_on_average(tmp_path, length, plain):
    texts = ["a" * (length - 10), None, "b" * (length + 10)] * 5
    assert chunk(written(tmp_path, pa.table({"v": texts})), "v").has_dictionary_page is not plain


def test_write__pages_of_long_values_stay_small(tmp_path):
    blobs = [bytes([i]) * 100_000 for i in range(60)]
    path = written(tmp_path, pa.table({"v": blobs}))
    sidecar = offsets(path)
    gaps = np.diff(sidecar.column("v.offset").to_numpy().astype(np.int64)) - 100_000
    assert (gaps > 4).sum() >= 5  # a page header lies between; 6 MB are at least six pages


def offsets(path):
    target = path.with_suffix(".offsets.arrow")
    write_offsets(path, target)
    with pa.memory_map(str(target)) as source:
        return pa.ipc.open_file(source).read_all()


def by_pread(path, sidecar, column):
    with path.open("rb") as file:
        at, size = (sidecar.column(f"{column}.{part}").to_pylist() for part in ("offset", "length"))
        places = zip(at, size, strict=True)
        return [None if length == 2**32 - 1 else os.pread(file.fileno(), length, offset) for offset, length in places]


@pytest.mark.parametrize("group_bytes", [64 << 20, 50_000])
def test_offsets__one_pread_gives_a_value(tmp_path, monkeypatch, group_bytes):
    monkeypatch.setattr(parquet_profile, "GROUP_BYTES", group_bytes)
    table = pictures(thumb=pa.array([b"t%d" % i for i in range(300)], pa.large_binary()))
    path = written(tmp_path, table)
    sidecar = offsets(path)
    assert sidecar.column_names == ["image.offset", "image.length", "thumb.offset", "thumb.length"]
    assert by_pread(path, sidecar, "image") == table.column("image").to_pylist()
    assert by_pread(path, sidecar, "thumb") == table.column("thumb").to_pylist()


def test_offsets__long_text_has_them_where_nothing_is_compressed(tmp_path):
    table = pictures()
    path = written(tmp_path, table, "none")
    found = by_pread(path, offsets(path), "text")
    assert [value.decode() for value in found] == table.column("text").to_pylist()


def test_offsets__name_each_chunk_with_its_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_profile, "GROUP_BYTES", 50_000)
    path = written(tmp_path, pictures())
    raw, sidecar = path.read_bytes(), offsets(path)
    chunks = json.loads(sidecar.schema.metadata[b"chunks"])["image"]
    assert sum(each["rows"] for each in chunks) == 300
    assert len(chunks) == pq.read_metadata(path).num_row_groups > 3
    for each in chunks:
        assert xxhash.xxh3_64(raw[each["offset"] :][: each["bytes"]]).hexdigest() == each["xxh3"]


@pytest.mark.parametrize(
    ("rows", "column", "expected"), [(300, "image", True), (300, "text", False), (0, "image", False)]
)
def test_offsets__are_there_where_rows_lie_bare(tmp_path, rows, column, expected):
    assert has_offsets(written(tmp_path, pictures().select(["id", column]).slice(0, rows))) is expected


def test_offsets__of_a_name_that_looks_like_a_path_are_its_own(tmp_path):
    table = pa.table({"a": pa.array([{"b": b"1"}], pa.struct({"b": pa.binary()})), "a.b": [b"2"], "c": [b"3"]})
    path = written(tmp_path, table)
    sidecar = offsets(path)
    assert (by_pread(path, sidecar, "a.b"), by_pread(path, sidecar, "c")) == ([b"2"], [b"3"])
    assert pq.read_table(path).equals(table)


@pytest.mark.parametrize("seed", range(3))
def test_groups__are_between_half_and_all_of_the_size(monkeypatch, seed):
    monkeypatch.setattr(parquet_profile, "GROUP_BYTES", 10_000)
    row_bytes = np.random.default_rng(seed).integers(0, 100, 5000) * np.repeat([1, 9], 2500)
    edges = group_edges(row_bytes)
    sizes = [int(row_bytes[a:b].sum()) for a, b in pairwise(edges)]
    assert (edges[0], edges[-1]) == (0, 5000)
    assert min(sizes) >= 5000 - 900
    assert max(sizes) <= 10_000 + 900


@pytest.mark.parametrize(
    ("rows", "size", "groups"), [(0, 1, 0), (1, 1, 1), (65_536, 1, 1), (65_537, 1, 2), (3, 1 << 30, 3), (200_000, 0, 4)]
)
def test_groups__of_few_large_and_many_small_rows(rows, size, groups):
    edges = group_edges(np.full(rows, size, np.int64))
    counts = np.diff(edges)
    assert len(counts) == groups
    assert counts.sum() == rows
    assert ((counts >= 1) & (counts <= 65_536)).all()
