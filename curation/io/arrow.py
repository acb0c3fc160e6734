"""Arrow IPC files: a piece is a record batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from curation.io.formats import Layout, Piece, UnreadableError
from curation.io.parquet import one_line


class ArrowReader:
    """An open, memory-mapped Arrow IPC file (see :class:`curation.io.formats.Reader`)."""

    def __init__(self, path: str) -> None:
        self._columns: tuple[str, ...] | None = None
        try:
            self._source = pa.memory_map(path)
            # Counting rows should decompress little: one field is read (an empty list would mean all of them).
            self._bare = pa.ipc.open_file(self._source, options=pa.ipc.IpcReadOptions(included_fields=[0]))
            self._schema = pa.ipc.open_file(self._source).schema
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(f"not a readable Arrow IPC file: {one_line(error)}") from error

    @property
    def schema(self) -> pa.Schema:
        """Columns of the file."""
        return self._schema

    def layout(self) -> Layout:
        """Schema and record batches, from the batch headers."""
        try:
            rows = [self._bare.get_batch(i).num_rows for i in range(self._bare.num_record_batches)]
            self._rows = sum(rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(f"broken batch header: {one_line(error)}") from error
        per_row = self._row_bytes()
        return Layout(self._schema, tuple(Piece(n, int(n * per_row)) for n in rows))

    def _row_bytes(self) -> float:
        """Decoded bytes of a row, by the first batch: compressed files are much larger in memory than on disk."""
        try:
            reader = pa.ipc.open_file(self._source)
            first = next((b for b in map(reader.get_batch, range(reader.num_record_batches)) if b.num_rows), None)
        except (pa.ArrowException, OSError, ValueError):
            first = None  # that batch is reported when it is read
        decoded = 0.0 if first is None else first.nbytes / first.num_rows
        return float(max(decoded, self._source.size() / max(1, self._rows)))

    def read(self, piece: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """One record batch, checked as far as Arrow can; columns come in the order of ``columns``."""
        names = tuple(columns)
        try:
            if self._columns != names:
                fields = [self._schema.get_field_index(name) for name in names] or [0]
                self._reader = pa.ipc.open_file(self._source, options=pa.ipc.IpcReadOptions(included_fields=fields))
                self._columns = names
            batch = self._reader.get_batch(piece)
            batch.validate(full=True)
            table = pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(one_line(error)) from error
        yield table.select(list(names)) if names else _bare_rows(batch.num_rows)

    def raw_range(self, piece: int) -> tuple[int, int]:
        """Arrow does not tell where a batch lies; the whole file is named."""
        return 0, self._source.size()

    def close(self) -> None:
        """Release the file."""
        self._source.close()


def _bare_rows(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)}).select([])
