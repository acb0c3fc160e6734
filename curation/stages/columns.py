"""Checks that several stages share: columns that are not there, names that are ours."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc

from curation.stages.base import Fault
from curation.types import OWN_COLUMNS


def missing(schema: pa.Schema, name: str, path: tuple[str | int, ...]) -> Fault | None:
    """Fault of a column that does not come in, with the nearest name."""
    if name in schema.names:
        return None
    near = get_close_matches(name, schema.names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"columns here: {', '.join(schema.names)}"
    return Fault(path, f"no column {name!r}", hint)


def reserved(names: Iterable[str], path: tuple[str | int, ...]) -> list[Fault]:
    """Faults of new columns that would take one of our names."""
    return [
        Fault((*path, name), f"the name {name!r} is used by the build itself", "choose another name")
        for name in names
        if name in OWN_COLUMNS
    ]


def taken(schema: pa.Schema, names: Iterable[str], path: tuple[str | int, ...]) -> list[Fault]:
    """Faults of new columns whose names are in use: by a column that comes in, or by the build."""
    faults = []
    for name in names:
        if name in OWN_COLUMNS:
            faults.append(Fault(path, f"the name {name!r} is used by the build itself", "choose another name"))
        elif name in schema.names:
            faults.append(Fault(path, f"column {name!r} is there already", "choose another name"))
    return faults


def value_type(kind: pa.DataType) -> pa.DataType:
    """Type of the values of an encoded column."""
    encoded = pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
    return value_type(kind.value_type) if encoded else kind


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain values of a dictionary- or run-end-encoded column; others as they are."""
    if pa.types.is_run_end_encoded(column.type):
        return decoded(pc.run_end_decode(column))
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
