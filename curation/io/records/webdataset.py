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
            if tape.at >= base.SNIFF_BYTES:
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


def _samples(tape: Tape, members: Iterator[Entry]) -> Iterator[_Sample]:
    """Group members by key. An entry whose name is a guess belongs to its neighbours if they are one sample."""
    sample: _Sample | None = None
    guess: Entry | None = None
    for entry in members:
        key = split_name(entry.name)[0]
        if entry.guessed and not (sample and sample.key == key):
            if guess is not None:
                yield from (each for each in (sample, _alone(guess)) if each)
                sample = None
            guess = entry
            continue
        if guess is not None:
            if sample and sample.key == key:
                sample.add(guess)
            else:
                if sample:
                    yield sample
                sample = _alone(guess)
                sample.key = key if split_name(guess.name)[0] == key else sample.key
            guess = None
        if sample and sample.key != key:
            yield sample
            sample = None
        sample = sample or _Sample(key)
        sample.add(entry)
    if sample and guess is not None and not tape.ended:
        sample.add(guess)
        guess = None
    if sample and not tape.ended and not sample.fault:
        sample.add(Entry(sample.key, tape.at, 0, b"", f"sample {shown(sample.key)}: the archive is cut short here"))
    yield from (each for each in (sample, _alone(guess) if guess else None) if each)


def _alone(entry: Entry) -> _Sample:
    sample = _Sample(split_name(entry.name)[0] or f"\0{entry.offset}")
    sample.add(entry)
    return sample


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
