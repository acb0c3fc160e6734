"""Lance data sets: a piece is a fragment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.errors import CurationError
from curation.io.formats import Layout, Piece, UnreadableError
from curation.io.parquet import BATCH_ROWS, one_line

BATCH_BYTES = 32 << 20
PROBE_ROWS = 64
"""Rows by which the size of a row is told."""


class LanceReader:
    """An open Lance data set, at its latest version (see :class:`curation.io.formats.Reader`)."""

    def __init__(self, path: str) -> None:
        self._path = path
        lance = _lance()
        try:
            self._data = lance.dataset(path)
            self._schema: pa.Schema = self._data.schema
            self._fragments: list[Any] = list(self._data.get_fragments())
        except Exception as error:
            raise UnreadableError(f"not a readable Lance data set: {one_line(error)}") from error
        self._per_row = 0.0

    @property
    def schema(self) -> pa.Schema:
        """Columns of the data set."""
        return self._schema

    def layout(self) -> Layout:
        """Schema and fragments; rows that are marked as deleted do not count."""
        try:
            rows = [each.count_rows() for each in self._fragments]
        except Exception as error:
            raise UnreadableError(f"broken fragment: {one_line(error)}") from error
        try:
            probe = self._data.head(PROBE_ROWS)
            self._per_row = max(1.0, probe.nbytes / max(1, probe.num_rows))
        except Exception:  # that fragment is reported when it is read
            self._per_row = max(1.0, sum(self.raw_range(i)[1] for i in range(len(rows))) / max(1, sum(rows)))
        return Layout(self._schema, tuple(Piece(n, int(n * self._per_row)) for n in rows))

    def read(self, piece: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of one fragment; columns come in the order of ``columns``."""
        names = list(columns)
        if not self._per_row:
            self.layout()
        size = int(max(1, min(BATCH_ROWS, BATCH_BYTES / self._per_row)))
        try:
            if not names:
                yield pa.table({"": pa.nulls(self._fragments[piece].count_rows())}).select([])
                return
            for batch in self._fragments[piece].to_batches(columns=names, batch_size=size):
                yield pa.Table.from_batches([batch]).select(names)
        except Exception as error:
            raise UnreadableError(one_line(error)) from error

    def raw_range(self, piece: int) -> tuple[int, int]:
        """A data set is a folder; its first fragment file stands for the piece as a whole."""
        files = [Path(self._path, "data", each.path) for each in self._fragments[piece].data_files()]
        return 0, sum(file.stat().st_size for file in files if file.is_file())

    def close(self) -> None:
        """Release the data set."""
        self._fragments.clear()


def _lance() -> Any:
    try:
        import lance
    except ImportError:
        raise CurationError("lance: pylance is not installed; install curation[lance]") from None
    return lance
