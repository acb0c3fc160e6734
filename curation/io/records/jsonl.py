"""Lines of JSON objects: whole blocks go through Arrow's parser, what it refuses is looked at line by line."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from numpy.typing import NDArray

from curation._jit import njit
from curation.io.formats import UnreadableError
from curation.io.parquet import one_line
from curation.io.records import base
from curation.io.records.base import BadRecord, Block, Options, WidenError, assemble, shown
from curation.io.records.json_types import EXACT, Fault, Fields, decode_line, encode_line
from curation.io.records.splitter import BOM, Batch, Cut, Records
from curation.io.records.streams import is_compressed, open_stream

GROUP = 64
"""Lines that are judged one by one, once a fault is known to lie among them."""
MAX_DEPTH = 200
"""Levels of nesting that are read."""

_SHAPE, _DEEP = 1, 2


@njit()
def _scan(data: NDArray[np.uint8], last: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], int]:
    """Find lines that are not blank; ``_SHAPE``: not from ``{`` to ``}``, ``_DEEP``: nested too deeply."""
    size = len(data)
    room = 1024
    starts, stops = np.empty(room, np.int64), np.empty(room, np.int64)
    marks = np.empty(room, np.uint8)
    found, start, at = 0, 0, 0
    while start < size:
        opened = 0
        at = start
        while at < size and data[at] != 10:
            opened += (data[at] == 91) | (data[at] == 123)
            at += 1
        if at == size and not last:
            break
        first, end = start, at
        while first < end and (data[first] == 32 or data[first] == 9 or data[first] == 13):
            first += 1
        while end > first and (data[end - 1] == 32 or data[end - 1] == 9 or data[end - 1] == 13):
            end -= 1
        following = min(at + 1, size)
        if first < end:
            if found == room:
                room *= 2
                starts, stops = _grown(starts, room), _grown(stops, room)
                more = np.empty(room, np.uint8)
                more[:found] = marks
                marks = more
            starts[found], stops[found] = start, following
            marks[found] = 0
            if data[first] != 123 or data[end - 1] != 125:
                marks[found] = _SHAPE
            elif opened > MAX_DEPTH and _depth(data[first:end]) > MAX_DEPTH:
                marks[found] = _DEEP
            found += 1
        start = following
    return starts[:found], stops[:found], marks[:found], start


@njit()
def _grown(values: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    more = np.empty(room, np.int64)
    more[: len(values)] = values
    return more


@njit()
def _depth(line: NDArray[np.uint8]) -> int:
    """Deepest nesting of a line, brackets inside strings left aside."""
    depth, most, text, at = 0, 0, False, 0
    while at < len(line):
        byte = line[at]
        if text:
            if byte == 92:
                at += 1
            elif byte == 34:
                text = False
        elif byte == 34:
            text = True
        elif byte == 91 or byte == 123:
            depth += 1
            most = max(most, depth)
        elif byte == 93 or byte == 125:
            depth -= 1
        at += 1
    return most


def scan_lines(data: NDArray[np.uint8], last: bool) -> Cut:
    """Lines of a block (see :data:`curation.io.records.splitter.Scan`)."""
    return Cut(*_scan(data, last))


class Jsonl:
    """Lines of JSON objects (see :class:`curation.io.records.base.RecordFormat`)."""

    def sniff(self, source: BinaryIO, options: Options, *, name: str) -> pa.Schema:
        """Columns in order of appearance, with the narrowest types that hold all values."""
        fields = Fields(pa.schema([]), replace(options, partial=False))  # those that are chosen are among all
        objects, reasons, begins = 0, [], None
        for found in _head(open_stream(source, name), options.sniffed):
            begins = isinstance(found, dict) if begins is None else begins
            if isinstance(found, str):
                reasons.append(found)
                continue
            objects += 1
            with contextlib.suppress(Fault):  # that line is named when it is read
                fields.add(found)
        if begins is False and len(reasons) >= objects:
            raise UnreadableError(f"not lines of JSON objects: {reasons[0]}; write one object a line")
        return fields.schema()

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
        """Rows of all lines; ``start`` and ``stop`` cut a plain file into ranges."""
        if is_compressed(name) and (start or stop is not None):
            raise ValueError(f"{name}: expected start=0 and stop=None for a compressed file, got {start}, {stop}")
        parser = _Parser(schema, options)
        for batch in _records(open_stream(source, name), start, stop):
            if isinstance(batch, BadRecord):
                yield assemble(schema, [], 1, [batch], batch.row)
            else:
                yield parser.block(batch)


JSONL = Jsonl()


def _head(stream: BinaryIO, limit: int) -> Iterator[dict[str, object] | str]:
    """Objects in the first ``limit`` bytes, and what is wrong with lines that are none."""
    try:
        for batch in _records(stream, 0, None):
            if isinstance(batch, BadRecord):
                yield batch.reason
                continue
            for index in range(batch.rows):
                try:
                    yield _object(batch, index)
                except Fault as fault:
                    yield str(fault)
                if batch.offset + int(batch.stops[index]) >= limit:
                    return
    except base.BrokenStreamError as error:
        yield str(error)


def _records(stream: BinaryIO, start: int, stop: int | None) -> Records:
    """Records that begin in ``[start, stop)``; a mark of byte order at the beginning is left out."""
    if start:
        # The line that reaches over the start belongs to the range before.
        stream.seek(start - 1)
        offset = start - 1
        while piece := stream.readline(base.READ_BYTES):
            offset += len(piece)
            if piece.endswith(b"\n"):
                break
        return Records(stream, scan_lines, offset=offset, stop=stop)
    head = stream.read(len(BOM))
    if head == BOM:
        # The first record begins with the mark, so it belongs to the range that byte 0 lies in.
        stop = max(stop, len(BOM) + 1) if stop else stop
        return Records(stream, scan_lines, offset=len(BOM), stop=stop)
    return Records(_Pushed(stream, head), scan_lines, stop=stop)  # type: ignore[arg-type]


class _Pushed(io.RawIOBase):
    """A stream with some bytes put back."""

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream, self._head = stream, head

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head or self._stream.read(size)


def _object(batch: Batch, index: int) -> dict[str, object]:
    if batch.marks[index] == _DEEP:
        raise Fault(f"nested more than {MAX_DEPTH} levels deep")
    return decode_line(batch.record(index))


class _Parser:
    """Makes blocks of one schema."""

    def __init__(self, schema: pa.Schema, options: Options) -> None:
        self._schema, self._options = schema, options
        self._fields = Fields(schema, options)
        # Arrow takes a date in JSON to be a number of days; people write text.
        self._stored = pa.schema([each.with_type(pa.string()) if _is_date(each.type) else each for each in schema])
        # To ignore columns that are not wanted is to ignore new fields of structs, too: those are to be seen.
        nested = any(pa.types.is_nested(each.type) for each in schema)
        self._parse_options = self._unexpected("ignore" if options.partial and not nested else "infer")
        self._judged_options = self._unexpected("ignore" if options.partial else "infer")
        self._hollow = [i for i, each in enumerate(schema) if _holds_empty_lists(each.type)]
        self._floats = [i for i, each in enumerate(schema) if _holds_floats(each.type)]

    def _unexpected(self, behavior: str) -> pj.ParseOptions:
        return pj.ParseOptions(
            explicit_schema=self._stored, newlines_in_values=False, unexpected_field_behavior=behavior
        )

    def block(self, batch: Batch) -> Block:
        """Parse a batch: halved where Arrow refuses it, down to groups of lines that are judged one by one."""
        parts: list[pa.Table] = []
        bad: list[BadRecord] = []
        todo = [(0, batch.rows)]
        while todo:
            first, last = todo.pop()
            table = self._parse(batch, first, last)
            if table is not None:
                parts.append(table)
            elif last - first > GROUP:
                middle = (first + last) // 2
                todo += [(middle, last), (first, middle)]
            else:
                self._settle(batch, first, last, parts, bad)
        return assemble(self._schema, parts, batch.rows, bad, batch.row)

    def _parse(self, batch: Batch, first: int, last: int) -> pa.Table | None:
        """Rows of these lines, or ``None`` if something is wrong with one of them."""
        if batch.marks[first:last].any():
            return None
        table = self._arrow(batch.span(first, last), last - first, self._parse_options)
        if table is None:
            return None
        for row in self._doubtful(table):
            try:
                self._fields.check(_object(batch, first + row))
            except Fault:
                return None
        return table

    def _arrow(self, data: memoryview | bytes, rows: int, options: pj.ParseOptions) -> pa.Table | None:
        # Each line runs from { to }, so a newline can only part two objects: as many rows as lines means one in each.
        buffer = pa.py_buffer(data)
        size = pa.py_buffer(np.array([0, len(data)], np.int32))
        try:
            pa.StringArray.from_buffers(1, size, buffer).validate(full=True)
            table = pj.read_json(
                pa.BufferReader(buffer),
                read_options=pj.ReadOptions(use_threads=False, block_size=len(data) + 1),
                parse_options=options,
            )
            if self._options.partial and self._schema.names:
                table = table.select(self._schema.names)
            if table.num_rows != rows or not table.schema.equals(self._stored):
                return None
            table = table.cast(self._schema)
        except (pa.ArrowException, ValueError):
            return None
        for column in self._hollow:
            chunks = [_filled(chunk, len(chunk)) for chunk in table.column(column).chunks]
            table = table.set_column(column, self._schema.field(column), pa.chunked_array(chunks))
        return table

    def _doubtful(self, table: pa.Table) -> Sequence[int]:
        """Rows with floats that were perhaps no number, or an integer too large to be exact."""
        rows = np.zeros(table.num_rows, np.bool_)
        for column in self._floats:
            chunks = table.column(column).chunks
            first = 0
            for chunk in chunks:
                doubt = _doubt(chunk)
                if doubt is not None:
                    rows[first : first + len(chunk)] |= doubt
                first += len(chunk)
        return np.flatnonzero(rows).tolist()

    def _settle(self, batch: Batch, first: int, last: int, parts: list[pa.Table], bad: list[BadRecord]) -> None:
        """Tell good from bad lines one by one."""
        lines: list[bytes] = []
        faults: dict[int, str] = {}
        for index in range(first, last):
            try:
                lines.append(self._judged(batch, index))
            except Fault as fault:
                faults[index] = str(fault)
        options = self._judged_options  # the judge has seen new fields
        whole = self._arrow(b"".join(lines), len(lines), options) if lines else self._schema.empty_table()
        # Of columns that are not wanted, Arrow sees less than the judge: there it decides, and the judge explains.
        sure = not self._options.partial or all(self._parse(batch, index, index + 1) is None for index in faults)
        if whole is not None and sure:
            parts.append(whole)
            bad += [batch.bad(index, reason) for index, reason in faults.items()]
            return
        for index in range(first, last):
            table = self._parse(batch, index, index + 1)
            if table is None and index not in faults:
                line = self._judged(batch, index)
                table = self._arrow(line, 1, options)
                faults[index] = self._complaint(line)
            if table is None:
                bad.append(batch.bad(index, faults[index]))
            else:
                parts.append(table)

    def _judged(self, batch: Batch, index: int) -> bytes:
        """Line of a good record; numbers in columns declared as text become text. Raises ``Fault``."""
        wider, mended = self._fields.fit(_object(batch, index))
        if wider is not None:
            raise WidenError(self._widened(batch), wider)
        return batch.record(index).rstrip(b"\r\n") + b"\n" if mended is None else encode_line(mended)

    def _widened(self, batch: Batch) -> pa.Schema:
        """Schema for all good lines of the batch, so that a file is not begun again for each of them."""
        fields = Fields(self._schema, self._options)
        for index in range(batch.rows):
            try:
                fields.add(_object(batch, index))
            except Fault:
                continue
        return fields.schema()

    def _complaint(self, line: bytes) -> str:
        """What Arrow says about a line, for types whose rules are Arrow's own."""
        try:
            table = pj.read_json(pa.BufferReader(line), parse_options=self._judged_options)
            table.select(self._schema.names).cast(self._schema)
        except (pa.ArrowException, ValueError) as error:
            return one_line(error).replace(" in row 0", "")
        return f"does not fit the columns asked for: {shown(line[:80])}"


def _is_date(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind))


def _holds_empty_lists(kind: pa.DataType, inside: bool = False) -> bool:
    """Whether a type has lists of which only NULLs are known."""
    if pa.types.is_struct(kind):
        return any(_holds_empty_lists(each.type, inside) for each in kind)
    if pa.types.is_list(kind):
        return _holds_empty_lists(kind.value_type, True)
    return inside and bool(pa.types.is_null(kind))


def _filled(array: pa.Array, length: int) -> pa.Array:
    """Give the NULLs below a list their number: Arrow's JSON parser counts the lists, and offsets end beyond them."""
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(length)
    if pa.types.is_list(kind):
        below = [_filled(array.values, array.offsets[-1].as_py())]
        return pa.Array.from_buffers(kind, length, array.buffers()[:2], children=below)
    if pa.types.is_struct(kind):
        below = [_filled(array.field(i), length) for i in range(kind.num_fields)]
        return pa.Array.from_buffers(kind, length, array.buffers()[:1], children=below)
    return array


def _holds_floats(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_floats(each.type) for each in kind)
    return pa.types.is_floating(kind) or (pa.types.is_list(kind) and _holds_floats(kind.value_type))


def _doubt(array: pa.Array) -> NDArray[np.bool_] | bool | None:
    """Mask of rows whose floats are in doubt, ``True`` if a nested one is, ``None`` if there are none."""
    if not pa.types.is_floating(array.type):
        return True if any(_doubt(each) is not None for each in _children(array)) else None
    bounds = pc.min_max(pc.abs(array))
    if (bounds["max"].as_py() or 0.0) < EXACT and pc.all(pc.is_finite(array)).as_py() is not False:
        return None
    fine = pc.and_kleene(pc.is_finite(array), pc.less(pc.abs(array), EXACT))
    mask: NDArray[np.bool_] = pc.invert(pc.fill_null(fine, True)).to_numpy(zero_copy_only=False)
    return mask


def _children(array: pa.Array) -> list[pa.Array]:
    if pa.types.is_struct(array.type):
        return [each for each in array.flatten() if _holds_floats(each.type)]
    return [array.flatten()] if pa.types.is_list(array.type) else []
