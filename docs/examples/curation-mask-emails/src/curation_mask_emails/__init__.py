"""Stage ``mask_emails``: e-mail addresses in a column of text become a mask, and are counted."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.methods.base import Params
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import missing, reserved
from curation.types import in_order

# What people write, not all that the standard allows: no quoted names, and a top-level domain of letters.
ADDRESS = r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"


class MaskEmails(Params):
    """Options of ``use: mask_emails``."""

    column: str = Field(description="column of text")
    mask: str = Field(default="[email]", description="what stands in the place of an address")
    count: str = Field(default="n_emails", min_length=1, description="column that is added: addresses in the row")


class MaskEmailsStage(Stage[MaskEmails]):
    """Replaces the column and adds the count; NULL stays NULL and has no count."""

    params_type = MaskEmails

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the column, its type, and the new name."""
        column, count = self.params.column, self.params.count
        faults = [missing(schema, column, ("column",)), *reserved([count], ("count",))]
        if count in schema.names:
            faults.append(Fault(("count",), f"column {count!r} is there already", "choose another name"))
        if column in schema.names and not _is_text(kind := schema.field(column).type):
            faults.append(Fault(("column",), f"column {column!r} is {kind}, not text"))
        if found := [fault for fault in faults if fault]:
            raise BindError(found)
        return in_order(schema.append(pa.field(count, pa.int32())))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """The column, if its count is wanted."""
        rest = wanted - {self.params.count}
        return rest | {self.params.column} if self.params.count in wanted else rest

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Mask and count in one chunk."""
        if self.params.column not in table.column_names:  # nobody wants it in this pass
            return Outcome({"": table})
        at = table.column_names.index(self.params.column)
        text = table.column(at)
        counts = pc.count_substring_regex(text, ADDRESS).cast(pa.int32())
        mask = self.params.mask.replace("\\", "\\\\")  # else it would refer to a group of the expression
        masked = pc.replace_substring_regex(text, ADDRESS, mask)
        table = table.set_column(at, table.schema.field(at), masked)
        return Outcome({"": table.append_column(self.params.count, counts)})


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
