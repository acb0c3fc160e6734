"""Cuts a stream into batches of whole records without ever holding a record that is too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from curation.io.records import base
from curation.io.records.base import RAW_BYTES, BadRecord, BrokenStreamError

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Cut:
    """What a scan has found: record ``i`` is ``[starts[i], stops[i])``; ``used`` bytes need not be looked at again."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    marks: NDArray[np.uint8]
    used: int


Scan = Callable[[NDArray[np.uint8], bool], Cut]
"""(bytes, whether they are the last) -> whole records in them, blank ones left out."""


@dataclass(frozen=True)
class Batch:
    """Whole records, at most ``BLOCK_ROWS``.

    ``marks`` [0 .. 255] say what the scan has found wrong with a record, 0 for nothing. ``offset`` is the place of
    ``data`` in the stream, ``row`` the number of the first record.
    """

    data: memoryview
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    marks: NDArray[np.uint8]
    offset: int
    row: int

    @property
    def rows(self) -> int:
        """Records."""
        return len(self.starts)

    def record(self, index: int) -> bytes:
        """Bytes of one record, with its line end."""
        return bytes(self.data[self.starts[index] : self.stops[index]])

    def span(self, first: int, last: int) -> memoryview:
        """Bytes of the records ``[first, last)``."""
        return self.data[self.starts[first] : self.stops[last - 1]]

    def bad(self, index: int, reason: str) -> BadRecord:
        """Name a record as bad."""
        start, length = int(self.starts[index]), int(self.stops[index] - self.starts[index])
        raw = bytes(self.data[start : start + min(length, RAW_BYTES)])
        return BadRecord(self.row + index, self.offset + start, length, reason, raw)


class Records:
    """Batches and bad records of a stream, in order.

    Parameters
    ----------
    stream
        Decompressed bytes, read from where they stand.
    scan
        Finds records.
    offset
        Place of the first byte in the stream.
    stop
        Records that begin at this byte or later are not read.
    row
        Number of the first record.
    """

    def __init__(self, stream: BinaryIO, scan: Scan, *, offset: int = 0, stop: int | None = None, row: int = 0) -> None:
        self._stream, self._scan = stream, scan
        self._offset, self._stop, self._row = offset, stop, row
        self._held = b""
        self._broken: BrokenStreamError | None = None

    def __iter__(self) -> Iterator[Batch | BadRecord]:
        """Whole records as they come; raises ``BrokenStreamError`` after the last."""
        last = False
        while not last and not self._done():
            more = self._read(base.READ_BYTES)
            last = not more
            self._held += more
            if not last or self._broken is None:
                yield from self._batches(last)
            if len(self._held) > base.MAX_RECORD_BYTES:
                yield self._skip()
        if self._broken is not None:
            if self._held.strip():
                yield self._lost("cut short: the stream is broken here", len(self._held))
            raise self._broken

    def _done(self) -> bool:
        return self._stop is not None and self._offset >= self._stop

    def _read(self, size: int) -> bytes:
        """Read a fixed number of bytes, so that batches depend on nothing but the file."""
        pieces, held = [], 0
        try:
            while held < size and (piece := self._stream.read(size - held)):
                pieces.append(piece)
                held += len(piece)
        except BrokenStreamError as error:
            self._broken = error
        return b"".join(pieces)

    def _batches(self, last: bool) -> Iterator[Batch]:
        data = memoryview(self._held)
        cut = self._scan(np.frombuffer(data, np.uint8), last)
        count = len(cut.starts)
        if self._stop is not None:
            count = int(np.searchsorted(cut.starts, self._stop - self._offset))
        for first in range(0, count, base.BLOCK_ROWS):
            part = slice(first, min(count, first + base.BLOCK_ROWS))
            yield Batch(data, cut.starts[part], cut.stops[part], cut.marks[part], self._offset, self._row + first)
        self._row += count
        self._drop(cut.used)

    def _drop(self, used: int) -> None:
        self._held = self._held[used:]
        self._offset += used

    def _skip(self) -> BadRecord:
        """Go to the line after a record that is too long."""
        raw, length, start = self._held[:RAW_BYTES], len(self._held), self._offset
        while (piece := self._read(base.READ_BYTES)) and (at := piece.find(b"\n")) < 0:
            length += len(piece)
        taken = at + 1 if piece else 0
        length += taken
        self._held, self._offset = piece[taken:], start + length
        return self._named(start, length, f"longer than {base.MAX_RECORD_BYTES} bytes without an end", raw)

    def _lost(self, reason: str, length: int) -> BadRecord:
        return self._named(self._offset, length, reason, self._held[:RAW_BYTES])

    def _named(self, start: int, length: int, reason: str, raw: bytes) -> BadRecord:
        self._row += 1
        return BadRecord(self._row - 1, start, length, reason, raw)
