"""Stage ``select``: which columns go on."""

from __future__ import annotations

import pyarrow as pa

from curation.methods.select import Select, selected_columns
from curation.stages.base import BindError, Outcome, Stage, State
from curation.stages.columns import missing
from curation.types import OWN_COLUMNS, in_order


class SelectStage(Stage[Select]):
    """Keeps or drops columns; those of the build itself (``_row_id`` ...) always stay."""

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check that the columns are there."""
        field = "drop" if self.params.columns is None else "columns"
        named = self.params.columns if self.params.columns is not None else (self.params.drop or [])
        faults = [missing(schema, name, (field, i)) for i, name in enumerate(named)]
        if any(faults):
            raise BindError([fault for fault in faults if fault])
        chosen = selected_columns(schema.names, columns=self.params.columns, drop=self.params.drop)
        kept = [*chosen, *(name for name in schema.names if name in OWN_COLUMNS and name not in chosen)]
        return in_order(pa.schema([schema.field(name) for name in kept], metadata=schema.metadata))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Nothing beyond what is wanted."""
        return wanted

    def carries(self, column: str, port: str) -> str | None:
        """A column that stays is the same one."""
        return column if self._stays(column) else None

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Pass the rows on without columns that are dropped but were read, so that others may take their names."""
        return Outcome({"": table.select([name for name in table.column_names if self._stays(name)])})

    def _stays(self, name: str) -> bool:
        if name in OWN_COLUMNS:
            return True
        return name not in self.params.drop if self.params.drop is not None else name in (self.params.columns or [])


STAGE = SelectStage
