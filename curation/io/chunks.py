"""Canonical chunks: fixed row ranges of one file, the grain of all arithmetic and of all done-marks.

Files that can only be read front to back, and small files of which there are many, are read once into *parts* of the
work folder; a chunk is then a row range of a part, and its segments say which rows of which files these are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import BuildError
from curation.io.files import FileRef
from curation.io.formats import Layout, Reader, UnreadableError, open_file
from curation.keys import content_key
from curation.tables import take

CHUNK_ROWS = 65_536
CHUNK_BYTES = 64 << 20
"""A chunk holds at most ``CHUNK_ROWS`` rows and about ``CHUNK_BYTES`` of decoded data; both are part of the format:
changing them changes floating-point sums, and so the bytes of a build."""


@dataclass(frozen=True)
class Span:
    """Rows ``[start, stop)`` of one piece (row group, record batch) of a file."""

    piece: int
    start: int
    stop: int


@dataclass(frozen=True)
class Skip:
    """Rows ``[start, stop)`` of the file that are quarantined, and why; ``readable`` if they can be decoded.

    ``offset``, ``length`` and ``raw`` (base64) tell of the bytes of a bad record that was met while a part was made.
    """

    start: int
    stop: int
    reason: str
    readable: bool = False
    offset: int = -1
    length: int = 0
    raw: str | None = None


@dataclass(frozen=True)
class Segment:
    """Rows ``[at, at + rows)`` of a part: those of ``file`` from row ``first`` on. ``row_bits`` stand for the file."""

    file: FileRef
    at: int
    rows: int
    first: int
    row_bits: int


@dataclass(frozen=True)
class Chunk:
    """A row range of one file.

    ``start`` counts rows of the file; ``spans`` cover the range in order. ``skips`` are rows that are not to be read.
    ``bytes`` estimates the decoded size of all columns, ``piece_bytes`` that of the largest piece that it touches.
    ``row_bits`` stand for the file in row ids. Where ``file`` is a part, ``segments`` are the files that it is made of.
    """

    input: str
    file: FileRef
    start: int
    stop: int
    spans: tuple[Span, ...]
    bytes: int
    piece_bytes: int = 0
    row_bits: int = 0
    skips: tuple[Skip, ...] = field(default=())
    segments: tuple[Segment, ...] = field(default=())

    @cached_property
    def key(self) -> str:
        """Content key: the same file bytes, rows and place inside the input."""
        skips = [[skip.start, skip.stop] for skip in self.skips]
        place = [self.input, self.file.relative, self.row_bits]
        return content_key("chunk", place, self.file.key, self.start, self.stop, skips)

    @property
    def rows(self) -> int:
        """Rows of the range, those to skip included."""
        return self.stop - self.start

    @cached_property
    def files(self) -> tuple[FileRef, ...]:
        """Input files that the rows come from, in order."""
        return tuple(dict.fromkeys(each.file for each in self.segments)) or (self.file,)

    def origin(self, row: int) -> tuple[FileRef, int]:
        """Input file and row in it, of a row that is counted as ``start`` and ``stop`` are."""
        if not self.segments:
            return self.file, row
        at = bisect_right([segment.at for segment in self.segments], row) - 1
        segment = self.segments[max(0, at)]
        return segment.file, segment.first + row - segment.at

    def named(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Bits of the input file, and row in it, of each row."""
        if not self.segments:
            return np.full(len(rows), self.row_bits, np.uint64), rows
        starts = np.array([segment.at for segment in self.segments])
        which = np.searchsorted(starts, rows, side="right") - 1
        bits = np.array([segment.row_bits for segment in self.segments], np.uint64)[which]
        return bits, rows + np.array([segment.first - segment.at for segment in self.segments])[which]

    def by_file(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """How many of the rows each input file has, by its path inside the input; files without any are left out."""
        if not self.segments:
            return {self.file.relative: len(rows)} if len(rows) else {}
        starts = np.array([segment.at for segment in self.segments])
        counts = np.bincount(np.searchsorted(starts, rows, side="right") - 1, minlength=len(starts))
        found: dict[str, int] = {}
        for segment, count in zip(self.segments, counts.tolist(), strict=True):
            if count:
                found[segment.file.relative] = found.get(segment.file.relative, 0) + count
        return found

    def place(self, start: int | None = None, stop: int | None = None) -> str:
        """Text that leads a person to the rows."""
        begin, end = self.start if start is None else start, (self.stop if stop is None else stop) - 1
        (file, first), (other, last) = self.origin(begin), self.origin(end)
        if file != other:
            return f"input '{self.input}', {file.path}, row {first}, to {other.path}, row {last}"
        rows = f"row {first}" if first == last else f"rows {first} to {last}"
        return f"input '{self.input}', {file.path}, {rows}"

    def without(self, skips: Sequence[Skip]) -> Chunk:
        """Return the chunk with more rows to skip."""
        return replace(self, skips=tuple(sorted((*self.skips, *skips), key=lambda skip: skip.start)))


def cut(name: str, file: FileRef, layout: Layout, *, row_bits: int = 0) -> list[Chunk]:
    """Cut a file into canonical chunks: small pieces are packed, large ones split into equal parts."""
    total = sum(piece.rows for piece in layout.pieces)
    size = sum(piece.bytes for piece in layout.pieces)
    per_row = size / max(1, total)
    limit = int(max(1, min(CHUNK_ROWS, CHUNK_BYTES / max(per_row, 1e-9))))
    groups: list[list[Span]] = []
    held = limit + 1
    for index, piece in enumerate(layout.pieces):
        if piece.rows == 0:
            continue
        if piece.rows > limit:
            parts = -(-piece.rows // limit)
            edges = [piece.rows * i // parts for i in range(parts + 1)]
            groups += [[Span(index, a, b)] for a, b in pairwise(edges)]
            held = limit + 1
        elif held + piece.rows > limit:
            groups.append([Span(index, 0, piece.rows)])
            held = piece.rows
        else:
            groups[-1].append(Span(index, 0, piece.rows))
            held += piece.rows
    chunks, start = [], 0
    for spans in groups:
        rows = sum(span.stop - span.start for span in spans)
        largest = max(layout.pieces[span.piece].bytes for span in spans)
        chunks.append(Chunk(name, file, start, start + rows, tuple(spans), int(rows * per_row), largest, row_bits))
        start += rows
    return chunks


class ChunkReader:
    """Reads chunks one after the other, decoding each piece of a file once where they come in order."""

    def __init__(self) -> None:
        self._opened = ("", "")
        self._reader: Reader | None = None
        self._piece: tuple[int, tuple[str, ...]] | None = None
        self._tables: Iterator[pa.Table] = iter(())
        self._table: pa.Table | None = None
        self._at = 0  # row of the piece at which self._table begins

    def close(self) -> None:
        """Release the open file."""
        if self._reader is not None:
            self._reader.close()
        self.__init__()  # type: ignore[misc]

    def read(self, chunk: Chunk, columns: Sequence[str]) -> tuple[pa.Table, NDArray[np.int64]]:
        """Rows of a chunk that are not to be skipped, and their row numbers in the file.

        Without columns nothing is decoded, and the table has no rows either: Arrow tables count rows by columns.

        Raises
        ------
        BuildError
            If a piece cannot be decoded; the message names file and rows.
        """
        if not columns:
            return pa.table({}), _kept(chunk.start, chunk.stop, chunk.skips)
        tables, numbers, start = [], [], chunk.start
        for span in chunk.spans:
            stop = start + span.stop - span.start
            wanted = _kept(start, stop, chunk.skips)
            if wanted.size:
                try:
                    table = self._span(chunk.file, span, tuple(columns))
                except UnreadableError as error:
                    raise BuildError(
                        f"{chunk.place(start, stop)}: cannot be decoded: {error}; mend the file, or set "
                        "`on_bad_rows: quarantine` for this input to set such rows aside and count them"
                    ) from error
                tables.append(table if wanted.size == stop - start else take(table, wanted - start))
                numbers.append(wanted)
            start = stop
        if not tables:
            return self._empty(chunk.file, tuple(columns)), np.zeros(0, np.int64)
        return (tables[0] if len(tables) == 1 else pa.concat_tables(tables)), np.concatenate(numbers)

    def faults(self, chunk: Chunk, columns: Sequence[str]) -> list[Skip]:
        """Decode everything and list the rows that cannot be decoded."""
        found, start = [], chunk.start
        for span in chunk.spans:
            stop = start + span.stop - span.start
            try:
                self._span(chunk.file, span, tuple(columns))
            except UnreadableError as error:
                found.append(Skip(start, stop, f"cannot be decoded: {error}"))
            start = stop
        return found

    def _open(self, file: FileRef) -> Reader:
        # By content, too: a file that was replaced under the same name is another file.
        if self._reader is None or self._opened != (file.path, file.key):
            self.close()
            self._reader, self._opened = open_file(file), (file.path, file.key)
        return self._reader

    def _empty(self, file: FileRef, columns: tuple[str, ...]) -> pa.Table:
        schema = self._open(file).schema
        here = [schema.field(name) if name in schema.names else pa.field(name, pa.null()) for name in columns]
        return pa.schema(here, metadata=schema.metadata).empty_table()

    def _span(self, file: FileRef, span: Span, columns: tuple[str, ...]) -> pa.Table:
        reader = self._open(file)
        here = tuple(column for column in columns if column in reader.schema.names)
        if here != columns:
            found = self._span(file, span, here) if here else pa.table({})
            return _with_nulls(found, columns, span.stop - span.start)
        if self._piece != (span.piece, columns) or self._at > span.start:
            self._piece, self._tables, self._table, self._at = None, reader.read(span.piece, columns), None, 0
            self._table = next(self._tables, None)
            self._piece = (span.piece, columns)
        parts = []
        try:
            while self._table is not None and self._at < span.stop:
                first = max(0, span.start - self._at)
                last = min(self._table.num_rows, span.stop - self._at)
                if last > first:
                    parts.append(self._table.slice(first, last - first))
                if self._at + self._table.num_rows > span.stop:
                    break
                self._at += self._table.num_rows
                self._table = next(self._tables, None)
        except UnreadableError:
            self._piece = None
            raise
        rows = sum(part.num_rows for part in parts)
        if rows != span.stop - span.start:
            raise UnreadableError(f"{span.stop - span.start} rows announced, {rows} found")
        return parts[0] if len(parts) == 1 else pa.concat_tables(parts)


def _with_nulls(table: pa.Table, columns: tuple[str, ...], rows: int) -> pa.Table:
    """Add the columns that a file lacks, all NULL."""
    here = set(table.column_names)
    return pa.table({name: table.column(name) if name in here else pa.nulls(rows) for name in columns})


def _kept(start: int, stop: int, skips: tuple[Skip, ...]) -> NDArray[np.int64]:
    kept = np.ones(stop - start, bool)
    for skip in skips:
        kept[max(0, skip.start - start) : max(0, skip.stop - start)] = False
    return np.flatnonzero(kept) + start
