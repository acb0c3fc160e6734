"""Parquet files: a piece is a row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.io.formats import Layout, Piece, UnreadableError

STREAM_BYTES = 128 << 20
"""A row group above this size, or of more than twice ``BATCH_ROWS``, is decoded in batches rather than at once."""
BATCH_ROWS = 65_536


class ParquetReader:
    """An open Parquet file (see :class:`curation.io.formats.Reader`)."""

    def __init__(self, source: str | BinaryIO) -> None:
        try:
            self._source = pa.memory_map(source) if isinstance(source, str) else pa.PythonFile(source, "r")
            # Far away, few large requests beat many small ones.
            self._file = pq.ParquetFile(
                self._source, pre_buffer=not isinstance(source, str), page_checksum_verification=True
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(f"not a readable Parquet file: {one_line(error)}") from error

    @property
    def schema(self) -> pa.Schema:
        """Columns of the file."""
        return self._file.schema_arrow

    def layout(self) -> Layout:
        """Schema and row groups, from the footer."""
        metadata = self._file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        pieces = tuple(Piece(group.num_rows, group.total_byte_size) for group in groups)
        return Layout(self._file.schema_arrow, pieces)

    def read(self, piece: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Decode one row group; columns come in the order of ``columns``."""
        group = self._file.metadata.row_group(piece)
        names = list(columns)
        try:
            # The size is that of encoded pages: a repeated long text counts once there, so rows bound it, too.
            if group.total_byte_size <= STREAM_BYTES and group.num_rows <= 2 * BATCH_ROWS:
                yield _checked(self._file.read_row_group(piece, columns=names, use_threads=False).select(names))
            else:
                size = max(group.total_byte_size, 1)
                rows = max(1, min(BATCH_ROWS, group.num_rows * STREAM_BYTES // size // 2))
                for batch in self._file.iter_batches(
                    batch_size=rows, row_groups=[piece], columns=names, use_threads=False
                ):
                    yield _checked(pa.Table.from_batches([batch]).select(names))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnreadableError(one_line(error)) from error

    def raw_range(self, piece: int) -> tuple[int, int]:
        """Where the row group's column chunks lie in the file."""
        group = self._file.metadata.row_group(piece)
        columns = [group.column(i) for i in range(group.num_columns)]
        starts = [min(c.data_page_offset, c.dictionary_page_offset or c.data_page_offset) for c in columns]
        stops = [start + c.total_compressed_size for start, c in zip(starts, columns, strict=True)]
        return (min(starts), max(stops) - min(starts)) if columns else (0, 0)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._source.close()


def _checked(table: pa.Table) -> pa.Table:
    """Make sure that texts are UTF-8 and offsets ascend: Parquet's decoder does not."""
    table.validate(full=True)
    return table


def one_line(error: BaseException) -> str:
    """First line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
