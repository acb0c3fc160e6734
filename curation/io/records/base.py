"""What every format that is read front to back gives: blocks of rows, and exactly named bad records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa

RAW_BYTES = 64 << 10
"""Bytes of a bad record that are kept to look at."""
SNIFF_BYTES = 4 << 20
"""Decompressed bytes by which types are recognised."""
MAX_RECORD_BYTES = 64 << 20
"""A longer record is a lost line end or a decompression bomb: it is skipped without being held."""
BLOCK_ROWS = 65_536
READ_BYTES = 4 << 20
"""Bytes parsed at a time; a block holds these, or one record that is longer, or ``BLOCK_ROWS`` rows."""


@dataclass(frozen=True)
class BadRecord:
    """One record that cannot be used.

    Parameters
    ----------
    row
        Number of the record in what was read, from 0; bad records count, blank lines do not.
    offset
        First byte in the decompressed stream; -1 where there is none.
    length
        Size [bytes].
    reason
        What is wrong, one line, with column and value where known.
    raw
        The first ``RAW_BYTES`` of it.
    """

    row: int
    offset: int
    length: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Block:
    """Consecutive records: one row each, in the columns asked for; rows of ``bad`` records are all NULL."""

    table: pa.Table
    bad: tuple[BadRecord, ...] = ()


class BrokenStreamError(Exception):
    """The stream ends early or is corrupt; everything before that place was given.

    ``corrupt``: what was given may be wrong, too, since a check sum stands at the end of what it covers.
    """

    def __init__(self, text: str, *, corrupt: bool = False) -> None:
        self.corrupt = corrupt
        super().__init__(text)


class WidenError(Exception):
    """The types asked for are too narrow, but ``schema`` fits without loss: start the file again with it."""

    def __init__(self, schema: pa.Schema, why: str) -> None:
        self.schema = schema
        super().__init__(why)


@dataclass(frozen=True)
class Options:
    """How an input is to be read.

    Parameters
    ----------
    delimiter
        Of CSV; ``None`` goes by the suffix: tab for ``.tsv``, else a comma.
    nulls
        Texts of CSV that mean NULL.
    types
        Types that the user has declared, by column; they are never widened.
    partial
        The schema given to ``read`` is a choice of columns: others are ignored, they are not new.
    sniff_bytes
        Decompressed bytes by which types are recognised; ``None`` is ``SNIFF_BYTES``.
    """

    delimiter: str | None = None
    nulls: tuple[str, ...] = ("",)
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    partial: bool = False
    sniff_bytes: int | None = None

    @property
    def sniffed(self) -> int:
        """Bytes that :meth:`RecordFormat.sniff` looks at."""
        return SNIFF_BYTES if self.sniff_bytes is None else self.sniff_bytes


class RecordFormat(Protocol):
    """A format that is read front to back.

    ``source`` is the file as it is stored; ``name`` ends with the suffixes that tell how it is compressed.
    """

    def sniff(self, source: BinaryIO, options: Options, *, name: str) -> pa.Schema:
        """Columns and types, from the first bytes, as many as the options say.

        Raises
        ------
        UnreadableError
            If it is no such file (``curation.io.formats``).
        """

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
        """Rows of all records in order.

        Parameters
        ----------
        schema
            Columns that are built.
        start, stop
            Only records that begin in these bytes; for files without compression, where a format allows it.

        Raises
        ------
        WidenError
            If a wider schema is needed.
        BrokenStreamError
            After the last block, if the stream is broken.
        UnreadableError
            If the file as a whole does not fit.
        """


def assemble(schema: pa.Schema, parts: Sequence[pa.Table], rows: int, bad: Sequence[BadRecord], first: int) -> Block:
    """Put good rows and the NULL rows of bad records together.

    Parameters
    ----------
    schema
        Schema of the block.
    parts
        Tables of the good rows, in order.
    rows
        Records in the block, bad ones included.
    bad
        Bad records, in order.
    first
        Number of the block's first record.
    """
    if not schema.names:
        return Block(_empty(schema, rows), tuple(bad))
    table = parts[0] if len(parts) == 1 else pa.concat_tables([schema.empty_table(), *parts])
    if bad:
        good = np.ones(rows, np.bool_)
        good[[each.row - first for each in bad]] = False
        index = np.cumsum(good) - 1
        table = table.take(pa.array(np.where(good, index, 0), mask=~good)) if good.any() else _empty(schema, rows)
    return Block(table.combine_chunks(), tuple(bad))


def _empty(schema: pa.Schema, rows: int) -> pa.Table:
    if not schema.names:
        return pa.table({"": pa.nulls(rows)}).select([])  # only so does a table without columns have rows
    return pa.Table.from_arrays([pa.nulls(rows, each.type) for each in schema], schema=schema)


def shown(value: object, limit: int = 60) -> str:
    """Short text of a value for a reason, on one line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
