"""Stage ``concat``: the rows of several tables in one, under one schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.errors import BuildError
from curation.keys import content_key
from curation.methods.concat import Concat, spread_copies
from curation.stages.base import BindError, Coming, Fault, Outcome, Stage, State, Tables
from curation.types import COPY, OWN_COLUMNS, CarriesSchemas, copies_of, in_order, schema_key, with_own
from curation.widen import WidenError, fit, unify


@dataclass(frozen=True)
class _Bound(CarriesSchemas):
    """What goes out, the columns of each table that comes in, and whether a row can come in twice."""

    out: pa.Schema
    columns: tuple[frozenset[str], ...]
    spread: bool


class ConcatStage(Stage[Concat]):
    """Puts tables together; rows keep their ids.

    Where a row can come in by two tables, its copies are told apart: ``_copy * tables + number of the table``.
    """

    def __init__(self, name: str, params: Concat, seed: int) -> None:
        super().__init__(name, params, seed)
        self._bound = _Bound(pa.schema([]), (), False)

    def key(self, use: str) -> str:
        """Content key, types included: those of one table depend on the others."""
        return content_key(super().key(use), schema_key(self._bound.out))

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """One table alone stays as it is."""
        return self.bind_all(Coming((schema,), {}))[""]

    def bind_all(self, coming: Coming) -> Mapping[str, pa.Schema]:
        """Find the schema that holds the rows of all tables."""
        bare = [_without(schema, COPY) for schema in coming.flows]
        strict = self.params.columns == "strict"
        try:
            users = [pa.schema([f for f in schema if f.name not in OWN_COLUMNS]) for schema in bare]
            unify(users, exact=self.params.exact, strict=strict)
            out = unify(bare, exact=self.params.exact)
        except WidenError as error:
            hint = "derive a column of one type in one of them" if "one type" in str(error) else "select or derive it"
            raise BindError([Fault(("from",), str(error), hint)]) from error
        spread = not coming.disjoint
        copied = spread or any(COPY in schema.names for schema in coming.flows)
        out = with_own(out, COPY) if copied else in_order(out)
        self._bound = _Bound(out, tuple(frozenset(schema.names) for schema in coming.flows), spread)
        return {"": out}

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """What is wanted."""
        return wanted

    def needs_from(self, flow: int, wanted: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """What is wanted of the columns that the table has."""
        return wanted[""] & self._bound.columns[flow]

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Work on one table alone."""
        return self.flow([table], state, None)

    def flow(self, tables: Sequence[pa.Table | None], state: State, artifact: Tables | None) -> Outcome:
        """Bring the rows of all tables to one schema, those of the first table first."""
        here = [(i, table) for i, table in enumerate(tables) if table is not None]
        out = self._bound.out
        fields = [field for field in out if all(self._has(i, table, field.name) for i, table in here)]
        schema = pa.schema(fields, metadata=out.metadata)
        return Outcome({"": pa.concat_tables([self._fitted(i, table, schema) for i, table in here])})

    def _has(self, number: int, table: pa.Table, name: str) -> bool:
        """Whether a column is there, or is one that this table never has."""
        return name in table.column_names or name not in self._bound.columns[number]

    def _fitted(self, number: int, table: pa.Table, schema: pa.Schema) -> pa.Table:
        if COPY in schema.names:
            table = self._with_copies(number, table)
        try:
            return fit(table, schema)
        except WidenError as error:
            raise BuildError(f"stage '{self.name}', table {number + 1} of `from`: {error}") from error

    def _with_copies(self, number: int, table: pa.Table) -> pa.Table:
        copies: Any = copies_of(table)
        if self._bound.spread:
            try:
                copies = spread_copies(copies, table=number, tables=len(self._bound.columns))
            except ValueError as error:
                raise BuildError(f"stage '{self.name}', table {number + 1} of `from`: {error}") from error
        bare = table.drop_columns([COPY]) if COPY in table.column_names else table
        return bare.append_column(COPY, pa.array(copies, OWN_COLUMNS[COPY]))


def _without(schema: pa.Schema, name: str) -> pa.Schema:
    return schema.remove(schema.get_field_index(name)) if name in schema.names else schema


STAGE = ConcatStage
