"""Picking rows of Arrow tables, for all types, also those that Arrow's own ``take`` does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def take(table: pa.Table, positions: NDArray[Any]) -> pa.Table:
    """Rows of a table by position, in the order of ``positions``."""
    return _by_column(table, lambda column: column.take(pa.array(positions)))


def keep(table: pa.Table, mask: NDArray[np.bool_] | pa.BooleanArray) -> pa.Table:
    """Rows of a table where the mask is true; NULL counts as false."""
    chosen = mask if isinstance(mask, pa.Array | pa.ChunkedArray) else pa.array(mask)
    if all(_known(field.type) for field in table.schema):
        return table.filter(chosen)
    return take(table, np.flatnonzero(np.asarray(pc.fill_null(chosen, False))))


def _by_column(table: pa.Table, pick: Any) -> pa.Table:
    if all(_known(field.type) for field in table.schema):
        columns = [pick(column) for column in table.columns]
    else:
        columns = [_through(column, pick) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _through(column: pa.ChunkedArray, pick: Any) -> pa.ChunkedArray:
    kind = column.type
    if _known(kind):
        return pick(column)
    if pa.types.is_run_end_encoded(kind):
        flat = pc.run_end_decode(column)
        return pc.run_end_encode(_through(flat, pick), run_end_type=kind.run_end_type).cast(kind)
    return pick(column.cast(_plain(kind))).cast(kind)


def _known(kind: pa.DataType) -> bool:
    """Whether Arrow can pick rows of a type: all but views of text and bytes, and run-end encoding."""
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind) or pa.types.is_run_end_encoded(kind):
        return False
    if isinstance(kind, pa.BaseExtensionType):
        return _known(kind.storage_type)
    return all(_known(kind.field(i).type) for i in range(kind.num_fields))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The same type without views."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_plain(f.type)) for f in kind])
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_plain(kind.key_type)), kind.item_field.with_type(_plain(kind.item_type))
        )
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return kind
