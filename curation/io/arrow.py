"""Arrow IPC files and streams: a piece is a record batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from curation.io.formats import Layout, Piece, UnreadableError
from curation.io.parquet import one_line
from curation.widen import fit, roomy


class ArrowReader:
    """An open Arrow IPC file or stream, memory-mapped if it is local (see :class:`curation.io.formats.Reader`).

    A file has one dictionary of a column; a stream may bring another with every batch, and all together may have more
    values than a small index counts. So dictionaries of a stream have an index of 32 bits at least.
    Of a stream that is cut short or damaged the whole batches before that place are given; the layout says so.
    """

    def __init__(self, source: str | BinaryIO) -> None:
        self._columns: tuple[str, ...] | None = None
        try:
            self._source = pa.memory_map(source) if isinstance(source, str) else pa.PythonFile(source, "r")
            reader = _opened(self._source)
            self._schema = reader.schema
            if isinstance(reader, _Stream):
                kinds = [f.with_type(roomy(f.type)) for f in self._schema]
                self._schema = pa.schema(kinds, metadata=self._schema.metadata)
            # Counting rows should read little: one field (an empty list would mean all of them).
            self._bare = _opened(self._source, [_narrowest(self._schema)])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(f"not a readable Arrow IPC file or stream: {one_line(error)}") from error

    @property
    def schema(self) -> pa.Schema:
        """Columns of the file."""
        return self._schema

    def layout(self) -> Layout:
        """Schema and record batches, from the batch headers."""
        broken = None
        try:
            rows, broken = self._bare.rows() if isinstance(self._bare, _Stream) else (_rows(self._bare), None)
            self._rows = sum(rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(f"broken batch header: {one_line(error)}") from error
        per_row = self._row_bytes()
        return Layout(self._schema, tuple(Piece(n, int(n * per_row)) for n in rows), broken)

    def _row_bytes(self) -> float:
        """Decoded bytes of a row, by the first batch: compressed files are much larger in memory than on disk."""
        try:
            reader = _opened(self._source)
            first = next((b for b in map(reader.get_batch, itertools.count()) if b.num_rows), None)
        except (pa.ArrowException, OSError, ValueError, IndexError):
            first = None  # that batch is reported when it is read
        decoded = 0.0 if first is None else first.nbytes / first.num_rows
        return float(max(decoded, self._source.size() / max(1, self._rows)))

    def read(self, piece: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """One record batch, checked as far as Arrow can; columns come in the order of ``columns``."""
        names = tuple(columns)
        try:
            if self._columns != names:
                fields = [self._schema.get_field_index(name) for name in names] or [0]
                self._reader = _opened(self._source, fields)
                self._columns = names
            batch = self._reader.get_batch(piece)
            batch.validate(full=True)
            table = pa.Table.from_batches([batch])
            if names:
                table = fit(table, pa.schema(map(self._schema.field, names), metadata=self._schema.metadata))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(one_line(error)) from error
        yield table if names else _bare_rows(batch.num_rows)

    def raw_range(self, piece: int) -> tuple[int, int]:
        """Arrow does not tell where a batch lies; the whole file is named."""
        return 0, self._source.size()

    def close(self) -> None:
        """Release the file."""
        self._source.close()


MAGIC = b"ARROW1"


def _narrowest(schema: pa.Schema) -> int:
    """Field with the fewest bytes a row."""

    def bits(index: int) -> int:
        try:
            return int(schema.field(index).type.bit_width)
        except ValueError:  # of a size that differs from row to row
            return 1 << 30

    return min(range(len(schema)), key=bits, default=0)


def _opened(source: Any, fields: list[int] | None = None) -> Any:
    """Open a file by its footer, or a stream; both give batches by number. ``fields`` are those to be decoded."""
    options = pa.ipc.IpcReadOptions(included_fields=fields or [])
    source.seek(0)
    if source.read(len(MAGIC)) == MAGIC:
        return pa.ipc.open_file(source, options=options)
    return _Stream(source, options)


def _rows(reader: Any) -> list[int]:
    return [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]


class _Stream:
    """Batches of a stream by number; fast where they are asked for in order, since a stream has no footer.

    From a store a batch at a time is held; to start again is to fetch again what lies before.
    """

    def __init__(self, source: Any, options: Any) -> None:
        self._source, self._options = source, options
        self._restart()
        self.schema = self._reader.schema

    def _restart(self) -> None:
        self._source.seek(0)
        mapped = isinstance(self._source, pa.MemoryMappedFile)
        self._stream = pa.BufferReader(self._source.read_buffer()) if mapped else self._source
        self._reader = pa.ipc.open_stream(self._stream, options=self._options)
        self._next, self._at = 0, self._stream.tell()

    def rows(self) -> tuple[list[int], str | None]:
        """Rows of every whole batch, and what is wrong behind the last of them."""
        found: list[int] = []
        try:
            while True:
                found.append(self.get_batch(len(found)).num_rows)
        except IndexError:
            return found, None
        except (pa.ArrowException, OSError, ValueError) as error:
            return found, one_line(error)

    def get_batch(self, number: int) -> Any:
        """One batch; raises ``IndexError`` behind the last and Arrow's error where the stream is broken."""
        if number < self._next:
            self._restart()
        self._stream.seek(self._at)  # other readers of the file move its position
        try:
            while True:
                batch = self._reader.read_next_batch()
                self._next, self._at = self._next + 1, self._stream.tell()
                if self._next > number:
                    return batch
        except StopIteration:
            raise IndexError(number) from None
        except (pa.ArrowException, OSError) as error:
            whole = self._next
            self._restart()
            raise OSError(
                f"the stream is cut short or damaged after {whole} whole batches: {one_line(error)}"
            ) from error


def _bare_rows(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)}).select([])
