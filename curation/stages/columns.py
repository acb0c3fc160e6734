"""Checks that several stages share: columns that are not there, names that are ours."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import pyarrow as pa

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
