"""Decompresses a file by its suffix and gives every good byte before it tells that the stream is broken."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from curation.io.records.base import BrokenStreamError

FEED_BYTES = 64 << 10
"""Bytes that go through a decompressor in one step; after a fault the last step is done again byte by byte."""
TAKE_BYTES = 1 << 20
"""Decompressed bytes taken at a time, whatever the ratio is."""


class _FaultError(Exception):
    """A decoder gave up at a compressed byte; ``again`` if smaller steps may get further."""

    def __init__(self, why: str, at: int, *, again: bool) -> None:
        self.at, self.again = at, again
        super().__init__(why)


class _Gzip:
    """``zlib`` behind the interface of the decompressors of ``bz2`` and ``lzma``."""

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, most: int) -> bytes:
        piece = self._engine.decompress(self._engine.unconsumed_tail + data, most)
        self.needs_input = len(piece) < most and not self._engine.unconsumed_tail
        return piece

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data


def _members(source: BinaryIO, new: Callable[[], Any], fine: int) -> Iterator[bytes]:
    """Decode members that follow one another, with zeros between or after them; byte by byte from ``fine`` on."""
    engine: Any = None
    inside, at = False, 0
    while chunk := source.read(FEED_BYTES if at + FEED_BYTES <= fine else 1):
        begun, at = at, at + len(chunk)
        while chunk:
            if not inside:
                chunk = chunk if engine is None else chunk.lstrip(b"\0")
                if not chunk:
                    break
                engine, inside = new(), True
            try:
                yield engine.decompress(chunk, TAKE_BYTES)
                while not engine.eof and not engine.needs_input:
                    yield engine.decompress(b"", TAKE_BYTES)
            except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise _FaultError(str(error), begun, again=True) from error
            chunk = engine.unused_data if engine.eof else b""
            inside = not engine.eof
    if inside or engine is None:
        raise _FaultError("it ends before its last member does" if at else "it holds no byte", at, again=False)


def _zstd(source: BinaryIO, fine: int) -> Iterator[bytes]:
    """Decode frames that follow one another; byte by byte from the decompressed byte ``fine`` on."""
    if not (head := source.read(1)):
        raise _FaultError("it holds no byte", 0, again=False)
    counted = _Counted(source, head)
    stream = pa.CompressedInputStream(pa.PythonFile(counted, "r"), "zstd")
    given = 0
    while True:
        try:
            piece = stream.read(FEED_BYTES if given + FEED_BYTES <= fine else 1)
        except (OSError, pa.ArrowException) as error:
            raise _FaultError(str(error), counted.given, again=True) from error
        if not piece:
            return
        given += len(piece)
        yield piece


class _Counted(io.RawIOBase):
    """Counts what the decompressor has asked for; ``head`` has been read already."""

    def __init__(self, source: BinaryIO, head: bytes) -> None:
        self._source, self._head, self.given = source, head, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data, self._head = (self._head, b"") if self._head else (self._source.read(size), b"")
        self.given += len(data)
        return data


_STDLIB: dict[str, Callable[[], Any]] = {
    ".gz": _Gzip,
    ".tgz": _Gzip,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


class Inflated(io.RawIOBase):
    """Decompressed bytes of a file; a fault is raised when every good byte before it has been read."""

    def __init__(self, source: BinaryIO, suffix: str, name: str) -> None:
        self._source, self._suffix, self._name = source, suffix, name
        self._origin = source.tell() if source.seekable() else None
        self._pieces = self._decoded(sys.maxsize)
        self._rest = memoryview(b"")
        self._decoded_bytes = self._given = 0
        self._fault: _FaultError | None = None

    def readable(self) -> bool:
        """Whether bytes can be read: yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer only before the end or before a fault."""
        wanted = sys.maxsize if size is None or size < 0 else size
        taken, held = [], 0
        while held < wanted and (self._rest or self._next()):
            piece = self._rest[: wanted - held]
            self._rest = self._rest[len(piece) :]
            taken.append(piece)
            held += len(piece)
        self._given += held
        if self._fault is not None and not held and wanted:
            places = f"compressed byte {self._fault.at}, decompressed byte {self._given}"
            corrupt = self._fault.again and "runcated" not in str(self._fault)
            raise BrokenStreamError(
                f"{self._name}: broken at {places}: {self._fault}", corrupt=corrupt
            ) from self._fault
        return b"".join(taken)

    def _next(self) -> bool:
        """Decode until there is something to give."""
        while self._fault is None:
            try:
                piece = next(self._pieces, None)
            except _FaultError as fault:
                self._retry(fault)
                continue
            if piece is None:
                return False
            if piece:
                self._decoded_bytes += len(piece)
                self._rest = memoryview(piece)
                return True
        return False

    def _retry(self, fault: _FaultError) -> None:
        """Decode once more up to the step that failed, and that step byte by byte, so that its good bytes come, too."""
        if not fault.again or self._origin is None:
            self._fault = fault
            return
        self._source.seek(self._origin)
        skip, self._origin = self._decoded_bytes, None
        self._pieces = _after(self._decoded(skip if self._suffix == ".zst" else fault.at), skip)

    def _decoded(self, fine: int) -> Iterator[bytes]:
        if self._suffix == ".zst":
            return _zstd(self._source, fine)
        return _members(self._source, _STDLIB[self._suffix], fine)


def _after(pieces: Iterator[bytes], skip: int) -> Iterator[bytes]:
    """Leave the first ``skip`` bytes out."""
    for piece in pieces:
        yield piece[skip:]
        skip = max(0, skip - len(piece))


def is_compressed(name: str) -> bool:
    """Whether the suffix of a file says that it is compressed."""
    return (suffix := PurePath(name.lower()).suffix) in _STDLIB or suffix == ".zst"


def open_stream(raw: BinaryIO, name: str) -> BinaryIO:
    """Give the decompressed bytes of a file.

    Parameters
    ----------
    raw
        The file as it is stored. One that can seek loses no good byte before a fault; another may lose the last
        64 KiB of compressed data before it. The result of an earlier call is given back as it is.
    name
        Its name: ``.gz``, ``.tgz``, ``.bz2``, ``.xz`` and ``.zst`` are decompressed, all members or frames of them.

    Returns
    -------
        A file to ``read``; it raises ``BrokenStreamError`` once all good bytes are read.
    """
    if isinstance(raw, Inflated) or not is_compressed(name):
        return raw
    return cast("BinaryIO", Inflated(raw, PurePath(name.lower()).suffix, name))
