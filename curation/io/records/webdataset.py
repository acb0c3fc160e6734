"""Tar files of samples: members that follow one another under one key are a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from curation.io.formats import UnreadableError
from curation.io.records import base, tar
from curation.io.records.base import (
    RAW_BYTES,
    BadRecord,
    Block,
    BrokenStreamError,
    Options,
    WidenError,
    assemble,
    shown,
)
from curation.io.records.streams import open_stream
from curation.io.records.tar import Entry, Tape, entries

KEY = "__key__"
BLOCK_BYTES = 32 << 20
MAX_COLUMNS = 256
"""An archive with more kinds of members is no set of samples."""

_TYPES = {"txt": pa.string(), "json": pa.string(), "cls": pa.int64()}


class WebDataset:
    """Samples in a tar file (see :class:`curation.io.records.base.RecordFormat`)."""

    def sniff(self, source: BinaryIO, options: Options, *, name: str) -> pa.Schema:
        """``__key__`` and one column per extension, in order of appearance; no content is looked at."""
        tape = Tape(open_stream(source, name))
        kinds: dict[str, pa.DataType] = {KEY: pa.string()}
        entry = None
        for entry in entries(tape, lambda _: False):
            if entry.guessed and entry.offset == 0:
                raise UnreadableError("not a tar file: it does not begin with a header")
            if not entry.fault:
                _add(kinds, entry.name, options)
            if tape.at >= options.sniffed:
                break
        if entry is None and not tape.ended:
            raise UnreadableError(f"not a tar file: {tape.broken or 'it holds no byte'}")
        return pa.schema(list(kinds.items()))

    def read(
        self,
        source: BinaryIO,
        schema: pa.Schema,
        options: Options,
        *,
        name: str,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[Block]:
        """Rows of all samples; a sample with a bad member is bad as a whole."""
        if start or stop is not None:
            raise ValueError(f"{name}: expected start=0 and stop=None, got {start}, {stop}; tar is read from its start")
        wanted = set(schema.names)
        tape = Tape(open_stream(source, name))
        kinds = {each.name: each.type for each in schema}

        def hold(path: str) -> bool:
            if not options.partial:
                _add(kinds, path, options)
            return split_name(path)[1] in wanted

        members = entries(tape, hold)
        held = _Held(schema, options)
        for sample in _samples(tape, members):
            new = [each for each in kinds if each not in wanted and each in sample.names()]
            if new and not options.partial and not sample.fault:
                for _ in members:  # to the end, so that the file is begun again only once
                    pass
                raise WidenError(pa.schema(list(kinds.items())), f"column '{new[0]}' is new")
            held.add(sample)
            if held.full():
                yield held.block()
        if held.rows:
            yield held.block()
        _ended(tape, name)


WEBDATASET = WebDataset()


def _ended(tape: Tape, name: str) -> None:
    """Raise ``BrokenStreamError`` if the archive stops before its end mark."""
    if tape.broken is not None:
        raise tape.broken
    if not tape.ended:
        raise BrokenStreamError(f"{name}: broken at byte {tape.at}: the end mark of the archive is missing")


def split_name(path: str) -> tuple[str, str]:
    """Key and extension of a member: the path up to the first dot of its last part, and what follows.

    >>> split_name("a/b.c/0001.seg.PNG")
    ('a/b.c/0001', 'seg.png')
    """
    folder, slash, name = path.rpartition("/")
    stem, _, extension = name.partition(".")
    return folder + slash + stem, extension.lower()


def _kind(extension: str, options: Options) -> pa.DataType:
    return options.types.get(extension) or _TYPES.get(extension.rpartition(".")[2], pa.binary())


def _add(kinds: dict[str, pa.DataType], path: str, options: Options) -> None:
    key, extension = split_name(path)
    if extension and key.rpartition("/")[2]:
        kinds.setdefault(extension, _kind(extension, options))
    if len(kinds) > MAX_COLUMNS:
        raise UnreadableError(f"more than {MAX_COLUMNS - 1} extensions of members; expected samples of a WebDataset")


@dataclass
class _Sample:
    """Members under one key."""

    key: str
    entries: list[Entry] = field(default_factory=list)
    fault: str = ""
    raw: bytes = b""
    offset: int = -1
    length: int = 0
    bytes: int = 0
    doubt: bool = False

    def add(self, entry: Entry) -> None:
        """Take a member; the first fault is kept, and with a fault no content is."""
        if self.offset < 0:
            self.offset = entry.offset
        self.length = entry.offset + entry.length - self.offset
        key, extension = split_name(entry.name)
        fault = entry.fault
        if not fault and not (extension and key.rpartition("/")[2]):
            fault = f"member {shown(entry.name)}: expected a name like key.extension"
        elif not fault and extension in self.names():
            fault = f"member {shown(entry.name)}: a second one of this name in the sample"
        self.bytes += len(entry.data or b"")
        if not fault and self.bytes > tar.MEMBER_BYTES:
            fault = f"sample {shown(self.key)}: larger than {tar.MEMBER_BYTES} bytes"
        if fault and not self.fault:
            self.fault, self.raw = fault, (entry.data or b"")[:RAW_BYTES]
        if self.fault:
            self.entries.clear()
        else:
            self.entries.append(entry)

    def names(self) -> set[str]:
        """Extensions of the members."""
        return {split_name(each.name)[1] for each in self.entries}


class _Grouping:
    """Groups members by key.

    A member that cannot be used belongs to the sample whose key it has, as far as its name can be trusted. Where a
    damaged header hides the name, it may have been a member of either neighbour: one of them that lacks a member which
    the sample before had is bad, too.
    """

    def __init__(self) -> None:
        self._sample: _Sample | None = None
        self._loose: list[Entry] = []  # faulty members behind the sample that may belong to the next
        self._doubt = False
        self._usual: set[str] | None = None

    def feed(self, entry: Entry) -> Iterator[_Sample]:
        """Take a member; gives the samples that are complete now."""
        key = split_name(entry.name)[0]
        if entry.fault:
            if self._sample and not self._loose and _belongs(self._sample.key, entry):
                self._sample.add(entry)
                return
            if self._loose and not _belongs(split_name(self._loose[0].name)[0], entry):
                yield from self._part()
            self._loose.append(entry)
            return
        if self._sample and self._sample.key == key:
            self._take_loose()
        elif self._loose and _belongs(key, self._loose[0]):
            loose, self._loose = self._loose, []
            yield from self._close()
            self._begin(key)
            self._loose = loose
            self._take_loose()
        else:
            yield from self._part()
            yield from self._close()
            self._begin(key)
        assert self._sample is not None
        self._sample.add(entry)

    def end(self, tape: Tape) -> Iterator[_Sample]:
        """Give what is left; where the archive is cut short, its last sample is not whole."""
        if self._loose and not self._loose[0].guessed:
            yield from self._part()
        if self._sample and not tape.ended:
            self._take_loose()
            if not self._sample.fault:
                fault = f"sample {shown(self._sample.key)}: the archive is cut short here"
                self._sample.add(Entry(self._sample.key, tape.at, 0, b"", fault))
        yield from self._part()
        yield from self._close()

    def _begin(self, key: str) -> None:
        self._sample = _Sample(key, doubt=self._doubt)
        self._doubt = False

    def _take_loose(self) -> None:
        assert self._sample is not None
        for each in self._loose:
            self._sample.add(each)
        self._loose = []

    def _part(self) -> Iterator[_Sample]:
        """Make the loose members a sample of their own."""
        if not self._loose:
            return
        self._doubt = any(each.guessed for each in self._loose)
        if self._sample:
            self._sample.doubt |= self._doubt
        yield from self._close()
        alone = _Sample(split_name(self._loose[0].name)[0] or f"\0{self._loose[0].offset}")
        for each in self._loose:
            alone.add(each)
        self._loose = []
        yield alone

    def _close(self) -> Iterator[_Sample]:
        sample, self._sample = self._sample, None
        if sample is None:
            return
        if sample.doubt and not sample.fault and sample.names() != self._usual:
            sample.fault = f"sample {shown(sample.key)}: a member may be missing, a damaged header stands beside it"
            sample.entries.clear()
        if not sample.fault:
            self._usual = sample.names()
        yield sample


def _belongs(key: str, entry: Entry) -> bool:
    """Whether a faulty member is of the sample; a path that leads outside is judged by its last part."""
    own = split_name(entry.name)[0]
    return own == key or (not entry.guessed and own.rpartition("/")[2] == key.rpartition("/")[2])


def _samples(tape: Tape, members: Iterator[Entry]) -> Iterator[_Sample]:
    """Group members by key."""
    grouping = _Grouping()
    for entry in members:
        yield from grouping.feed(entry)
    yield from grouping.end(tape)


class _Held:
    """Samples of the block that is being filled."""

    def __init__(self, schema: pa.Schema, options: Options) -> None:
        self._schema, self._options = schema, options
        self._first = 0
        self._clear()

    def _clear(self) -> None:
        self.rows, self._bytes = 0, 0
        self._values: dict[str, list[Any]] = {each: [] for each in self._schema.names}
        self._bad: list[BadRecord] = []

    def full(self) -> bool:
        """Whether the block is large enough."""
        return self.rows >= base.BLOCK_ROWS or self._bytes >= BLOCK_BYTES

    def add(self, sample: _Sample) -> None:
        """Decode a sample, or name it as bad."""
        fault, raw, values = sample.fault, sample.raw, {KEY: sample.key}
        for each in sample.entries:
            extension = split_name(each.name)[1]
            if fault or each.data is None or extension not in self._values:
                continue
            try:
                values[extension] = _decoded(each.data, self._schema.field(extension).type)
            except (ValueError, pa.ArrowException) as error:
                hint = "" if extension in self._options.types else f"; declare it: types: {{{extension}: binary}}"
                fault, raw = f"member {shown(each.name)}: {error}{hint}", each.data[:RAW_BYTES]
        if fault:
            self._bad.append(BadRecord(self._first + self.rows, sample.offset, sample.length, fault, raw))
        else:
            for name, column in self._values.items():
                column.append(values.get(name))
            self._bytes += sample.bytes
        self.rows += 1

    def block(self) -> Block:
        """Give the block and begin the next."""
        columns = [pa.array(self._values[each.name], each.type) for each in self._schema]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        block = assemble(self._schema, [table], self.rows, self._bad, self._first)
        self._first += self.rows
        self._clear()
        return block


def _decoded(data: bytes, kind: pa.DataType) -> Any:
    """Value of a member; raises ``ValueError`` or Arrow's error."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return data
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return text
    try:
        return pa.scalar(text.strip()).cast(kind).as_py()
    except pa.ArrowException:
        raise ValueError(f"{shown(text)} is no {kind}") from None
