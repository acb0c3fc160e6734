"""Small files of JSON lines read as one text: to parse a file costs more than to read it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from curation.io.records.base import BadRecord, Block, Options
from curation.io.records.jsonl import JSONL, scan_lines
from curation.io.records.splitter import BOM, Batch, Records


class JoinedLines:
    """Lines of several texts, counted over all of them.

    Parameters
    ----------
    texts
        Whole files, not compressed; each ends a line, whether it says so or not.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._marks = [len(BOM) if text.startswith(BOM) else 0 for text in texts]
        bare = [text[mark:] for text, mark in zip(texts, self._marks, strict=True)]
        self._sizes = [len(text) for text in bare]
        ended = [text if not text or text.endswith(b"\n") else text + b"\n" for text in bare]
        self._starts = np.cumsum([0, *(len(text) for text in ended)])[:-1]
        self._data = b"".join(ended)
        self.counts = self._counted()
        self._firsts = np.cumsum([0, *self.counts])[:-1]

    def _counted(self) -> list[int]:
        counts = np.zeros(len(self._starts), np.int64)
        for found in Records(io.BytesIO(self._data), scan_lines):
            begins = found.offset + found.starts if isinstance(found, Batch) else np.array([found.offset])
            counts += np.bincount(np.searchsorted(self._starts, begins, side="right") - 1, minlength=len(counts))
        return [int(count) for count in counts]

    def read(self, schema: pa.Schema, options: Options) -> Iterator[Block]:
        """Rows of all lines; see :class:`curation.io.records.base.RecordFormat`."""
        return JSONL.read(io.BytesIO(self._data), schema, options, name="joined.jsonl")

    def place(self, record: BadRecord) -> tuple[int, BadRecord]:
        """Number of the text that a bad record stands in, and the record as that text counts it."""
        at = int(np.searchsorted(self._firsts, record.row, side="right")) - 1
        offset = record.offset - int(self._starts[at])
        length = min(record.length, self._sizes[at] - offset)
        row = record.row - int(self._firsts[at])
        return at, replace(record, row=row, offset=offset + self._marks[at], length=length, raw=record.raw[:length])
