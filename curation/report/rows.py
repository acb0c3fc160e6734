"""Reads a published build a little at a time: slices of rows, places of row ids, counts of one column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from curation.errors import CurationError
from curation.feed.plan import Plan
from curation.io import remote
from curation.io.location import Location, RemotePath, local
from curation.io.manifest import Manifest
from curation.report.values import matches
from curation.types import ROW_ID, Positions


def scan(paths: Sequence[Location], format: str) -> pl.LazyFrame:
    """Lazy frame over files of one format, in the order given."""
    if any(isinstance(path, RemotePath) for path in paths):
        return _scan_store(paths, format)
    if format == "parquet":
        return pl.scan_parquet([str(path) for path in paths], glob=False)
    return pl.scan_ipc([str(path) for path in paths], glob=False)


def _scan_store(paths: Sequence[Location], format: str) -> pl.LazyFrame:
    """Lazy frame over files of a store, read by the client and with the credentials that all else is read with.

    Only the columns that are asked for travel, and no file after the last row that is.
    """

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for path in paths:
            for batch, _ in batches(path, format, columns, 0):
                found = _frame(batch.slice(0, left))
                left = None if left is None else left - found.height
                yield found if predicate is None else found.filter(predicate)
                if left == 0:
                    return

    with opened(paths[0]) as file:
        schema = pq.read_schema(file) if format == "parquet" else pa.ipc.open_file(file).schema
    empty = _frame(pa.RecordBatch.from_pylist([], schema))
    return register_io_source(read, schema=empty.schema, is_pure=True)


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"expected a table, got {type(frame).__name__}")
    return frame


def open_plan(path: Location) -> Plan:
    """Open the plan of a build; from a store, with its tables, by copies."""
    if isinstance(path, RemotePath):
        for name in path.parent.sizes():
            if name.startswith("plan-"):
                local(path.parent / name)
    return Plan.open(local(path))


@contextmanager
def opened(path: Location) -> Iterator[pa.NativeFile]:
    """Open a file for Arrow: mapped if it is local, else read in ranges."""
    if isinstance(path, Path):
        with pa.memory_map(str(path)) as source:
            yield source
    else:
        with remote.open_read(path.url) as file, pa.PythonFile(file, mode="r") as source:
            yield source


def batches(
    path: Location, format: str, columns: Sequence[str] | None, skip: int
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Record batches of a file from the one that holds row ``skip`` on, each with its first row; None: all columns."""
    offset = 0
    with opened(path) as source:
        if format == "parquet":
            file = pq.ParquetFile(source)
            names = file.schema_arrow.names if columns is None else list(columns)
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if offset + rows > skip:
                    at = offset
                    for batch in file.iter_batches(1024, columns=names, row_groups=[group]):
                        yield batch.select(names), at
                        at += batch.num_rows
                offset += rows
            return
        names = pa.ipc.open_file(source).schema.names if columns is None else list(columns)
        reader = arrow_reader(source, names)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if offset + batch.num_rows > skip:
                yield batch.select(names), offset
            offset += batch.num_rows


def arrow_reader(source: pa.NativeFile, names: Sequence[str]) -> pa.RecordBatchFileReader:
    """Open an Arrow file for some of its columns: from a store, only their bytes are asked for."""
    schema = pa.ipc.open_file(source).schema
    fields = sorted({schema.get_field_index(name) for name in names}) or [0]  # an empty list would mean all of them
    return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))


@dataclass(frozen=True)
class Place:
    """Where a row of a build stands.

    ``position`` counts over all shards, as ``build.table()`` and the feed plan do; ``row`` counts in the shard.
    """

    position: int
    shard: str
    row: int


class Rows:
    """The rows of a build, by position.

    Parameters
    ----------
    manifest
        Of the build.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._format = str(manifest.content["shard_format"])
        self._shards = manifest.shards
        self._starts = list(accumulate((shard.rows for shard in self._shards), initial=0))
        self.n_rows = self._starts[-1]

    @property
    def paths(self) -> list[Location]:
        """Shard files, in order."""
        return [_inside(self._manifest.root, shard.path) for shard in self._shards]

    def scan(self) -> pl.LazyFrame:
        """Lazy frame over all shards."""
        return scan(self.paths, self._format)

    def place(self, position: int) -> Place:
        """Shard and row of a position in [0, n_rows)."""
        at = int(np.searchsorted(self._starts, position, side="right")) - 1
        return Place(position, self._shards[at].path, position - self._starts[at])

    def at(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Rows [start, stop) of one shard, and no more than that shard has."""
        place = self.place(start)
        parts = []
        wanted = stop - start
        skip = place.row
        for batch in self._batches(_inside(self._manifest.root, place.shard), columns, skip):
            rows, offset = batch
            part = rows.slice(max(0, skip - offset), wanted)
            if part.num_rows:
                parts.append(part)
                wanted -= part.num_rows
                skip += part.num_rows
            if not wanted:
                break
        if not parts:
            return self.empty(columns)
        return pa.Table.from_batches(parts)

    def empty(self, columns: Sequence[str]) -> pa.Table:
        """Table of no rows."""
        return self._manifest.schema.empty_table().select(list(columns))

    def take(self, positions: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Rows at some positions, in the order given: for a few rows only."""
        parts = [self.at(position, position + 1, columns) for position in positions]
        return pa.concat_tables(parts) if parts else self.empty(columns)

    def spread(self, rows: int, columns: Sequence[str], *, blocks: int = 16) -> pa.Table:
        """About ``rows`` rows from places evenly spread over the build; all of them if there are no more."""
        if self.n_rows <= rows:
            edges = [(a, b) for a, b in zip(self._starts, self._starts[1:], strict=False) if b > a]
        else:
            size = max(1, rows // blocks)
            starts = [(self.n_rows - size) * i // max(1, blocks - 1) for i in range(blocks)]
            edges = [(start, start + size) for start in starts]
        parts = [self.at(start, stop, columns) for start, stop in edges]
        return pa.concat_tables(parts) if parts else self.empty(columns)

    def find(self, ids: Sequence[int], *, each: int = 100) -> dict[int, list[int]]:
        """Positions of row ids, at most ``each`` of one id; reads one column of all shards."""
        wanted = np.unique(np.array(list(ids), np.uint64))
        found: dict[int, list[int]] = {int(i): [] for i in wanted}
        for start, shard in zip(self._starts, self.paths, strict=False):
            for position, row_id in _matches(self._batches(shard, [ROW_ID], 0), wanted):
                places = found[row_id]
                if len(places) < each:
                    places.append(start + position)
        return found

    def ids_with(self, column: str, value: str) -> list[int]:
        """Row ids of all rows with a value, given as text, each once; reads two columns of all shards."""
        found: dict[int, None] = {}
        names = list(dict.fromkeys([column, ROW_ID]))
        for shard in self.paths:
            for batch, _ in self._batches(shard, names, 0):
                hits = np.flatnonzero(matches(batch.column(column), value))
                ids = batch.column(ROW_ID).to_numpy(zero_copy_only=False)
                found.update(dict.fromkeys(ids[hits].tolist()))
        return list(found)

    def _batches(self, path: Location, columns: Sequence[str], skip: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        return batches(path, self._format, columns, skip)


def _inside(root: Location, path: str) -> Location:
    """Path of a shard below the build directory; a manifest may come from anybody."""
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts:
        raise CurationError(f"{root}: names the shard {path!r}, which lies outside the build")
    return root / place


def _matches(batches: Iterator[tuple[pa.RecordBatch, int]], wanted: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    for batch, offset in batches:
        ids = batch.column(0).to_numpy(zero_copy_only=False).astype(np.uint64, copy=False)
        hits: Positions = np.flatnonzero(np.isin(ids, wanted))
        for row in hits.tolist():
            yield offset + row, int(ids[row])


def counts(frame: pl.LazyFrame, column: str, *flags: pl.Expr) -> pl.LazyFrame:
    """Rows by value of a column, as text, with the sum of each flag; memory grows with the values, not the rows."""
    found = frame.group_by(column).agg(pl.len().cast(pl.Int64).alias("rows"), *flags)
    as_text = found.with_columns(text_of(pl.col(column)).alias(column))
    return as_text.group_by(column).agg(pl.exclude(column).sum())  # a missing value and the text "null" are one here


def text_of(column: pl.Expr) -> pl.Expr:
    """Value as text; NULL as ``null``."""
    return column.cast(pl.String, strict=False).fill_null("null")
