"""Entries of a tar file, front to back: files whole, everything that is no plain file named as a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from curation.io.records import base
from curation.io.records.base import RAW_BYTES, BrokenStreamError, shown

MEMBER_BYTES = 1 << 30
"""A larger member is refused."""

_SIZE = 512
_STEP = 1 << 20
_LINKS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
}
_SPARSE = ("GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.name")


@dataclass(frozen=True)
class Entry:
    """A file of the archive, or one that cannot be used.

    ``fault`` says what is wrong, if anything; then ``data`` are the first bytes of what there is. ``data`` is ``None``
    for a file that is not wanted. ``guessed``: the name comes from a header with a wrong check sum.
    """

    name: str
    offset: int
    length: int
    data: bytes | None
    fault: str = ""
    guessed: bool = False


class Tape:
    """Reads a stream in blocks of 512 bytes and knows where it stands.

    ``ended`` tells whether the blocks of zeros that end an archive came last, ``broken`` why the stream stopped.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._ahead = stream, b""
        self.at = 0
        self.ended = False
        self.broken: BrokenStreamError | None = None

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes, fewer only at the end or where the stream is broken."""
        pieces = [self._ahead[:size]]
        self._ahead = self._ahead[size:]
        held = len(pieces[0])
        try:
            while held < size and (piece := self._stream.read(min(size - held, _STEP))):
                pieces.append(piece)
                held += len(piece)
        except BrokenStreamError as error:
            self.broken = error
        self.at += held
        return b"".join(pieces)

    def skip(self, size: int) -> int:
        """Read past some bytes; how many there were."""
        begun = self.at
        while size > 0 and (piece := self.read(min(size, _STEP))):
            size -= len(piece)
        return self.at - begun

    def unread(self, data: bytes) -> None:
        """Put bytes back."""
        self._ahead = data + self._ahead
        self.at -= len(data)


def entries(tape: Tape, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """Files and faults of an archive, in order; only files with a ``wanted`` name are held."""
    extra: dict[str, str] = {}
    while header := tape.read(_SIZE):
        at = tape.at - len(header)
        if not any(header):
            tape.ended = True  # or archives were joined, and more follows
            continue
        tape.ended = False
        if not _sound(header):
            yield _lost(tape, header, at)
            extra = {}
            continue
        kind, size = header[156:157], int(extra.get("size", _number(header[124:136])))
        if kind in (b"x", b"g", b"L", b"K") and size <= base.READ_BYTES:
            content = tape.read(size)
            tape.skip(-size % _SIZE)
            if kind == b"x":
                extra |= _pax(content)
            elif kind == b"L":
                extra["path"] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        if kind == b"5":
            tape.skip(size + -size % _SIZE)
        else:
            sparse = kind == b"S" or any(key in extra for key in _SPARSE)
            name = extra.get("path") or _path(header)
            yield _entry(tape, kind, name.removeprefix("./"), size, at, sparse, wanted)
        extra = {}


def _entry(
    tape: Tape, kind: bytes, name: str, size: int, at: int, sparse: bool, wanted: Callable[[str], bool]
) -> Entry:
    """Read what follows the header of a file, a link or a device."""
    fault = _refused(kind, name, size, sparse)
    size = 0 if kind in _LINKS else size  # links have no content, whatever size their header states
    data = tape.read(min(size, RAW_BYTES) if fault else size) if fault or wanted(name) else None
    there = len(data or b"") + tape.skip(size - len(data or b""))
    tape.skip(-size % _SIZE)
    if not fault and there < size:
        fault = f"cut short, expected {size} bytes, got {there}"
    if fault:
        return Entry(name, at, tape.at - at, (data or b"")[:RAW_BYTES], f"member {shown(name)}: {fault}")
    return Entry(name, at, tape.at - at, data)


def _refused(kind: bytes, name: str, size: int, sparse: bool) -> str:
    """Why an entry is not read, if so."""
    if kind in _LINKS:
        return f"{_LINKS[kind]}, which is not followed"
    if sparse:
        return "a sparse file, which is not read"
    if kind not in (b"0", b"\0", b"7"):
        return f"an entry of the unknown type {kind!r}"
    if name.startswith("/") or ".." in name.split("/"):
        return "a path that leads out of the archive"
    if any(ord(each) < 32 or 0xD800 <= ord(each) < 0xE000 for each in name):
        return "a name that is not UTF-8 or has control characters"
    return f"{size} bytes, at most {MEMBER_BYTES} are read" if size > MEMBER_BYTES else ""


def _lost(tape: Tape, header: bytes, at: int) -> Entry:
    """Go on to the next sound header, after one that is not."""
    raw = header
    while following := tape.read(_SIZE):
        if _sound(following):
            tape.unread(following)
            break
        if len(raw) < RAW_BYTES:
            raw += following
    name = _path(header).removeprefix("./") if header[257:262] == b"ustar" else ""
    what = "a header with a wrong check sum" if len(header) == _SIZE else "cut short inside a header"
    fault = f"{f'member {shown(name)}: ' if name else ''}{what}; the bytes up to the next header are lost"
    return Entry(name, at, tape.at - at, raw, fault, guessed=True)


def _sound(header: bytes) -> bool:
    """Whether a block is a header whose check sum is right."""
    if len(header) < _SIZE:
        return False
    try:
        return _number(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * 32 and _number(header[124:136]) >= 0
    except ValueError:
        return False


def _number(field: bytes) -> int:
    """Octal digits, or the binary form of large numbers."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _path(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _pax(content: bytes) -> dict[str, str]:
    """Records ``<length> <key>=<value>``; those that are not sound are left out."""
    found = {}
    while content:
        length, blank, _ = content.partition(b" ")
        if not blank or not length.isdigit() or not len(length) + 1 < int(length[:9]) <= len(content):
            break
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        if key != b"size" or value.isdigit():
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    return found
