"""The formats of exports: how a table of rows becomes a file, and what must lie beside the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.export.options import ExportError, ExportOptions
from curation.export.rows import all_batches
from curation.io.manifest import Manifest
from curation.io.mds import INDEX, Encoding, encodings, mds_index, write_mds
from curation.io.parquet_profile import write_parquet
from curation.io.plain import is_varying_list
from curation.io.samples import Members, write_samples

MARKS = ("_epoch", "_step")
"""Columns that say where in a plan a row was drawn."""


class Writer(Protocol):
    """One format."""

    def name(self, number: int) -> str:
        """File of a shard."""
        ...

    def write(self, table: pa.Table, path: Path, *, first: int) -> None:
        """Write a shard, ``first`` rows behind the start of the export."""
        ...

    def index(self) -> tuple[str, str] | None:
        """Name and content of the file that the format wants beside its shards."""
        ...


class _Tables:
    """Parquet and Arrow files."""

    def __init__(self, suffix: str, fill: Callable[[pa.Table, Path], None]) -> None:
        self._suffix, self._fill = suffix, fill

    def name(self, number: int) -> str:
        return f"part-{number:06d}.{self._suffix}"

    def write(self, table: pa.Table, path: Path, *, first: int) -> None:
        self._fill(table, path)

    def index(self) -> tuple[str, str] | None:
        return None


def _fill_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


class _Samples:
    """Tar files of samples."""

    def __init__(self, schema: pa.Schema) -> None:
        self._members = Members.of(schema)

    def name(self, number: int) -> str:
        return f"shard-{number:06d}.tar"

    def write(self, table: pa.Table, path: Path, *, first: int) -> None:
        write_samples(table, path, self._members, first=first)

    def index(self) -> tuple[str, str] | None:
        return None


class _Mds:
    """Shards of MosaicML Streaming with their index."""

    def __init__(self, columns: dict[str, Encoding]) -> None:
        self._columns = columns
        self._shards: list[dict[str, Any]] = []

    def name(self, number: int) -> str:
        return f"shard.{number:05d}.mds"

    def write(self, table: pa.Table, path: Path, *, first: int) -> None:
        self._shards.append(write_mds(table, path, self._columns))

    def index(self) -> tuple[str, str] | None:
        return INDEX, mds_index(self._shards)


def writer_of(manifest: Manifest, schema: pa.Schema, options: ExportOptions) -> Writer:
    """Writer of the format that is asked for, checked against the columns.

    Raises
    ------
    ExportError
        If a column does not fit the format.
    """
    marks = [pa.field(name, pa.int64()) for name in MARKS] if options.mark else []
    whole = pa.schema([*schema, *marks])
    with said(options.format):
        if options.format == "webdataset":
            return _Samples(whole)
        if options.format == "mds":
            return _Mds(encodings(whole, gaps=_gaps(manifest, schema)))
        if options.format == "parquet":
            _check_parquet(whole)
            return _Tables("parquet", partial(write_parquet, compression="zstd"))
        return _Tables("arrow", _fill_arrow)


@contextmanager
def said(form: str) -> Iterator[None]:
    """Say of a column that does not fit a format what to do about it."""
    try:
        yield
    except ValueError as error:
        raise ExportError(f"{form}: {error}; leave the column out, or change it in the recipe") from error


def _check_parquet(schema: pa.Schema) -> None:
    for each in schema:
        with pa.BufferOutputStream() as sink:
            try:
                pq.write_table(pa.schema([each]).empty_table(), sink, store_schema=True)
                back = pq.read_schema(pa.BufferReader(sink.getvalue()))
            except pa.ArrowException:
                back = None
        if back is None or not back.field(0).type.equals(each.type):
            raise ValueError(f"column {each.name!r} of type {each.type} does not survive Parquet")


def _gaps(manifest: Manifest, schema: pa.Schema) -> frozenset[str]:
    """Columns that hold a NULL, also inside of lists, or an empty list; by one pass over the rows."""
    found: set[str] = set()
    for batch in all_batches(manifest, schema.names):
        found |= {name for name in schema.names if name not in found and _has_gap(batch.column(name))}
    return frozenset(found)


def _has_gap(array: pa.Array) -> bool:
    if array.null_count:
        return True
    kind = array.type
    if is_varying_list(kind):
        return bool(len(array)) and (pc.min(pc.list_value_length(array)).as_py() == 0 or _has_gap(array.flatten()))
    return pa.types.is_fixed_size_list(kind) and _has_gap(array.flatten())
