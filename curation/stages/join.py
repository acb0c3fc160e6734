"""Stage ``join``: columns of another table by key, or rows by whether it has their key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.methods.join import Join
from curation.methods.lookup import numbers_within
from curation.stages.base import BindError, Coming, Drop, Fault, Outcome, State, Tables
from curation.stages.columns import missing, reserved
from curation.stages.lookup import Lookup, LookupStage, common_key
from curation.tables import keep, take
from curation.types import COPY, OWN_COLUMNS, in_order, with_own

Matches = tuple[NDArray[np.int64], pa.Table]
"""Positions of rows that found something, ascending, and what was found for each."""


class JoinStage(LookupStage[Join]):
    """Looks rows up by key in the table ``right``, whose own rows end here.

    With ``matches: all`` a row goes on once for every match, its copies numbered in the order of the matches' row ids.
    """

    side = "right"

    def __init__(self, name: str, params: Join, seed: int) -> None:
        super().__init__(name, params, seed)
        self.once = params.matches == "one" and params.how in ("inner", "left")
        self._added: dict[str, str] = {}  # name here by name on the right

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Bind a table that is joined with itself."""
        return self.bind_all(Coming((schema,), {"right": schema}))[""]

    def bind_all(self, coming: Coming) -> Mapping[str, pa.Schema]:
        """Check the keys on both sides, and the columns that come over."""
        left, right = coming.flows[0], coming.sides["right"]
        kinds = self._kinds(left, right)
        values = self._values(left, right)
        if self.params.matches == "all" and COPY in left.names:
            hint = "join before rows are drawn with replacement or put together twice"
            raise BindError([Fault(("matches",), "rows come in as copies, which `matches: all` would number", hint)])
        self._lookup = Lookup(tuple(self.params.left_keys), tuple(self.params.right_keys), kinds, values)
        nullable = self.params.how == "left"
        new = [f.with_name(self._added[f.name]).with_nullable(f.nullable or nullable) for f in values]
        out = in_order(pa.schema([*left, *new], metadata=left.metadata))
        return {"": with_own(out, COPY) if self.params.matches == "all" else out}

    def _kinds(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:
        names = (self.params.left_keys, self.params.right_keys)
        paths = [("on",), ("on",)] if self.params.on is not None else [("left_on",), ("right_on",)]
        faults = [
            missing(s, name, path) for s, each, path in zip((left, right), names, paths, strict=True) for name in each
        ]
        if any(faults):
            raise BindError([fault for fault in faults if fault])
        found = [common_key(left.field(a), right.field(b), paths[0]) for a, b in zip(*names, strict=True)]
        if wrong := [each for each in found if isinstance(each, Fault)]:
            raise BindError(wrong)
        kinds = [each for each in found if not isinstance(each, Fault)]
        return pa.schema([each.with_name(f"k{i}") for i, each in enumerate(kinds)])

    def _values(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:
        if self.params.how in ("semi", "anti"):
            return pa.schema([])
        chosen = self.params.columns
        named = [n for n in right.names if n not in self.params.right_keys and n not in OWN_COLUMNS]
        faults = [missing(right, name, ("columns", i)) for i, name in enumerate(chosen or [])]
        faults += reserved(chosen or [], ("columns",))
        names = named if chosen is None else chosen
        self._added = {name: name if name not in left.names else name + self.params.suffix for name in names}
        new = list(self._added.values())
        for name in sorted({n for n in new if n in left.names or new.count(n) > 1}):
            faults.append(Fault(("suffix",), f"two columns would be named {name!r}", "choose another suffix"))
        faults += reserved([name for name in new if name not in names], ("suffix",))
        if any(faults):
            raise BindError([fault for fault in faults if fault])
        return pa.schema([right.field(name) for name in names])

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Keys, and what is wanted but for columns that are added here."""
        made = {*self._added.values(), *([COPY] if self.params.matches == "all" else [])}
        return (wanted - made) | frozenset(self.params.left_keys)

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Is never called: rows pass with the tables at hand."""
        raise AssertionError(f"stage '{self.name}' looks rows up")

    def flow(self, tables: Sequence[pa.Table | None], state: State, artifact: Tables | None) -> Outcome:
        """Look the chunk up, partition by partition."""
        (table,) = tables
        assert table is not None
        assert artifact is not None
        wanted = artifact.wanted.get("", frozenset())
        names = [name for name in self._lookup.values.names if self._added[name] in wanted]
        rows, values = self._matches(table, state, artifact, names)
        if self.params.how in ("semi", "anti"):
            return self._kept(table, rows)
        return self._joined(table, rows, values)

    def _matches(self, table: pa.Table, state: State, artifact: Tables, names: list[str]) -> Matches:
        """Rows with what they have found, by position and then by row id of the match."""
        columns = [f"v.{name}" for name in names]
        schema = pa.schema([self._lookup.values.field(name).with_name(f"v.{name}") for name in names])
        rows, parts = [np.zeros(0, np.int64)], [schema.empty_table()]
        for _, query, found, side in self.pairs(table, state, artifact):
            rows.append(query)
            parts.append(take(side.select(columns), found).cast(schema) if columns else schema.empty_table())
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        return row[order], take(pa.concat_tables(parts), order) if columns else schema.empty_table()

    def _kept(self, table: pa.Table, rows: NDArray[np.int64]) -> Outcome:
        matched = np.zeros(table.num_rows, bool)
        matched[rows] = True
        good, reason = (matched, "no match") if self.params.how == "semi" else (~matched, "matched")
        drops = () if good.all() else (Drop.of(keep(table, ~good), reason),)
        return Outcome({"": keep(table, good) if drops else table}, drops)

    def _joined(self, table: pa.Table, rows: NDArray[np.int64], values: pa.Table) -> Outcome:
        matched = np.zeros(table.num_rows, bool)
        matched[rows] = True
        lost = np.flatnonzero(~matched)
        created = len(rows) - int(matched.sum())
        drops: tuple[Drop, ...] = ()
        found = np.arange(len(rows))
        if self.params.how == "left":
            rows, found = np.concatenate([rows, lost]), np.append(found, np.full(len(lost), -1))
            order = np.argsort(rows, kind="stable")
            rows, found = rows[order], found[order]
        elif len(lost):
            drops = (Drop.of(take(table, lost), "no match"),)
        out = take(table, rows)
        for name, column in zip(values.column_names, _or_null(values, found).columns, strict=True):
            out = out.append_column(self._added[name.removeprefix("v.")], column)
        if self.params.matches == "all":
            copies: Any = numbers_within(rows).astype(np.uint32)
            out = out.append_column(COPY, pa.array(copies, OWN_COLUMNS[COPY]))
        return Outcome({"": out}, drops, created)


def _or_null(values: pa.Table, positions: NDArray[np.int64]) -> pa.Table:
    """Rows by position, NULL for position -1."""
    if not (positions < 0).any():
        return take(values, positions)
    fields = [field.with_nullable(True) for field in values.schema]
    schema = pa.schema(fields)
    nothing = pa.Table.from_arrays([pa.nulls(1, field.type) for field in fields], schema=schema)
    whole = pa.concat_tables([values.cast(schema), nothing])
    return take(whole, np.where(positions < 0, values.num_rows, positions))


STAGE = JoinStage
