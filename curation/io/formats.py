"""One protocol for every file format: what a file holds, and its rows by pieces that can be decoded alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import pyarrow as pa

from curation.io.files import FileRef

READERS = {"parquet": "curation.io.parquet:ParquetReader", "arrow": "curation.io.arrow:ArrowReader"}


@dataclass(frozen=True)
class Piece:
    """Rows that are decoded together: a Parquet row group or an Arrow record batch."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Layout:
    """Schema and pieces of a file, read from its metadata."""

    schema: Any
    pieces: tuple[Piece, ...]


class UnreadableError(Exception):
    """A file, or a piece of it, cannot be decoded."""


class Reader(Protocol):
    """An open file."""

    def layout(self) -> Layout:
        """Schema and pieces, from metadata alone."""

    def read(self, piece: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of one piece in order, in tables of a bounded size; raises ``UnreadableError``."""

    def raw_range(self, piece: int) -> tuple[int, int]:
        """Offset and length [bytes] of a piece in the file."""

    def close(self) -> None:
        """Release the file."""


def open_file(file: FileRef) -> Reader:
    """Open a file with the reader of its format; raises ``UnreadableError``."""
    module, _, attribute = READERS[file.format].partition(":")
    reader: Reader = getattr(import_module(module), attribute)(file.path)
    return reader
