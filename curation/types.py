"""Names of our own columns, and the aliases used everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ids = NDArray[np.uint64]
Positions = NDArray[np.int64]

ROW_ID = "_row_id"
COPY = "_copy"
ORIGIN = "_origin"
WEIGHT = "_weight"
PARENT_A = "_parent_a"
PARENT_B = "_parent_b"
MIX = "_mix"

OWN_COLUMNS: dict[str, pa.DataType] = {
    ROW_ID: pa.uint64(),
    COPY: pa.uint32(),
    ORIGIN: pa.string(),
    WEIGHT: pa.float64(),
    PARENT_A: pa.uint64(),
    PARENT_B: pa.uint64(),
    MIX: pa.float64(),
}
"""Columns that we add, in the order in which they stand behind the user's."""

SYNTHETIC = np.uint64(1 << 63)
"""Bit that marks the row id of a synthetic row."""
ROW_BITS = 39
"""Low bits of a row id that count rows of one file, or of one class of synthetic rows."""


def in_order(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the user's columns first and ours behind them."""
    users = [field for field in schema if field.name not in OWN_COLUMNS]
    ours = [schema.field(name) for name in OWN_COLUMNS if name in schema.names]
    return pa.schema([*users, *ours], metadata=schema.metadata)


def with_own(schema: pa.Schema, *names: str) -> pa.Schema:
    """Add some of our columns to a schema, where they are not there yet."""
    for name in names:
        if name not in schema.names:
            schema = schema.append(pa.field(name, OWN_COLUMNS[name]))
    return in_order(schema)


def ids_of(table: pa.Table, column: str = ROW_ID) -> Ids:
    """Row ids of a table, shape (n,)."""
    ids: Ids = table.column(column).to_numpy().astype(np.uint64, copy=False)
    return ids


def copies_of(table: pa.Table) -> NDArray[np.uint32]:
    """Copy numbers of a table, shape (n,); zeros where rows are not copied."""
    if COPY not in table.column_names:
        return np.zeros(table.num_rows, np.uint32)
    copies: NDArray[np.uint32] = table.column(COPY).to_numpy().astype(np.uint32, copy=False)
    return copies


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns of a schema, in its order and with its exact types and metadata."""
    columns = [
        column if column.type.equals(field.type, check_metadata=True) else column.cast(field.type)
        for field, column in ((field, table.column(field.name)) for field in schema)
    ]
    if not columns:
        return table.select([]).replace_schema_metadata(schema.metadata)
    return pa.Table.from_arrays(columns, schema=schema)


def schema_key(schema: pa.Schema) -> str:
    """Schema as text that is equal for equal schemas."""
    raw: str = schema.serialize().to_pybytes().hex()
    return raw


@dataclass(frozen=True)
class _Packed:
    """A schema on its way to another process."""

    raw: bytes


class CarriesSchemas:
    """Base of dataclasses that hold schemas and travel: pyarrow's own pickling renames the items of lists."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _pack(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, _unpack(value))


def _pack(value: Any) -> Any:
    if isinstance(value, pa.Schema):
        return _Packed(value.serialize().to_pybytes())
    if isinstance(value, dict):
        return {key: _pack(each) for key, each in value.items()}
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, _Packed):
        return pa.ipc.read_schema(pa.BufferReader(value.raw))
    if isinstance(value, dict):
        return {key: _unpack(each) for key, each in value.items()}
    return value
