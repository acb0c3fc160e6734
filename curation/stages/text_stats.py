"""Stage ``text_stats``: adds counts and shares of a column of text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.keys import content_key
from curation.methods.text_stats import COUNTS, TextStats, text_stats
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import decoded, missing, taken, value_type
from curation.types import in_order

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


class TextStatsStage(Stage[TextStats]):
    """Adds a column per statistic; what is NULL has none."""

    def key(self, use: str) -> str:
        """Content key; the kinds of characters follow the Unicode version of the interpreter."""
        return content_key(super().key(use), unicodedata.unidata_version)

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the column and the new names."""
        fault = missing(schema, self.params.column, ("column",))
        if fault is None:
            kind = schema.field(self.params.column).type
            if not any(test(value_type(kind)) for test in _TEXT):
                hint = f"derive one: `cast({self.params.column} as varchar)`"
                fault = Fault(("column",), f"column {self.params.column!r} is {kind}, not text", hint)
        place = ("column",) if self.params.prefix is None else ("prefix",)
        if faults := [*([fault] if fault else []), *taken(schema, self.params.names(), place)]:
            raise BindError(faults)
        fields = [pa.field(n, pa.int64() if s in COUNTS else pa.float64()) for n, s in self.params.names().items()]
        return in_order(pa.schema([*schema, *fields], metadata=schema.metadata))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """The text, if one of its statistics is wanted."""
        new = self.params.names().keys()
        return (wanted - new) | ({self.params.column} if wanted & new else set())

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Measure the texts of the chunk."""
        if self.params.column not in table.column_names:  # nobody wants a statistic in this pass
            return Outcome({"": table})
        names = self.params.names()
        parts = [_measured(chunk, self.params) for chunk in decoded(table.column(self.params.column)).chunks]
        for i, (name, stat) in enumerate(names.items()):
            kind = pa.int64() if stat in COUNTS else pa.float64()
            table = table.append_column(name, pa.chunked_array([part[i] for part in parts], kind))
        return Outcome({"": table})


def _measured(texts: pa.Array, params: TextStats) -> list[pa.Array]:
    """Columns of statistics of one array of plain text."""
    if pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.large_string())
    data, offsets = _buffers(texts)
    unknown = None if texts.null_count == 0 else ~np.asarray(texts.is_valid())
    found = text_stats(data, offsets, list(params.names().values()))
    return [pa.array(values, mask=unknown) for values in found.values()]


def _buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes and offsets of a text array, without a copy of the bytes."""
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or offsets is None:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    places = np.frombuffer(offsets, width, count=texts.offset + len(texts) + 1)[texts.offset :]
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return raw, places.astype(np.int64)


STAGE = TextStatsStage
