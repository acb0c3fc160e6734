"""Check of one stage by hand: what it needs, what it gives, and that no row depends on its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from curation.engine.store import encode
from curation.hashing import row_hashes
from curation.io.atomic import dump_json
from curation.methods.base import Params
from curation.stages.base import ArtifactStage, BindError, Coming, FitStage, Outcome, Stage, State
from curation.stages.promises import fault_of, schema_fault
from curation.testing.hands import fit, with_ids
from curation.testing.hold import calling, hold
from curation.types import COPY, ROW_ID, copies_of, ids_of

Schemas: TypeAlias = Mapping[str, pa.Schema]
"""Schema by port."""

PARTITIONS = (1, 2, 7)
"""Numbers of pieces into which the rows are cut."""

_SHAPES: dict[str, Any] = {"map": Stage, "fit": FitStage, "artifact": ArtifactStage}


def check_stage(
    stage_type: type[Stage[Any]], params: Params, table: pa.Table, *, seed: int = 0, name: str = "here"
) -> None:
    """Hold a stage to what the build relies on, on rows of your own.

    Checked are: ``bind`` refuses missing columns and promises the schema that ``apply`` gives; the columns of
    ``needs`` are enough; inputs and state are not changed; an empty chunk passes; every row comes out or is dropped
    with a reason, under its own id; the same rows come out in 1, 2 and 7 pieces, in any order, and again; and the seed
    has no influence unless ``draws`` says so. Left to :func:`curation.testing.check_build` are the rows that an
    :class:`ArtifactStage` creates, and stages with more than one table that comes in.

    Parameters
    ----------
    stage_type, params
        The stage and its options.
    table
        At least 8 rows with every column that the options name, NULL in some if the column may hold NULL. Row ids are
        added if there are none.
    seed, name
        As the build gives them.

    Raises
    ------
    AssertionError
        If it breaks a promise; the message says what to mend.
    ValueError
        If more than one table comes in, or the stage needs its artifact to work on a chunk.
    """
    if params.many or params.sides() or getattr(stage_type, "alters", False):
        raise ValueError(f"{stage_type.__name__}: expected one table that flows in; use check_build")
    hold(table.num_rows >= 8, f"table: expected at least 8 rows, got {table.num_rows}; add some")
    check = _Check(stage_type, params, with_ids(table), seed, name)
    check.shape()
    out = check.bound()
    check.refuses_missing(out)
    expected = check.whole(out)
    check.empty(out)
    check.only_needed(out, expected)
    check.partitions(expected)
    check.seeds(expected)


@dataclass(frozen=True)
class _Result:
    """What became of rows, in an order that does not matter: by port, then by row id and copy."""

    tables: dict[str, pa.Table]
    drops: list[tuple[int, int, str]]


@dataclass(frozen=True)
class _Check:
    stage_type: type[Stage[Any]]
    params: Params
    table: pa.Table
    seed: int
    name: str

    def fresh(self, seed: int | None = None) -> Stage[Any]:
        return self.stage_type(self.name, self.params, self.seed if seed is None else seed)

    def stage(self, seed: int | None = None) -> Stage[Any]:
        """Stage that is bound, as the build has it."""
        stage = self.fresh(seed)
        calling("bind: expected to accept the table", _bind, stage, self.table.schema)
        return stage

    def shape(self) -> None:
        shape, kind = type(self.params).shape, self.stage_type.__name__
        hold(shape in _SHAPES, f"{type(self.params).__name__}.shape: a stage is map, fit or artifact, got {shape!r}")
        found = next(s for s in ("artifact", "fit", "map") if issubclass(self.stage_type, _SHAPES[s]))
        hold(found == shape, f"{kind}: is a {found} stage, but {type(self.params).__name__}.shape is {shape!r}")

    # What goes in and out

    def bound(self) -> Schemas:
        stage = self.fresh()
        out = calling("bind: expected to accept the table", _bind, stage, self.table.schema)
        for port in stage.ports:
            fault = schema_fault(out.get(port))
            hold(not fault, fault)
        return out

    def refuses_missing(self, out: Schemas) -> None:
        """Leave out each column that something else is made of."""
        stage = self.stage()
        for column in _users(self.table.schema.names):
            others = frozenset(name for schema in out.values() for name in schema.names) - {column}
            used = column in self.needed(stage, _wanted(out, others)) or column in _fitted(stage)
            schema = pa.schema([field for field in self.table.schema if field.name != column])
            if used:
                self._refuses(column, schema)

    def _refuses(self, column: str, schema: pa.Schema) -> None:
        try:
            _bind(self.fresh(), schema)
        except BindError as error:
            options = type(self.params).model_fields
            wrong = [fault.path for fault in error.faults if not fault.path or fault.path[0] not in options]
            hold(not wrong, f"bind: a Fault has the path {wrong[:1]}; its first part is the option that is wrong")
        except Exception as error:
            raise AssertionError(
                f"bind: raised {type(error).__name__}: {error} where column {column!r} is missing; raise a BindError "
                "with a Fault that names the option (see curation.stages.columns.missing)"
            ) from error
        else:
            raise AssertionError(
                f"bind: accepts a schema without column {column!r}, which the stage needs; raise a BindError with a "
                "Fault that names the option (see curation.stages.columns.missing)"
            )

    @staticmethod
    def needed(stage: Stage[Any], wanted: Schemas) -> frozenset[str]:
        names = {port: frozenset(schema.names) for port, schema in wanted.items()}
        found = calling(f"needs: expected an answer for {_spoken(wanted)}", stage.needs_from, 0, names)
        hold(isinstance(found, set | frozenset), f"needs: expected a frozenset, got {type(found).__name__}")
        return frozenset(found)

    # What becomes of rows

    def whole(self, out: Schemas) -> _Result:
        stage = self.stage()
        state = self._fitted(stage, [self.table])
        outcome = self._applied(stage, self.table, state, out)
        for port, each in outcome.tables.items():
            extra = sorted(set(each.column_names) - set(out[port].names))
            hold(not extra, f"apply: gives columns {extra} at port {port!r}, which `bind` has not promised; drop them")
            hold(_distinct(each), f"apply: a row id stands twice at port {port!r}; number the copies in {COPY}")
        return _result(stage, [outcome])

    def empty(self, out: Schemas) -> None:
        stage = self.stage()
        state = self._fitted(stage, [self.table])
        for none in (self.table.schema.empty_table(), self.table.slice(3, 0)):
            outcome = self._applied(stage, none, state, out, "a chunk without rows")
            rows = sum(each.num_rows for each in outcome.tables.values())
            hold(rows == 0, f"apply: makes {rows} rows of a chunk without rows; a map only passes on what comes in")
            self._fitted(stage, [none, self.table], "a chunk without rows")

    def only_needed(self, out: Schemas, expected: _Result) -> None:
        """Read only what ``needs`` names: for everything, for each column alone, and for nothing."""
        stage = self.stage()
        state = self._fitted(stage, [self.table])
        own = {ROW_ID, COPY} & set(self.table.column_names)
        names = frozenset(name for schema in out.values() for name in schema.names)
        for some in [names, *(frozenset([name]) for name in _users(sorted(names))), frozenset[str]()]:
            wanted = _wanted(out, some)
            named = self.needed(stage, wanted)
            unknown = sorted(named - set(self.table.column_names))
            hold(not unknown, f"needs: names {unknown} for {sorted(some)}; name columns as they are before the stage")
            columns = [n for n in self.table.column_names if n in named | own]
            what = f"only {columns}, which is what `needs` asks for {_spoken(wanted)}"
            outcome = self._applied(stage, self.table.select(columns), state, wanted, what)
            _same(_result(stage, [outcome]), expected, f"with {what}; name every column that it looks at", some)

    def partitions(self, expected: _Result) -> None:
        for table in (self.table, _reversed(self.table)):
            for count in PARTITIONS:
                stage = self.stage()
                pieces = _cut(table, count)
                # A state is merged in the order of the chunks, so that is kept.
                state = self._fitted(stage, _cut(self.table, count))
                outcomes = [calling("apply: expected to work on a piece", _flow, stage, p, state) for p in pieces]
                turned = "" if table is self.table else " in reversed order"
                why = (
                    f"in {count} pieces{turned}; what becomes of a row may depend on the row, its id and the fitted "
                    "state, never on the other rows of the chunk: make it a FitStage if it needs counts"
                )
                _same(_result(stage, outcomes), expected, why)

    def seeds(self, expected: _Result) -> None:
        for seed in (self.seed, self.seed + 1):
            if seed != self.seed and self.stage_type.draws:
                continue
            stage = self.stage(seed)
            state = self._fitted(stage, [self.table])
            outcome = calling("apply: expected to work", _flow, stage, self.table, state)
            again = "a second time; draw from curation.rng by stage name and row id, and keep nothing between calls"
            other = "under another seed; set `draws = True`, so that content keys hold the seed"
            _same(_result(stage, [outcome]), expected, again if seed == self.seed else other)

    def _fitted(self, stage: Stage[Any], pieces: Sequence[pa.Table], what: str = "the table") -> State:
        if not isinstance(stage, FitStage):
            return None
        columns = [n for n in self.table.column_names if n in {*stage.fit_columns(), ROW_ID, COPY}]
        asked = f"partial, merge and advance: expected to work on {what} with only {columns} of `fit_columns`"
        return calling(asked, fit, stage, [piece.select(columns) for piece in pieces])

    def _applied(
        self, stage: Stage[Any], table: pa.Table, state: State, wanted: Schemas, what: str = "the table"
    ) -> Outcome:
        before, state_before = _bytes(table), dump_json(encode(state))
        outcome = calling(f"apply: expected to work on {what}", _flow, stage, table, state)
        hold(_bytes(table) == before, "apply: changed the table that came in, which other stages read; work on a copy")
        hold(dump_json(encode(state)) == state_before, "apply: changed the state, which other chunks read; copy it")
        fault = fault_of(stage, [table], outcome, wanted)
        hold(not fault, f"{fault} (on {what})")
        return outcome


def _bind(stage: Stage[Any], schema: pa.Schema) -> Schemas:
    return stage.bind_all(Coming((schema,), {}))


def _flow(stage: Stage[Any], table: pa.Table, state: State) -> Outcome:
    return stage.flow([table], state, None)


def _wanted(out: Schemas, names: frozenset[str]) -> Schemas:
    return {port: pa.schema([f for f in schema if f.name in names]) for port, schema in out.items()}


def _spoken(wanted: Schemas) -> str:
    return str(sorted({name for schema in wanted.values() for name in schema.names}))


def _users(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in (ROW_ID, COPY)]


def _fitted(stage: Stage[Any]) -> frozenset[str]:
    return stage.fit_columns() if isinstance(stage, FitStage) else frozenset()


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    raw: bytes = sink.getvalue().to_pybytes()
    return raw


def _distinct(table: pa.Table) -> bool:
    ids, copies = ids_of(table).tolist(), copies_of(table).tolist()
    return len(set(zip(ids, copies, strict=True))) == len(ids)


def _reversed(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(i, 1) for i in reversed(range(table.num_rows))]).combine_chunks()


def _cut(table: pa.Table, count: int) -> list[pa.Table]:
    edges = np.linspace(0, table.num_rows, count + 1).astype(int).tolist()
    return [table.slice(a, b - a) for a, b in pairwise(edges)]


def _result(stage: Stage[Any], outcomes: Sequence[Outcome]) -> _Result:
    # Rows of an optional port are made by an artifact; none of those that pass through go there.
    ports = [port for port in stage.ports if port not in stage.optional_ports]
    tables = {port: pa.concat_tables([each.tables[port] for each in outcomes]) for port in ports}
    drops = [
        (int(row), int(copy), drop.reason)
        for each in outcomes
        for drop in each.drops
        for row, copy in zip(drop.row_id, drop.copy, strict=True)
    ]
    return _Result(tables, sorted(drops))


def _same(found: _Result, expected: _Result, why: str, wanted: Iterable[str] | None = None) -> None:
    """Compare the wanted columns of the rows by port, row id and copy, and the drops with their reasons."""
    hold(found.drops == expected.drops, f"apply: drops other rows, or for other reasons, {why}")
    for port, table in expected.tables.items():
        left, right = _sorted_order(found.tables[port]), _sorted_order(table)
        ids = ids_of(found.tables[port])[left], ids_of(table)[right]
        hold(np.array_equal(*ids), f"apply: other rows come out at port {port!r} {why}")
        for name in table.column_names if wanted is None else [n for n in table.column_names if n in wanted]:
            a, b = (row_hashes(t.select([name]))[order] for t, order in ((found.tables[port], left), (table, right)))
            differ = np.flatnonzero((a != b).any(axis=1))
            if len(differ):
                raise AssertionError(
                    f"apply: column {name!r} of row {ids[0][differ[0]]} comes out otherwise at port {port!r} {why}"
                )


def _sorted_order(table: pa.Table) -> Any:
    return np.lexsort((copies_of(table), ids_of(table)))
