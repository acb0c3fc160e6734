"""One protocol for every file format: what a file holds, and its rows by pieces that can be decoded alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from curation.io.files import FileRef
from curation.io.remote import open_read, open_stream

READERS = {
    "parquet": "curation.io.parquet:ParquetReader",
    "arrow": "curation.io.arrow:ArrowReader",
    "lance": "curation.io.lance:LanceReader",
}
"""Formats whose pieces can be decoded alone; all others are read front to back (``curation.io.records``)."""

AHEAD = 8
"""Files of a store that are fetched before they are asked for."""
AHEAD_BYTES = 8 << 20
"""Largest file that is fetched before."""

SMALL_BYTES = 1 << 20
"""A file of a store up to this size is fetched whole: it costs more to ask several times."""


@dataclass(frozen=True)
class Piece:
    """Rows that are decoded together: a Parquet row group or an Arrow record batch."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Layout:
    """Schema and pieces of a file, read from its metadata; ``broken`` says why there are not all of them."""

    schema: Any
    pieces: tuple[Piece, ...]
    broken: str | None = None


class UnreadableError(Exception):
    """A file, or a piece of it, cannot be decoded."""


class Reader(Protocol):
    """An open file."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the file."""

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
    reader: Reader = getattr(import_module(module), attribute)(source_of(file))
    return reader


def source_of(file: FileRef) -> str | BinaryIO:
    """What a reader opens: a path, or an open file of a remote store that fetches ranges as they are asked for."""
    if not file.remote:
        return file.path
    if file.size > SMALL_BYTES:
        return open_read(file.url, version=file.version)
    return _fetched(file)


def _fetched(file: FileRef) -> BinaryIO:
    with open_stream(file.url, version=file.version) as source:
        return BytesIO(source.read())


def open_binary(file: FileRef) -> BinaryIO:
    """Open a file to be read front to back."""
    return open_stream(file.url, version=file.version) if file.remote else Path(file.path).open("rb")


def open_ahead(files: Sequence[FileRef]) -> Generator[BinaryIO]:
    """Open files of a store one after the other, and fetch the next ones meanwhile: each costs a wait, not work."""
    pool = ThreadPoolExecutor(AHEAD)
    try:
        coming: deque[Future[BinaryIO]] = deque()
        for file in files:
            coming.append(pool.submit(_fetched if file.size <= AHEAD_BYTES else open_binary, file))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
