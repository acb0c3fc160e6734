"""Stage ``sort``: changes no row; outputs that read from it write their rows in its order."""

from __future__ import annotations

import pyarrow as pa

from curation.methods.sort import Sort
from curation.ordering import sortable
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import missing


class SortStage(Stage[Sort]):
    """Marks the order in which an output writes its rows; every stage works on rows in any order."""

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the columns."""
        faults = []
        for i, (name, _) in enumerate(self.params.columns):
            fault = missing(schema, name, ("by", i)) or unsortable(schema.field(name), ("by", i))
            faults += [fault] if fault else []
        if faults:
            raise BindError(faults)
        return schema

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """What is wanted."""
        return wanted

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Pass the rows on."""
        return Outcome({"": table})


def unsortable(field: pa.Field, path: tuple[str | int, ...]) -> Fault | None:
    """Fault of a column whose values have no order."""
    if sortable(field.type):
        return None
    hint = "sort by a plain column; `derive` one from it"
    return Fault(path, f"column {field.name!r} is {field.type}, whose values have no order", hint)


STAGE = SortStage
