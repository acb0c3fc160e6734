"""Parquet shards laid out for a trainer: large values lie bare in the file, and a sidecar says where each of them is.

Columns of a shard are of three kinds:

* *Bytes* (``binary``, ``large_binary``, ``binary_view``; not those of a fixed size, and not inside other columns):
  PLAIN, never compressed, whatever ``compression`` says, since pictures and latents are compressed already. One
  ``pread`` reads a value.
* *Long text* (``string``, ``large_string``, ``string_view`` whose values in this shard have ``LONG_TEXT`` bytes or more
  on average, NULLs apart): PLAIN and without statistics, too, but compressed as asked. Text does shrink, which
  serves whoever reads it through; whoever reads single texts asks for ``compression: none``, and has their places.
* All others: dictionary, statistics, compressed as asked.

Neither bytes nor long text have statistics: the smallest and the largest picture help nobody, and make large footers.
What is decided depends on the rows of the shard alone, so equal shards are equal files.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.io.parquet_pages import read_footer, value_places

PROFILE = 1
"""Version of the layout; shards of another are made anew."""

LONG_TEXT = 512
"""Mean length from which text counts as long [bytes]."""

GROUP_BYTES = 64 << 20
"""Row groups have between half of this and all of it, as far as rows allow [bytes of Arrow data]."""
GROUP_ROWS = 65_536
PAGE_BYTES = 1 << 20

SIDECAR = ".offsets.arrow"
"""Suffix of the sidecar in the place of ``.parquet``."""


def write_parquet(table: pa.Table, path: Path, *, compression: str) -> None:
    """Write a shard in the layout of this module; equal tables give equal bytes.

    Parameters
    ----------
    table
        Rows; every type that Parquet knows comes back as it was.
    path
        File to write.
    compression
        ``zstd``, ``snappy``, ``lz4`` or ``none``, of all but bytes.
    """
    whole = table.combine_chunks()
    varying = [field.name for field in table.schema if _is_bytes(field.type) or _is_text(field.type)]
    sizes = {name: _lengths(whole.column(name)) for name in varying}
    plain = [name for name, size in sizes.items() if _is_blob(whole.column(name), size)]
    bare = {field.name for field in table.schema if _is_bytes(field.type)}
    paths = _leaf_paths(table.schema)
    usual = [each for each in paths if each not in plain]
    writer = pq.ParquetWriter(
        path,
        table.schema,
        compression={each: "none" if each in bare else compression for each in paths},
        use_dictionary=usual,
        write_statistics=usual,
        column_encoding=dict.fromkeys(plain, "PLAIN"),
        data_page_version="1.0",
        data_page_size=PAGE_BYTES,
        write_batch_size=_batch_rows([sizes[name] for name in plain]),
        store_schema=True,
    )
    with writer:
        edges = group_edges(_row_bytes(whole, sizes))
        for start, stop in pairwise(edges):
            writer.write_table(whole.slice(start, stop - start), row_group_size=stop - start)


def has_offsets(shard: Path) -> bool:
    """Whether a shard has columns whose values lie bare in it, and so a sidecar."""
    return bool(read_footer(_mapped(shard)).bare())


def write_offsets(shard: Path, path: Path) -> None:
    """Write where the values of a shard's bare columns lie.

    The file is one Arrow record batch with a row for each row of the shard: ``<column>.offset`` (uint64, of the value's
    first byte in the shard) and ``<column>.length`` (uint32, 2^32-1 for NULL). Its schema's metadata hold under
    ``chunks`` (JSON), for each column, the stretch of each row group with its xxh3-64.

    Raises
    ------
    UnreadableError
        If the shard is damaged.
    """
    table = _places(_mapped(shard))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Bytes of a file; only those that are looked at are read."""
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def _places(data: NDArray[np.uint8]) -> pa.Table:
    footer = read_footer(data)
    columns: dict[str, pa.Array] = {}
    chunks = {}
    for name in footer.bare():
        places = value_places(data, footer, name)
        columns |= {f"{name}.offset": pa.array(places.offsets), f"{name}.length": pa.array(places.lengths)}
        chunks[name] = [asdict(chunk) for chunk in places.chunks]
    note = json.dumps(chunks, ensure_ascii=False, separators=(",", ":"))
    return pa.table(columns).replace_schema_metadata({"profile": str(PROFILE), "chunks": note})


def group_edges(row_bytes: NDArray[np.int64]) -> list[int]:
    """Cut rows into groups of up to ``GROUP_BYTES`` (give or take a row) and ``GROUP_ROWS``, about equal in bytes.

    Parameters
    ----------
    row_bytes : (n,)
        Bytes of each row, >= 0.

    Returns
    -------
    list
        Ascending first rows of the groups and n, so that no group is empty; ``[0]`` for no rows.
    """
    ends = np.cumsum(row_bytes)
    n, total = len(ends), int(ends[-1]) if len(ends) else 0
    parts = max(1, -(-total // GROUP_BYTES))
    targets = total * np.arange(1, parts) // parts
    cuts = [0, *(np.searchsorted(ends, targets, side="right")).tolist(), n]
    edges = [0]
    for start, stop in pairwise(cuts):
        pieces = max(1, -(-(stop - start) // GROUP_ROWS))
        edges += [start + (stop - start) * i // pieces for i in range(1, pieces + 1)]
    return sorted(set(edges))


def _row_bytes(table: pa.Table, sizes: dict[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Bytes of each row: of text and bytes its own, of other columns the mean."""
    n = max(table.num_rows, 1)
    others = sum(-(-table.column(name).nbytes // n) for name in table.column_names if name not in sizes)
    total = np.full(table.num_rows, others, np.int64)
    for lengths in sizes.values():
        total += lengths + 4
    return total


def _lengths(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Bytes of each value, 0 for NULL."""
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.large_binary())
    lengths: NDArray[np.int64] = pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
    return lengths


def _is_blob(column: pa.ChunkedArray, lengths: NDArray[np.int64]) -> bool:
    """Whether a column is bytes, or text of ``LONG_TEXT`` on average."""
    values = len(column) - column.null_count
    return _is_bytes(column.type) or (values > 0 and int(lengths.sum()) >= LONG_TEXT * values)


def _batch_rows(lengths: list[NDArray[np.int64]]) -> int:
    """Values that are written between two looks at the size of a page, which so is too large by an eighth at most."""
    longest = max((int(each.max()) for each in lengths if len(each)), default=0)
    return max(1, min(1024, PAGE_BYTES // 8 // (longest + 4)))


def _leaf_paths(schema: pa.Schema) -> list[str]:
    """Paths of the columns as Parquet stores them, nested ones by their leaves."""
    with pa.BufferOutputStream() as sink:
        pq.write_table(schema.empty_table(), sink)
        found = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [found.column(i).path for i in range(len(found))]


def _is_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())
