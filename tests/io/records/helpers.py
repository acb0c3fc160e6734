"""Reads bytes with a record format the way the engine does."""

from __future__ import annotations

import io

import pyarrow as pa

from curation.io.records import record_format
from curation.io.records.base import Block, BrokenStreamError, Options, WidenError


class Got:
    """All of a file: rows as dictionaries, ``None`` in place of bad ones, and the error that ended it."""

    def __init__(self, blocks: list[Block], schema, error):
        self.blocks, self.schema, self.error = blocks, schema, error
        self.bad = [each for block in blocks for each in block.bad]
        wrong = {each.row for each in self.bad}
        rows = [
            row for b in blocks for row in (b.table.to_pylist() if b.table.column_names else [{}] * b.table.num_rows)
        ]
        assert all(value is None for at in wrong for value in rows[at].values())
        self.all = [None if at in wrong else row for at, row in enumerate(rows)]
        self.rows = [row for row in self.all if row is not None]
        self.reasons = {each.row: each.reason for each in self.bad}


def got(kind, data, *, name="a", options=None, schema=None, columns=None, start=0, stop=None):
    """Sniff and read, widening as often as asked."""
    reader, options = record_format(kind), options or Options()
    schema = schema or reader.sniff(io.BytesIO(data), options, name=name)
    if columns is not None:
        options = Options(options.delimiter, options.nulls, options.types, partial=True)
        schema = pa.schema([schema.field(each) for each in columns])
    while True:
        blocks, error = [], None
        try:
            for block in reader.read(io.BytesIO(data), schema, options, name=name, start=start, stop=stop):
                assert block.table.schema.equals(schema)
                blocks.append(block)
        except WidenError as wider:
            schema = wider.schema
            continue
        except BrokenStreamError as broken:
            error = broken
        return Got(blocks, schema, error)
