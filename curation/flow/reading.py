"""Inputs that are read front to back: jobs that turn them into parts, and the chunks of these parts.

Text, archives and images cannot be decoded from the middle, and thousands of small files cost more to open than to
read. Both are read once, by independent jobs, into Arrow parts in the work folder; from then on they are chunks like
all others. Every record has a row there, a bad one a row of NULLs that the chunks skip, so rows are counted as in
the file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from curation.engine.store import Mark, Store
from curation.errors import BuildError
from curation.io.chunks import Chunk, Segment, Skip, cut
from curation.io.files import RECORDS, FileRef
from curation.io.formats import READERS, Layout, Piece, UnreadableError, open_ahead, open_binary, open_file
from curation.io.records import record_format
from curation.io.records.base import BLOCK_ROWS, BadRecord, Block, BrokenStreamError, Options, WidenError
from curation.io.records.streams import is_compressed
from curation.keys import content_key
from curation.types import CarriesSchemas, schema_key
from curation.widen import WidenError as NoTypeError
from curation.widen import fit, unify

PACK_FILES = 64
"""An input with more small files than this has them read together."""
PACK_BYTES = 1 << 20
"""A file below this size is small."""
PACK_LIMIT_BYTES = 32 << 20
PACK_LIMIT_FILES = 1024
PACK_ODDS = 256
"""One path in so many ends a pack, so that a new file changes the pack it falls into and no other."""
RANGE_BYTES = 64 << 20
"""Plain JSON lines are read in ranges of about this size."""
READ_MEMORY = 320 << 20
"""Peak memory of reading front to back: blocks of about 32 MiB on their way from text to a file."""
RAW_LIMIT = 16 << 20
"""Bytes of bad records that a mark holds; beyond that only their places are kept."""


@dataclass(frozen=True)
class Batch:
    """What one job reads: a file, bytes ``[start, stop)`` of one, or several small files; with their row bits."""

    files: tuple[FileRef, ...]
    row_bits: tuple[int, ...]
    start: int = 0
    stop: int | None = None

    @property
    def bytes(self) -> int:
        """Size as it is stored."""
        return sum(f.size for f in self.files) if self.stop is None else self.stop - self.start

    @property
    def format(self) -> str:
        """Format of the files."""
        return self.files[0].format


def to_read(files: Sequence[FileRef], row_bits: Mapping[str, int]) -> tuple[list[Batch], list[FileRef]]:
    """Batches of the files that are read front to back, and the files whose pieces are decoded where they lie."""
    small = [f for f in files if f.size < PACK_BYTES and f.format != "lance"]
    packed = {f.relative for f in small} if len(small) > PACK_FILES else set()
    packed |= {f.relative for f in files if f.format == "images"}
    packs = _packs([f for f in files if f.relative in packed])
    batches = [Batch(tuple(pack), tuple(row_bits.get(f.relative, 0) for f in pack)) for pack in packs]
    rest = [f for f in files if f.relative not in packed]
    for file in rest:
        if file.format in RECORDS:
            bits = (row_bits.get(file.relative, 0),)
            batches += [Batch((file,), bits, a, b) for a, b in _ranges(file)]
    order = {file.relative: i for i, file in enumerate(files)}
    batches.sort(key=lambda batch: (order[batch.files[0].relative], batch.start))
    return batches, [file for file in rest if file.format not in RECORDS]


def _packs(files: Sequence[FileRef]) -> Iterator[list[FileRef]]:
    """Neighbouring files of one format; a pack ends where a hash of the path says so, or when it is full."""
    held: list[FileRef] = []
    size = 0
    for file in files:
        if held and (
            held[-1].format != file.format
            or len(held) >= PACK_LIMIT_FILES
            or size + file.size > PACK_LIMIT_BYTES
            or int(hashlib.blake2b(held[-1].relative.encode(), digest_size=4).hexdigest(), 16) % PACK_ODDS == 0
        ):
            yield held
            held, size = [], 0
        held.append(file)
        size += file.size
    if held:
        yield held


def _ranges(file: FileRef) -> list[tuple[int, int | None]]:
    """Byte ranges in which a file can be read alone."""
    if file.format != "jsonl" or not file.relative.lower().endswith((".jsonl", ".ndjson", ".json")):
        return [(0, None)]
    parts = max(1, file.size // RANGE_BYTES)
    edges = [file.size * i // parts for i in range(parts + 1)]
    return [(0, None)] if parts == 1 else [(a, b) for a, b in pairwise(edges)]


def read_options(
    types: Mapping[str, str], delimiter: str | None, nulls: Sequence[str] | None, *, partial: bool
) -> Options:
    """Options of a recipe's input as the formats take them."""
    kinds = {"timestamp": pa.timestamp("us"), "date32": pa.date32()}
    named = {column: kinds.get(kind) or pa.type_for_alias(kind) for column, kind in types.items()}
    return Options(delimiter=delimiter, nulls=("",) if nulls is None else tuple(nulls), types=named, partial=partial)


def sniff(file: FileRef, options: Options) -> pa.Schema:
    """Columns and types of a file that is read front to back, by its first bytes; raises ``UnreadableError``."""
    if file.format == "images":
        from curation.io.records.images import IMAGE_SCHEMA

        return IMAGE_SCHEMA
    with open_binary(file) as source:
        return record_format(file.format).sniff(source, options, name=file.relative)


@dataclass(frozen=True)
class ReadJob(CarriesSchemas):
    """Reads a batch into a part.

    ``schema`` holds the columns wanted; types may be widened. With ``strict`` the first bad record ends the build.
    """

    input: str
    batch: Batch
    schema: pa.Schema
    options: Options
    strict: bool
    root_key: str
    rows: int = 0

    @cached_property
    def key(self) -> str:
        """Content key."""
        files = [
            [f.relative, f.format, f.key, bits] for f, bits in zip(self.batch.files, self.batch.row_bits, strict=True)
        ]
        options = [self.options.delimiter, self.options.nulls, self.options.partial]
        types = sorted((name, str(kind)) for name, kind in self.options.types.items())
        place = [self.input, files, self.batch.start, self.batch.stop]
        return content_key("read", self.root_key, place, schema_key(self.schema), options, types)

    @property
    def cost(self) -> int:
        """Bytes to read."""
        return max(1, self.batch.bytes)

    @property
    def memory(self) -> int:
        """Peak memory."""
        return READ_MEMORY

    def describe(self) -> str:
        """Name the first file."""
        return f"input '{self.input}', {self.batch.files[0].path}"

    def run(self, store: Store) -> Mark:
        """Read, and start again with wider types where the data ask for it."""
        schema = self.schema
        while True:
            part = _Part(self, schema)
            try:
                data = store.write(self.key, ".arrow", part.fill)
            except WidenError as error:
                schema = error.schema
                continue
            return part.mark() | data


@dataclass
class _Part:
    """One attempt at a part, with the types that are known so far."""

    job: ReadJob
    schema: pa.Schema
    rows: int = 0
    pieces: list[list[int]] = field(default_factory=list)
    files: list[list[Any]] = field(default_factory=list)
    bad: list[list[Any]] = field(default_factory=list)
    raw: int = 0

    def mark(self) -> Mark:
        return {
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "pieces": self.pieces,
            "files": self.files,
            "bad": self.bad,
        }

    def fill(self, path: Path) -> None:
        # A file holds one dictionary of each column, so that of a batch begins with that of the batch before.
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        stored = self.schema if self.schema.names else BARE
        before = stored.empty_table()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, stored, options=options) as writer:
            for tables in _gathered(self._blocks()):
                whole = pa.concat_tables([before, pa.concat_tables(tables).combine_chunks()]).unify_dictionaries()
                before = whole.slice(0, 0)
                for batch in whole.to_batches():
                    if batch.num_rows:
                        writer.write_batch(batch)
                        self.pieces.append([batch.num_rows, batch.nbytes])

    def _blocks(self) -> Iterator[pa.Table]:
        """Rows of all files, with the types of the part."""
        batch = self.job.batch
        if batch.format == "images":
            yield from self._images()
            return
        if batch.format == "jsonl" and len(batch.files) > 1 and not any(is_compressed(f.relative) for f in batch.files):
            yield from self._lines()
            return
        for file in batch.files:
            before, broken = self.rows, None
            try:
                blocks = self._of_pieces(file) if file.format in READERS else self._of_records(file)
                for block in blocks:
                    self._note(file, block, before)
                    rows = block.table.num_rows
                    yield _fitted(block.table, self.schema, file) if self.schema.names else _bare(rows)
                    self.rows += rows
            except (BrokenStreamError, UnreadableError) as error:
                broken = str(error)
                if self.job.strict:
                    raise BuildError(f"input '{self.job.input}', {file.path}: {broken}; {MEND}") from error
                if isinstance(error, BrokenStreamError) and error.corrupt and self.rows > before:
                    self._distrust(before, broken)
            self.files.append([self.rows - before, broken])

    def _lines(self) -> Iterator[pa.Table]:
        """Rows of several files of JSON lines, as one text."""
        from curation.io.records.joined import JoinedLines

        files, texts = self.job.batch.files, []
        for file in files:
            with open_binary(file) as source:
                texts.append(source.read())
        lines = JoinedLines(texts)
        for block in lines.read(self.schema, self.job.options):
            for each in block.bad:
                at, record = lines.place(each)
                self._one_bad(files[at], record, each.row)
            rows = block.table.num_rows
            yield _fitted(block.table, self.schema, files[0]) if self.schema.names else _bare(rows)
            self.rows += rows
        assert self.rows == sum(lines.counts)
        self.files = [[count, None] for count in lines.counts]

    def _of_records(self, file: FileRef) -> Iterator[Block]:
        batch, job = self.job.batch, self.job
        with open_binary(file) as source:
            yield from record_format(file.format).read(
                source, self.schema, job.options, name=file.relative, start=batch.start, stop=batch.stop
            )

    def _of_pieces(self, file: FileRef) -> Iterator[Block]:
        with closing(open_file(file)) as reader:
            here = [name for name in self.schema.names if name in reader.schema.names]
            self._widen(file, reader.schema, here)
            layout = reader.layout()
            for i, piece in enumerate(layout.pieces):
                begun = self.rows
                try:
                    for table in reader.read(i, here):
                        yield Block(table)
                except UnreadableError as error:
                    yield self._undecoded(file, begun + piece.rows - self.rows, f"cannot be decoded: {error}")
            if layout.broken is not None:
                raise BrokenStreamError(layout.broken)

    def _undecoded(self, file: FileRef, rows: int, why: str) -> Block:
        """Rows of a piece that cannot be decoded: NULL, and set aside."""
        if self.job.strict:
            raise BuildError(f"input '{self.job.input}', {file.path}: {rows} rows: {why}; {MEND}")
        self.bad.append([self.rows, self.rows + rows, -1, 0, why, None])
        return Block(pa.table({each.name: pa.nulls(rows, each.type) for each in self.schema}))

    def _widen(self, file: FileRef, stored: pa.Schema, here: list[str]) -> None:
        """Start the part again where a file has columns or types that it cannot hold."""
        if stored.equals(self.schema):
            return
        if self.job.options.partial:
            stored = pa.schema([stored.field(name) for name in here])
        try:
            wider = unify([self.schema, stored], exact=True)
        except NoTypeError as error:
            raise BuildError(f"input '{self.job.input}', {file.path}: {error}") from error
        if wider != self.schema:
            raise WidenError(wider, file.path)

    def _images(self) -> Iterator[pa.Table]:
        """One row per file."""
        from curation.io.records.images import read_images

        files = self.job.batch.files
        named = {file.url or file.path: file for file in files}
        paths = [(path, file.relative) for path, file in named.items()]
        with closing(open_ahead([file for file in files if file.remote])) as far:

            def opener(path: str) -> BinaryIO:
                return next(far) if named[path].remote else open_binary(named[path])

            for block in read_images(paths, opener=opener):
                for each in block.bad:
                    self._one_bad(files[each.row], each, each.row)
                yield _fitted(block.table.select(self.schema.names), self.schema, files[0])
                self.rows += block.table.num_rows
        self.files += [[1, None] for _ in files]

    def _note(self, file: FileRef, block: Block, before: int) -> None:
        for each in block.bad:
            self._one_bad(file, each, before + each.row)

    def _one_bad(self, file: FileRef, record: BadRecord, row: int) -> None:
        if self.job.strict:
            at = f", byte {record.offset}" if record.offset >= 0 else ""
            place = f"record {record.row}{at}" if self.job.batch.format != "images" else "image"
            raise BuildError(f"input '{self.job.input}', {file.path}, {place}: {record.reason}; {MEND}")
        self.raw += len(record.raw)
        raw = base64.b64encode(record.raw).decode() if self.raw <= RAW_LIMIT else None
        self.bad.append([row, row + 1, record.offset, record.length, record.reason, raw])

    def _distrust(self, first: int, why: str) -> None:
        """Set all rows of a file aside: its check sum failed, and any of them may be wrong."""
        self.bad = [each for each in self.bad if each[1] <= first]
        self.bad.append([first, self.rows, -1, 0, f"cannot be trusted: {why}", None])


MEND = "mend the file, or set `on_bad_rows: quarantine` for this input to set bad rows aside and count them"


def _gathered(tables: Iterator[pa.Table]) -> Iterator[list[pa.Table]]:
    """Small tables together, so that a pack of small files makes few batches."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        if held and (rows + table.num_rows > BLOCK_ROWS or size + table.nbytes > PACK_LIMIT_BYTES):
            yield held
            held, rows, size = [], 0, 0
        held.append(table)
        rows += table.num_rows
        size += table.nbytes
    if held:
        yield held


BARE = pa.schema([("", pa.null())])
"""What is stored of rows without columns, as Arrow writes none of those."""


def _bare(rows: int) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(rows)], schema=BARE)


def _fitted(table: pa.Table, schema: pa.Schema, file: FileRef) -> pa.Table:
    try:
        return fit(table, schema)
    except NoTypeError as error:
        raise UnreadableError(str(error)) from error


@dataclass(frozen=True)
class Found:
    """What reading an input has found: the columns of every part, its chunks, and the files that are not whole."""

    schemas: tuple[tuple[FileRef, pa.Schema], ...]
    chunks: tuple[Chunk, ...]
    broken: tuple[tuple[FileRef, str], ...]


def chunks_of_parts(name: str, jobs: Sequence[ReadJob], marks: Sequence[Mark], data: Callable[[str], Path]) -> Found:
    """Chunks of the parts that jobs have left, and the columns of each part."""
    schemas = [pa.ipc.read_schema(pa.BufferReader(base64.b64decode(mark["schema"]))) for mark in marks]
    chunks: list[Chunk] = []
    broken: list[tuple[FileRef, str]] = []
    seen: dict[str, int] = {}
    for job, mark, schema in zip(jobs, marks, schemas, strict=True):
        path = data(job.key)
        part = FileRef(str(path), "", "arrow", path.stat().st_size, job.key)
        layout = Layout(schema, tuple(Piece(rows, size) for rows, size in mark["pieces"]))
        segments = []
        at = 0
        for file, bits, (rows, reason) in zip(job.batch.files, job.batch.row_bits, mark["files"], strict=True):
            first = seen.get(file.relative, 0)
            seen[file.relative] = first + rows
            if rows:
                segments.append(Segment(file, at, rows, first, bits))
            at += rows
            if reason is not None:
                broken.append((file, reason))
        skips = [
            Skip(start, stop, reason, offset=offset, length=length, raw=raw)
            for start, stop, offset, length, reason, raw in mark["bad"]
        ]
        for chunk in cut(name, part, layout):
            inside = tuple(_overlapping(segments, chunk.start, chunk.stop))
            here = [
                replace(skip, start=max(skip.start, chunk.start), stop=min(skip.stop, chunk.stop))
                for skip in skips
                if skip.start < chunk.stop and skip.stop > chunk.start
            ]
            chunks.append(replace(chunk, segments=inside).without(here))
    firsts = [job.batch.files[0] for job in jobs]
    return Found(tuple(zip(firsts, schemas, strict=True)), tuple(chunks), tuple(broken))


def refuse_bad(found: Found) -> None:
    """End a build whose input has a bad record, and none is allowed."""
    for chunk in found.chunks:
        for skip in chunk.skips:
            raise BuildError(f"{chunk.place(skip.start, skip.stop)}: {skip.reason}; {MEND}")


def _overlapping(segments: Sequence[Segment], start: int, stop: int) -> Iterator[Segment]:
    for each in segments:
        if each.at < stop and each.at + each.rows > start:
            yield each
