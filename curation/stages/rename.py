"""Stage ``rename``: other names for columns."""

from __future__ import annotations

import pyarrow as pa

from curation.methods.rename import Rename
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import missing, reserved
from curation.types import OWN_COLUMNS


class RenameStage(Stage[Rename]):
    """Renames columns; values are untouched."""

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check old names and that the new ones stay distinct."""
        mapping = self.params.columns
        faults = [missing(schema, old, ("columns", old)) for old in mapping]
        found = [fault for fault in faults if fault] + reserved(mapping.values(), ("columns",))
        found += [
            Fault(("columns", old), f"{old!r} is a column of the build itself", "it cannot be renamed")
            for old in mapping
            if old in OWN_COLUMNS
        ]
        names = [mapping.get(name, name) for name in schema.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        found += [Fault(("columns",), f"two columns would be named {name!r}") for name in twice]
        if found:
            raise BindError(found)
        fields = [field.with_name(name) for field, name in zip(schema, names, strict=True)]
        return pa.schema(fields, metadata=schema.metadata)

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Old names of the wanted columns."""
        old = {new: old for old, new in self.params.columns.items()}
        return frozenset(old.get(name, name) for name in wanted)

    def carries(self, column: str, port: str) -> str | None:
        """The new name."""
        return self.params.columns.get(column, column)

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Rename."""
        return Outcome({"": table.rename_columns([self.params.columns.get(n, n) for n in table.column_names])})


STAGE = RenameStage
