"""Stage ``group_stats``: rows pass untouched, and a table describes their numbers group by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as pt

from curation.engine.store import Mark, decode, encode
from curation.errors import BuildError
from curation.hashing import key_hashes
from curation.keys import content_key
from curation.methods.group_stats import (
    GroupStats,
    group_moments,
    merged_moments,
    merged_sketches,
    quantile_name,
    renumbered,
    sketch,
    sketch_quantiles,
)
from curation.methods.lookup import combined_hashes
from curation.stages.base import ArtifactStage, BindError, Coming, Fault, Outcome, Piece, State, Tables
from curation.stages.columns import missing
from curation.stages.lookup import plain_kind
from curation.types import ORIGIN, OWN_COLUMNS, ROW_ID, SYNTHETIC, Ids, with_own

STATE_BYTES = 100 << 20
"""Largest state of a fit that is merged."""
PIECE_ROWS = 16_384
"""Rows of the table made at a time."""
MOMENTS = ("n", "min", "max", "mean", "m2")
COUNTS = {"rows": pa.int64(), "nulls": pa.int64(), "null_share": pa.float64(), "nan": pa.int64()}
TABLE = "table"


class GroupStatsStage(ArtifactStage[GroupStats]):
    """Describes columns of numbers by group.

    State: ids and values of the groups, and arrays (groups, columns) of counts and moments, and one sketch with a key
    per group, column and bucket. The id of a row of the table is the synthetic bit and a hash of stage, group, column,
    rows of the group and rows in all.
    """

    optional_ports = frozenset({TABLE})
    extracts = False

    def __init__(self, name: str, params: GroupStats, seed: int) -> None:
        super().__init__(name, params, seed)
        self._columns: tuple[str, ...] = tuple(params.columns or ())
        self._kind: pa.DataType = pa.null()

    def key(self, use: str) -> str:
        """Content key, with the columns that are described by default."""
        return content_key(super().key(use), self._columns, str(self._kind))

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Schema of the rows that pass."""
        return self.bind_all(Coming((schema,), {}))[""]

    def bind_all(self, coming: Coming) -> Mapping[str, pa.Schema]:
        """Check the columns; the table has a row per group and column."""
        (schema,) = coming.flows
        by, chosen = self.params.by, self.params.columns
        faults = [missing(schema, name, ("columns", i)) for i, name in enumerate(chosen or [])]
        faults += [missing(schema, by, ("by",))] if by is not None else []
        if not any(faults):
            faults += [_unfit(schema.field(name), ("columns", i)) for i, name in enumerate(chosen or [])]
            faults += [self._unfit_group(schema.field(by))] if by is not None else []
        fitting = [f.name for f in schema if _numeric(f.type) and f.name not in OWN_COLUMNS and f.name != by]
        if chosen is None and not fitting:
            faults.append(Fault(("columns",), "no column holds numbers", "derive one, or describe none"))
        if any(faults):
            raise BindError([fault for fault in faults if fault])
        self._columns = tuple(fitting if chosen is None else chosen)
        self._kind = pa.null() if by is None else plain_kind(schema.field(by).type)
        return {"": schema, TABLE: self._table_schema()}

    def _unfit_group(self, field: pa.Field) -> Fault | None:
        if pt.is_nested(plain_kind(field.type)):
            return Fault(("by",), f"column {field.name!r} is {field.type}, not a group", "use a plain column")
        if field.name in self._described() or field.name in OWN_COLUMNS:
            return Fault(("by",), f"the table has a column {field.name!r} of its own", "rename the column first")
        return None

    def _described(self) -> dict[str, pa.DataType]:
        """Columns of the table behind the group."""
        numbers = ["min", "max", "mean", "std", *map(quantile_name, self.params.quantiles)]
        return {"column": pa.string(), **COUNTS, **dict.fromkeys(numbers, pa.float64())}

    def _table_schema(self) -> pa.Schema:
        group = [] if self.params.by is None else [pa.field(self.params.by, self._kind)]
        return with_own(
            pa.schema([*group, *map(pa.field, *zip(*self._described().items(), strict=True))]), ROW_ID, ORIGIN
        )

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """What is wanted of the rows that pass."""
        return wanted

    def needs_from(self, flow: int, wanted: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """What is wanted of the rows that pass; the table is made of the state."""
        return wanted.get("", frozenset())

    def carries(self, column: str, port: str) -> str | None:
        """Only rows that pass keep their columns."""
        return None if port == TABLE else column

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Pass the rows on."""
        return Outcome({"": table})

    # The fit

    def fit_columns(self) -> frozenset[str]:
        """Groups and numbers."""
        return frozenset(self._columns) | ({self.params.by} if self.params.by is not None else set())

    def partial(self, table: pa.Table, state: State) -> State:
        """Statistics of one chunk."""
        ids, code, values = self._groups(table)
        groups, width = len(ids), len(self._columns)
        counts = {name: np.zeros((groups, width), np.int64) for name in ("nulls", "nan")}
        moments: dict[str, list[Any]] = {name: [] for name in MOMENTS}
        pairs, numbers = [np.zeros(0, np.int64)], [np.zeros(0)]
        for j, name in enumerate(self._columns):
            column = table.column(name)
            null = np.asarray(pc.is_null(column))
            x = pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy()
            nan = np.isnan(x)
            counts["nulls"][:, j] = np.bincount(code[null], minlength=groups)
            counts["nan"][:, j] = np.bincount(code[nan], minlength=groups)
            good = ~(null | nan)
            for key, found in group_moments(x[good], code[good], groups=groups).items():
                moments[key].append(found)
            pairs.append(code[good] * width + j)
            numbers.append(x[good])
        keys, sizes = sketch(np.concatenate(numbers), np.concatenate(pairs))
        return self._held(
            {
                "id": ids,
                "value": _packed(values),
                "rows": np.bincount(code, minlength=groups).astype(np.int64),
                **counts,
                **{name: np.stack(parts, axis=1) for name, parts in moments.items()},
                "key": keys,
                "size": sizes,
            }
        )

    def _groups(self, table: pa.Table) -> tuple[Ids, NDArray[np.int64], pa.Array]:
        """Ids of the groups of a chunk, ascending; group of each row; value of each group."""
        if self.params.by is None:
            return np.zeros(1, np.uint64), np.zeros(table.num_rows, np.int64), pa.nulls(1)
        column = table.column(self.params.by).cast(self._kind)
        hashes = np.zeros(table.num_rows, np.uint64)  # 0 is the group of NULL
        known = np.asarray(column.is_valid())
        hashes[known] = key_hashes(column.drop_null(), salt="group", bits=63) + np.uint64(1)
        ids, first, code = np.unique(hashes, return_index=True, return_inverse=True)
        return ids, code.astype(np.int64), column.take(pa.array(first)).combine_chunks()

    def merge(self, left: State, right: State) -> State:
        """Statistics of both stretches."""
        ids = np.union1d(left["id"], right["id"])
        width = len(self._columns)
        a, b = (self._spread(state, ids, width) for state in (left, right))
        keys, sizes = merged_sketches((a["key"], a["size"]), (b["key"], b["size"]))
        values = pa.concat_arrays([_unpacked(left["value"]), _unpacked(right["value"])])
        _, first = np.unique(np.concatenate([left["id"], right["id"]]), return_index=True)
        return self._held(
            {
                "id": ids,
                "value": _packed(values.take(pa.array(first))),
                **{name: a[name] + b[name] for name in ("rows", "nulls", "nan")},
                **merged_moments(a, b),
                "key": keys,
                "size": sizes,
            }
        )

    @staticmethod
    def _spread(state: State, ids: Ids, width: int) -> dict[str, NDArray[Any]]:
        """A state over more groups, with nothing in those that it does not know."""
        place = np.searchsorted(ids, state["id"])
        empty = {"min": np.inf, "max": -np.inf}
        out: dict[str, NDArray[Any]] = {}
        for name in ("rows", "nulls", "nan", *MOMENTS):
            out[name] = np.full((len(ids), *state[name].shape[1:]), empty.get(name, 0), state[name].dtype)
            out[name][place] = state[name]
        pairs = (place[:, None] * width + np.arange(width)).reshape(-1)
        return out | {"key": renumbered(state["key"], pairs), "size": state["size"]}

    def _held(self, state: State) -> State:
        size = sum(each.nbytes for each in state.values())
        if size > STATE_BYTES:
            raise BuildError(
                f"stage '{self.name}': expected statistics of at most {STATE_BYTES >> 20} MB, got {size >> 20} MB for "
                f"{len(state['id'])} groups x {len(self._columns)} columns; name fewer `columns`, or group by a "
                "coarser column"
            )
        return state

    def advance(self, state: State, merged: State) -> tuple[State, bool]:
        """From the state to the columns of the table: groups in the order of their values, columns inside."""
        values = _unpacked(merged["value"])
        grouped = self.params.by is not None
        order = pc.sort_indices(values).to_numpy().astype(np.int64) if grouped else np.zeros(1, np.int64)
        width, pairs = len(self._columns), len(order) * len(self._columns)
        n = merged["n"].reshape(-1)
        places = (order[:, None] * width + np.arange(width)).reshape(-1)
        rows = np.repeat(merged["rows"], width)
        least, most = merged["min"].reshape(-1), merged["max"].reshape(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            std = np.sqrt(merged["m2"].reshape(-1) / (n - 1))
            share = merged["nulls"].reshape(-1) / rows
        found: dict[str, NDArray[Any]] = {
            "rows": rows,
            "nulls": merged["nulls"].reshape(-1),
            "null_share": share,
            "nan": merged["nan"].reshape(-1),
            "min": np.where(n > 0, least, np.nan),
            "max": np.where(n > 0, most, np.nan),
            "mean": np.where(n > 0, merged["mean"].reshape(-1), np.nan),
            "std": np.where(n > 1, std, np.nan),
        }
        for q in self.params.quantiles:
            near = sketch_quantiles(merged["key"], merged["size"], n, q)
            found[quantile_name(q)] = np.clip(near, found["min"], found["max"])
        found |= {"known": (n > 0) + (n > 1).astype(np.int8), ROW_ID: self._ids(merged["id"], rows, merged["rows"])}
        table = {name: column[places] for name, column in found.items()}
        return {"value": _packed(values.take(pa.array(order))), "pairs": pairs, "table": table}, True

    def _ids(self, groups: Ids, rows: NDArray[np.int64], total: NDArray[np.int64]) -> Ids:
        """Row ids of the table, group by group; hashed again should two agree."""
        columns = np.array([_number("column", name) for name in self._columns], np.uint64)
        salt = 0
        while True:
            first = np.full(len(rows), _number("group stats", self.name, int(total.sum()), salt), np.uint64)
            parts = [first, np.repeat(groups, len(columns)), np.tile(columns, len(groups)), rows.astype(np.uint64)]
            ids: Ids = combined_hashes(parts) | SYNTHETIC
            if len(np.unique(ids)) == len(ids):
                return ids
            salt += 1

    # The table

    def extract_columns(self) -> frozenset[str]:
        """Nothing is extracted: the table is made of the state."""
        return frozenset()

    def extract(self, table: pa.Table, state: State) -> pa.Table:
        """Nothing."""
        raise AssertionError(f"stage '{self.name}' extracts nothing")

    def jobs(self, step: str, state: State) -> list[Mapping[str, Any]]:
        """No steps."""
        return []

    def run(self, step: str, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, Mark]:
        """No steps."""
        raise AssertionError(f"stage '{self.name}' has no step {step}")

    def memory(self, step: str, detail: Mapping[str, Any]) -> int:
        """Columns of a piece, as they travel and as they are."""
        return int(detail["stop"] - detail["start"]) * 64 * (len(self._described()) + 1)

    def pieces(self, state: State) -> list[Piece]:
        """Blocks of rows of the table, which carry their columns along."""
        width, values = len(self._columns), _unpacked(state["value"])
        found = []
        for a in range(0, state["pairs"], PIECE_ROWS):
            b = min(a + PIECE_ROWS, state["pairs"])
            groups = values.slice(a // width, (b - 1) // width - a // width + 1)
            part = {"value": _packed(groups)} | {name: column[a:b] for name, column in state["table"].items()}
            found.append(Piece("statistics", b - a, {"start": a, "stop": b, "part": encode(part)}, TABLE))
        return found

    def create(self, piece: Piece, tables: Tables, schema: pa.Schema) -> pa.Table:
        """Make rows of the table."""
        detail, width = piece.detail, len(self._columns)
        part = decode(detail["part"])
        pair = np.arange(detail["start"], detail["stop"])
        groups = _unpacked(part["value"]).take(pa.array(pair // width - pair[0] // width))
        made: dict[str, Any] = {
            "column": pa.array(self._columns, pa.string()).take(pa.array(pair % width)),
            ORIGIN: pa.repeat(pa.scalar(self.name, pa.string()), piece.rows),
            ROW_ID: pa.array(part[ROW_ID]),
        }
        made |= {} if self.params.by is None else {self.params.by: groups}
        lacking = {"null_share": part["rows"] == 0, "std": part["known"] < 2}
        for name, kind in self._described().items():
            if name != "column":
                none = lacking.get(name, part["known"] < 1) if kind == pa.float64() else None
                made[name] = pa.array(part[name], kind, mask=none)
        return pa.Table.from_arrays([made[field.name].cast(field.type) for field in schema], schema=schema)


def _numeric(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pt.is_integer, pt.is_floating, pt.is_decimal))


def _unfit(field: pa.Field, path: tuple[str | int, ...]) -> Fault | None:
    if _numeric(field.type):
        return None
    return Fault(path, f"column {field.name!r} is {field.type}, not a number", "derive one, e.g. `length(text)`")


def _number(*parts: Any) -> int:
    return int(content_key(*parts)[:16], 16)


def _packed(values: pa.Array) -> NDArray[np.uint8]:
    """Values of any type as bytes, since a state holds arrays of numbers."""
    table = pa.table({"v": values})
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return np.frombuffer(sink.getvalue(), np.uint8)


def _unpacked(raw: NDArray[np.uint8]) -> pa.Array:
    column = pa.ipc.open_stream(pa.py_buffer(np.ascontiguousarray(raw))).read_all().column("v")
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


STAGE = GroupStatsStage
