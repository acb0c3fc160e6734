"""Stage ``filter``: rows whose condition is true go on."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curation.expressions import ExpressionError, RowExpression
from curation.methods.filter import Filter
from curation.stages.base import BindError, Drop, Fault, Outcome, Stage, State
from curation.tables import keep


class FilterStage(Stage[Filter]):
    """Drops rows by a row-wise SQL condition, false and NULL under different reasons."""

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Type-check the condition."""
        try:
            RowExpression.parse(self.params.where).check_predicate(schema)
        except ExpressionError as error:
            raise BindError([Fault(("where",), str(error))]) from error
        return schema

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Columns named in the condition, besides what is wanted."""
        return wanted | frozenset(RowExpression.parse(self.params.where).columns)

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Split the chunk by the condition."""
        mask = RowExpression.parse(self.params.where).predicate(table)
        drops = []
        if mask.null_count:
            drops.append(Drop.of(keep(table, pc.is_null(mask)), "null condition"))
        if mask.false_count:
            drops.append(Drop.of(keep(table, pc.invert(mask)), "filter"))
        return Outcome({"": keep(table, mask) if drops else table}, tuple(drops))


STAGE = FilterStage
