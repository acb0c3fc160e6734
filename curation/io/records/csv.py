"""Delimited text with a header line: our own splitter finds the records, Arrow's parser converts blocks of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
from numpy.typing import NDArray

from curation.io.formats import UnreadableError
from curation.io.parquet import one_line
from curation.io.records import COMPRESSED, base, csv_scan
from curation.io.records.base import BadRecord, Block, Options, WidenError, assemble, shown
from curation.io.records.csv_scan import BIG, FLOAT, INTEGER, Scanner
from curation.io.records.csv_types import FALSE, TRUE, exact, recognised
from curation.io.records.splitter import BOM, Batch, Cut, Records
from curation.io.records.streams import open_stream

_COMPLAINT = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (.*)", re.DOTALL)
_VALUE = re.compile(r"(?:invalid value|expected .* in) '(.*?)'", re.DOTALL)


GROUP = 64
"""Records among which bad ones are taken out one by one, by what Arrow says; larger groups are halved."""


@dataclass(frozen=True)
class _Wrong:
    """A group of records has a bad one: ``at``, if that is known."""

    at: int | None = None
    reason: str = ""


class Csv:
    """Delimited text (see :class:`curation.io.records.base.RecordFormat`)."""

    def sniff(self, source: BinaryIO, options: Options, *, name: str) -> pa.Schema:
        """Columns of the header; the type of each is the first of int64, float64, bool, date, timestamp that fits.

        Types that are declared for columns which the header lacks are left aside: another file may have them.
        """
        header = _Header(options, name)
        parts: list[pa.Table] = []
        fault: base.BrokenStreamError | None = None
        try:
            for batch in Records(open_stream(source, name), header):
                if isinstance(batch, Batch):
                    parts.append(_Texts(header, options).block(batch, options.sniffed).table)
                    if batch.offset + len(batch.data) >= options.sniffed:
                        break
        except base.BrokenStreamError as error:
            fault = error
        names = header.found(fault)
        texts = pa.concat_tables([_texts(names).empty_table(), *parts])
        kinds = [options.types.get(each) or recognised(texts.column(i)) for i, each in enumerate(names)]
        return pa.schema(list(zip(names, kinds, strict=True)))

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
        """Rows of all records; a quoted line end cannot be told from another in the middle, so there are no ranges."""
        if start or stop is not None:
            raise ValueError(f"{name}: expected start=0 and stop=None, got {start}, {stop}; CSV is read from its start")
        header = _Header(options, name, schema)
        parser: _Parser | None = None
        for batch in Records(open_stream(source, name), header):
            if isinstance(batch, BadRecord):
                header.found(None)
                yield assemble(schema, [], 1, [batch], batch.row)
                continue
            parser = parser or _Parser(header, schema, options)
            parser.check(batch)
            yield parser.block(batch)
        header.found(None)


CSV = Csv()


class _Header:
    """Scan that takes the first record as names and cuts all others."""

    def __init__(self, options: Options, name: str, schema: pa.Schema | None = None) -> None:
        stem = PurePath(name.lower())
        suffix = PurePath(stem.stem).suffix if stem.suffix in COMPRESSED else stem.suffix
        self.delimiter = options.delimiter or ("\t" if suffix == ".tsv" else ",")
        if len(self.delimiter.encode()) != 1 or self.delimiter in '"\r\n\0':
            raise UnreadableError(f"delimiter: expected one ASCII character, got {self.delimiter!r}")
        self._options, self._schema = options, schema
        self._scanner = Scanner(self.delimiter)
        self.names: list[str] = []

    def __call__(self, data: NDArray[np.uint8], last: bool) -> Cut:
        if self.names:
            return self._scanner(data, last)
        begin = len(BOM) if data[: len(BOM)].tobytes() == BOM else 0
        first = self._scanner(data[begin:], last, 1)
        if not len(first.starts):
            return Cut(first.starts, first.stops, first.marks, 0)
        text = data[begin + first.starts[0] : begin + first.stops[0]].tobytes()
        self.names = self._named(text, int(first.marks[0]))
        self._scanner.columns(self._kinds())
        begin += int(first.stops[0])
        rest = self._scanner(data[begin:], last)
        return Cut(rest.starts + begin, rest.stops + begin, rest.marks, rest.used + begin)

    def _named(self, raw: bytes, mark: int) -> list[str]:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnreadableError(f"header: not UTF-8 at byte {error.start}; CSV needs a first line of names") from None
        if mark:
            raise UnreadableError(f"header: {csv_scan.REASONS[mark]}; CSV needs a first line of names")
        names = next(csv.reader([text], delimiter=self.delimiter, strict=True))
        if "" in names:
            raise UnreadableError(f"header: column {names.index('') + 1} has no name, got {shown(text.rstrip())}")
        twice = next((each for i, each in enumerate(names) if each in names[:i]), None)
        if twice is not None:
            raise UnreadableError(f"header: two columns have the name {twice!r}; rename one of them")
        return names

    def _kinds(self) -> NDArray[np.uint8]:
        """Columns whose texts the scan looks at: Arrow reads ``007`` as 7, and rounds long integers to floats."""
        kinds = np.zeros(len(self.names), np.uint8)
        for field in self._schema or []:
            if field.name in self.names and field.name not in self._options.types:
                at = self.names.index(field.name)
                kinds[at] = INTEGER * pa.types.is_int64(field.type) + FLOAT * pa.types.is_float64(field.type)
        return kinds

    def found(self, fault: Exception | None) -> list[str]:
        """Names; raises ``UnreadableError`` if the stream has ended without them."""
        if not self.names:
            raise UnreadableError(f"no header: CSV needs a first line of names{f'; {fault}' if fault else ''}")
        return self.names


def _texts(names: list[str]) -> pa.Schema:
    return pa.schema([(each, pa.string()) for each in names])


class _Parser:
    """Makes blocks of one schema."""

    def __init__(self, header: _Header, schema: pa.Schema, options: Options) -> None:
        self._header, self._schema, self._options = header, schema, options
        self._last: tuple[Batch, pa.Schema] | None = None
        here = pa.schema([each for each in schema if each.name in header.names])
        self._lacks = here.names != schema.names  # other files of the input have these columns, here they are NULL
        self._parse_options = pv.ParseOptions(delimiter=header.delimiter, newlines_in_values=True)
        self._convert_options = pv.ConvertOptions(
            column_types=here if here.names else {header.names[0]: pa.binary()},
            include_columns=here.names or header.names[:1],
            null_values=list(options.nulls),
            true_values=list(TRUE),
            false_values=list(FALSE),
            strings_can_be_null=True,
        )
        try:
            self._arrow((header.delimiter * (len(header.names) - 1) or '""').encode() + b"\n")
        except pa.ArrowNotImplementedError as error:
            raise UnreadableError(f"types: {one_line(error)}") from error
        except pa.ArrowInvalid:
            pass  # "" is no NULL here

    def check(self, batch: Batch) -> None:
        """Raise ``WidenError`` if the file has columns that the schema lacks."""
        new = [each for each in self._header.names if each not in self._schema.names]
        if new and not self._options.partial:
            wider = self._widened(batch)
            raise WidenError(wider, f"column '{new[0]}' is new")

    def block(self, batch: Batch, most: int | None = None) -> Block:
        """Parse a batch, halved where Arrow refuses it; only the first ``most`` bytes if given."""
        rows = batch.rows
        if most is not None:
            rows = max(1, int(np.searchsorted(batch.stops + batch.offset, most)))
            rows = min(rows, batch.rows)
        parts: list[pa.Table] = []
        bad: list[BadRecord] = []
        todo = [(0, rows)] if rows else []
        while todo:
            first, last = todo.pop()
            found = self._parse(batch, first, last)
            if isinstance(found, pa.Table):
                parts.append(found)
            elif found.at is not None and last - first <= GROUP:
                bad.append(batch.bad(found.at, found.reason))
                todo += [(a, b) for a, b in ((found.at + 1, last), (first, found.at)) if a < b]
            else:
                middle = (first + last) // 2
                todo += [(middle, last), (first, middle)]
        return assemble(self._schema, parts, rows, sorted(bad, key=lambda each: each.row), batch.row)

    def _parse(self, batch: Batch, first: int, last: int) -> pa.Table | _Wrong:
        """Rows of these records, or one of them that is wrong, if it is known which."""
        for index in (first + np.flatnonzero(batch.marks[first:last])).tolist():
            reason = self._marked(batch, index)
            if reason:
                return _Wrong(index, reason)
        one = last - first == 1
        data = batch.span(first, last)
        try:
            size = pa.py_buffer(np.array([0, len(data)], np.int32))
            pa.StringArray.from_buffers(1, size, pa.py_buffer(data)).validate(full=True)
        except pa.ArrowInvalid:
            return _Wrong(first, _not_text(bytes(data))) if one else _Wrong()
        try:
            table = self._arrow(data)
        except (pa.ArrowException, ValueError) as error:
            match = _COMPLAINT.search(str(error))
            at = first if one else first + int(match[2]) - 1 if match and match[2] else None
            if at is None or last - first > GROUP:
                return _Wrong()
            return _Wrong(at, self._explained(batch, str(error)))
        if table.num_rows != last - first:
            return _Wrong(first, "not one record") if one else _Wrong()
        return self._completed(table)

    def _completed(self, table: pa.Table) -> pa.Table:
        if not self._lacks:
            return table
        columns = [
            table.column(each.name) if each.name in table.column_names else pa.nulls(table.num_rows, each.type)
            for each in self._schema
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _arrow(self, data: memoryview | bytes) -> pa.Table:
        return pv.read_csv(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=pv.ReadOptions(
                use_threads=False, column_names=self._header.names, block_size=max(len(data) + 1, 1024)
            ),
            parse_options=self._parse_options,
            convert_options=self._convert_options,
        )

    def _marked(self, batch: Batch, index: int) -> str:
        """What the scan has found wrong with a record; nothing for a long integer that is exact as a float."""
        mark = int(batch.marks[index])
        names = self._header.names
        if mark == csv_scan.FIELDS:
            found = csv_scan.count_fields(np.frombuffer(batch.record(index), np.uint8), ord(self._header.delimiter))
            return f"expected {len(names)} fields, got {found}"
        if mark not in (BIG, csv_scan.LOOSE):
            return csv_scan.REASONS[mark]
        for name, text in zip(names, self._fields(batch, index), strict=True):
            if name not in self._schema.names or name in self._options.types or text in self._options.nulls:
                continue
            kind = self._schema.field(name).type
            why = csv_scan.loose(text, pa.types.is_int64(kind), pa.types.is_float64(kind))
            if why or (pa.types.is_float64(kind) and not exact(text)):
                return _declare(name, text, why or "is not exact as float64")
        return ""

    def _fields(self, batch: Batch, index: int) -> list[str]:
        text = batch.record(index).decode("utf-8", "replace")
        return next(csv.reader(text.splitlines(keepends=True), delimiter=self._header.delimiter))

    def _explained(self, batch: Batch, complaint: str) -> str:
        """Say which column Arrow means; raises ``WidenError`` if a wider type would do."""
        match = _COMPLAINT.search(complaint)
        if match is None:
            return complaint.strip().splitlines()[0]
        name, kind = self._header.names[int(match[1])], match[3]
        value = _VALUE.search(match[4])
        text = value[1] if value else match[4]
        if name in self._options.types:
            return f"column '{name}': {shown(text)} is no {kind}"
        wider = self._widened(batch)
        if not wider.field(name).type.equals(self._schema.field(name).type):
            raise WidenError(wider, f"column '{name}': {shown(text)} needs {wider.field(name).type}, not {kind}")
        return _declare(name, text, f"is no {kind}")

    def _widened(self, batch: Batch) -> pa.Schema:
        """Schema for all good records of the batch: NULL to anything, int64 to float64, and new columns."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, self._wider(batch)
        return self._last[1]

    def _wider(self, batch: Batch) -> pa.Schema:
        texts = _Texts(self._header, self._options).block(batch).table
        known = {each.name: each.type for each in self._schema}
        names = [*self._schema.names, *(each for each in self._header.names if each not in known)]
        if self._options.partial:
            names = self._schema.names
        for name in names:
            kind = known.get(name, self._options.types.get(name, pa.null()))
            known[name] = kind
            if name not in texts.column_names or name in self._options.types:
                continue
            if pa.types.is_null(kind) or pa.types.is_int64(kind):
                known[name] = recognised(texts.column(name), kind)
        return pa.schema([(name, known[name]) for name in names])


class _Texts(_Parser):
    """Reads every column as text, to recognise types by."""

    def __init__(self, header: _Header, options: Options) -> None:
        super().__init__(header, _texts(header.names), Options(options.delimiter, options.nulls))

    def _marked(self, batch: Batch, index: int) -> str:
        return "" if batch.marks[index] in (BIG, csv_scan.LOOSE) else super()._marked(batch, index)


def _declare(name: str, text: str, what: str) -> str:
    return f"column '{name}': {shown(text)} {what}; declare it: types: {{{name}: string}}"


def _not_text(record: bytes) -> str:
    try:
        record.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is 0x{record[error.start]:02x}"
    return "not UTF-8"
