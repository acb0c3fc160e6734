"""Stage ``derive``: new columns by row-wise SQL."""

from __future__ import annotations

import pyarrow as pa

from curation.expressions import ExpressionError, RowExpression
from curation.methods.derive import Derive
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import reserved
from curation.types import in_order


class DeriveStage(Stage[Derive]):
    """Adds columns, or replaces them; every expression sees the columns as they come in."""

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Type-check the expressions on an empty table."""
        faults, fields = reserved(self.params.columns, ("columns",)), {f.name: f for f in schema}
        for name, text in self.params.columns.items():
            try:
                fields[name] = pa.field(name, RowExpression.parse(text).check(schema))
            except ExpressionError as error:
                faults.append(Fault(("columns", name), str(error)))
        if faults:
            raise BindError(faults)
        return in_order(pa.schema(list(fields.values()), metadata=schema.metadata))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Columns that the wanted expressions name."""
        named = {
            column
            for name, text in self.params.columns.items()
            if name in wanted
            for column in RowExpression.parse(text).columns
        }
        return (wanted - self.params.columns.keys()) | named

    def carries(self, column: str, port: str) -> str | None:
        """A column that is computed anew is another one."""
        return None if column in self.params.columns else column

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Evaluate the expressions whose columns are here."""
        present = set(table.column_names)
        new = {}
        for name, text in self.params.columns.items():
            expression = RowExpression.parse(text)
            if present.issuperset(expression.columns):
                new[name] = expression.evaluate(table)
        for name, values in new.items():
            if name in present:
                table = table.set_column(table.column_names.index(name), name, values)
            else:
                table = table.append_column(name, values)
        return Outcome({"": table})


STAGE = DeriveStage
