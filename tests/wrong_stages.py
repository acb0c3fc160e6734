"""Stages that break one promise each, for the tests of the kit; ``Right`` breaks none."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.methods.base import Params
from curation.rng import stream_key, uniform
from curation.stages.base import BindError, Drop, Fault, FitStage, Outcome, Stage
from curation.stages.columns import missing
from curation.tables import keep
from curation.types import in_order


class Scale(Params):
    """Options of the stages here."""

    column: str = Field(default="x", description="column of numbers")


class ScaleByAll(Scale):
    """Options of the stages here that count first."""

    shape = "fit"


class Right(Stage[Scale]):
    """Adds the double of a column and drops rows of which it is negative."""

    params_type = Scale

    def bind(self, schema: pa.Schema) -> pa.Schema:
        if fault := missing(schema, self.params.column, ("column",)):
            raise BindError([fault])
        return in_order(schema.append(pa.field("y", pa.float64())))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        return (wanted - {"y"}) | {self.params.column}

    def values(self, table: pa.Table) -> pa.ChunkedArray:
        return pc.multiply(table.column(self.params.column), 2.0)

    def apply(self, table: pa.Table, state: object) -> Outcome:
        table = table.append_column("y", self.values(table))
        negative = pc.fill_null(pc.less(table.column(self.params.column), 0.0), False)
        return Outcome({"": keep(table, pc.invert(negative))}, (Drop.of(keep(table, negative), "negative"),))


class LooksAround(Right):
    def values(self, table):
        column = table.column(self.params.column)
        return pc.subtract(column, pc.mean(column))


class LooksBehind(Right):
    def values(self, table):
        return pa.chunked_array([np.arange(table.num_rows, dtype=float)])


class Overwrites(Right):
    def apply(self, table, state):
        if table.num_rows:
            ctypes.memset(table.column("x").chunk(0).buffers()[1].address, 0, 8)
        return super().apply(table, state)


class LosesRows(Right):
    def apply(self, table, state):
        return Outcome(super().apply(table, state).tables)


class NeedsMore(Right):
    def values(self, table):
        return pc.add(table.column("x"), table.column("n"))


class NeedsMoreInSecret(Right):
    def values(self, table):
        return super().values(table) if "n" in table.column_names else pc.multiply(table.column("x"), 3.0)


class NeedsWhatIsNew(Right):
    def needs(self, wanted):
        return wanted | {"x"}


class AcceptsAll(Right):
    def bind(self, schema):
        return in_order(schema.append(pa.field("y", pa.float64())))


class Stumbles(Right):
    def bind(self, schema):
        schema.field(self.params.column)
        return super().bind(schema)


class BlamesNobody(Right):
    def bind(self, schema):
        if self.params.column not in schema.names:
            raise BindError([Fault((), "a column is missing")])
        return super().bind(schema)


class LosesIds(Right):
    def bind(self, schema):
        return pa.schema([field for field in super().bind(schema) if field.name != "_row_id"])


class Returns(Right):
    def apply(self, table, state):
        return super().apply(table, state).tables[""]


class OtherType(Right):
    def values(self, table):
        return super().values(table).cast(pa.float32())


class Forgets(Right):
    def apply(self, table, state):
        outcome = super().apply(table, state)
        return Outcome({"": outcome.tables[""].drop_columns(["y"])}, outcome.drops)


class GivesMore(Right):
    def apply(self, table, state):
        outcome = super().apply(table, state)
        return Outcome({"": outcome.tables[""].append_column("z", outcome.tables[""].column("y"))}, outcome.drops)


class NewIds(Right):
    def apply(self, table, state):
        outcome = super().apply(table, state)
        kept = outcome.tables[""]
        at = kept.column_names.index("_row_id")
        return Outcome(
            {"": kept.set_column(at, "_row_id", pc.add(kept.column("_row_id"), pa.scalar(1, pa.uint64())))},
            outcome.drops,
        )


class NoIds(Right):
    def apply(self, table, state):
        outcome = super().apply(table, state)
        return Outcome({"": outcome.tables[""].drop_columns(["_row_id"])}, outcome.drops)


class Repeats(Right):
    def apply(self, table, state):
        outcome = super().apply(table, state)
        kept = outcome.tables[""]
        return Outcome({"": pa.concat_tables([kept, kept])}, outcome.drops, created=kept.num_rows)


class WantsRows(Right):
    def values(self, table):
        table.column("x")[0]
        return super().values(table)


class Draws(Right):
    def values(self, table):
        ids = table.column("_row_id").to_numpy()
        return pa.chunked_array([uniform(stream_key(self.seed, self.name, "here"), ids)])


class Remembers(Right):
    calls = 0

    def values(self, table):
        Remembers.calls += 1
        return pc.add(table.column("x"), float(Remembers.calls))


class ByProcess(Right):
    def values(self, table):
        return pa.chunked_array([np.full(table.num_rows, float(os.getpid()))])


class WrongShape(Right, FitStage[Scale]):
    def fit_columns(self):
        return frozenset({"x"})

    def partial(self, table, state):
        return {"rows": table.num_rows}

    def merge(self, left, right):
        return {"rows": left["rows"] + right["rows"]}

    def advance(self, state, merged):
        return merged, True


class RightFit(WrongShape):
    params_type = ScaleByAll


class SpoilsTheState(RightFit):
    def apply(self, table, state):
        state["rows"] += 1
        return super().apply(table, state)


class FitNeedsMore(RightFit):
    def partial(self, table, state):
        return {"rows": table.column("n").length()}


class FitNeedsRows(RightFit):
    def partial(self, table, state):
        return {"rows": table.column("x")[0].as_py()}
