"""One chunk through the graph: read, identify, and pass from stage to stage; pure, whoever runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.engine.executor import AFTER_TASK
from curation.engine.store import Store, load_artifact, load_state
from curation.errors import BuildError
from curation.expressions import ExpressionError, RowExpression
from curation.flow.graph import Graph, Needs, Source, Step
from curation.hashing import key_hashes
from curation.io.chunks import Chunk, ChunkReader
from curation.keys import content_key
from curation.rng import stream_key, uniform
from curation.stages.base import ArtifactStage, Drop, Piece, Tables
from curation.stages.promises import fault_of
from curation.tables import keep
from curation.types import COPY, OWN_COLUMNS, ROW_BITS, ROW_ID, Ids, copies_of, ids_of
from curation.widen import WidenError, fit


@dataclass(frozen=True)
class View:
    """The graph with the states found so far, and the columns wanted of it: what a job carries along."""

    graph: Graph
    states: Mapping[str, str]
    needs: Needs
    salted: Mapping[str, frozenset[int]] = field(default_factory=dict)
    _keys: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False, compare=False)

    def key(self, *refs: str) -> str:
        """Content key of the rows at the references."""
        if refs not in self._keys:
            self._keys[refs] = self._key(refs)
        return self._keys[refs]

    def _key(self, refs: tuple[str, ...]) -> str:
        salts = {name: sorted(values) for name, values in sorted(self.salted.items()) if values}
        keys = [self.graph.key(ref, self.states) for ref in refs]
        return content_key("view", keys, self.graph.kinds(refs, self.needs), salts)


@dataclass(frozen=True)
class Made:
    """A block of rows that an artifact stage creates; stands where a chunk of a file stands.

    ``ref`` is where the rows appear: the stage, or one of its ports.
    """

    step: str
    ref: str
    piece: Piece
    tables: Mapping[str, tuple[tuple[int, str], ...]]
    base_key: str
    bytes: int

    @cached_property
    def key(self) -> str:
        """Content key: the artifact and the rows of the block."""
        return content_key("made", self.base_key, self.piece.label, dict(self.piece.detail))

    @property
    def rows(self) -> int:
        """Rows of the block."""
        return self.piece.rows

    @property
    def input(self) -> str:
        """Name of the stage: what stands where the name of an input stands."""
        return self.step

    def place(self) -> str:
        """Text that leads a person to the rows."""
        detail = self.piece.detail
        return f"stage '{self.step}', new rows {detail['start']} to {detail['stop'] - 1} of {self.piece.label!r}"


@dataclass
class Flow:
    """Rows of one stage in one chunk; ``looked_up`` are those of a table beside the flow, which end there."""

    into: int = 0
    out: int = 0
    created: int = 0
    looked_up: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class Evaluation:
    """What became of a chunk."""

    tables: dict[str, pa.Table]
    flows: dict[str, Flow]
    drops: list[tuple[str, Drop]]
    source_ids: Ids
    source_copies: NDArray[np.uint32] | None
    not_selected: Mapping[str, int]


def path_bits(name: str, relative: str, salt: int = 0) -> int:
    """24 bits that stand for a file of an input in the row ids; ``salt`` > 0 where another file has them already."""
    return int(content_key("path", name, relative, *([salt] if salt else []))[:6], 16)


def row_ids(source: Source, chunk: Chunk, table: pa.Table, numbers: Any, salted: frozenset[int]) -> Ids:
    """Identity of the rows of a chunk: their own, by key column, or by place."""
    if source.has_ids:
        if table.column(ROW_ID).null_count:
            raise BuildError(f"{chunk.place()}: {ROW_ID} is NULL in some rows, and it names them; drop the column")
        return ids_of(table)
    if source.key_column is not None:
        values = table.column(source.key_column)
        if values.null_count:
            at = int(np.flatnonzero(np.asarray(values.is_null()))[0])
            first = int(numbers[at])
            raise BuildError(
                f"{chunk.place(first, first + 1)}: the key column '{source.key_column}' is NULL; every row needs a "
                "key, or leave `key:` out so that rows are named by their place"
            )
        ids = key_hashes(values, salt=source.name, bits=63)
        if salted:
            again = np.isin(ids, np.array(sorted(salted), np.uint64))
            fresh = key_hashes(values.filter(pa.array(again)), salt=f"{source.name}\0again", bits=63)
            ids[again] = fresh
        named: Ids = ids
        return named
    if chunk.stop >= 1 << ROW_BITS:
        raise BuildError(f"{chunk.place()}: more than 2^{ROW_BITS} rows in one file; give the input a `key:`")
    bits, rows = chunk.named(numbers)
    placed: Ids = (bits << np.uint64(ROW_BITS)) | rows.astype(np.uint64)
    return placed


@dataclass
class Readers:
    """Open files of one thread: one for the columns of the condition, one for all others."""

    rest: ChunkReader = field(default_factory=ChunkReader)
    condition: ChunkReader = field(default_factory=ChunkReader)

    def close(self) -> None:
        """Release the files."""
        self.rest.close()
        self.condition.close()


def read_source(
    source: Source, chunk: Chunk, readers: Readers, columns: frozenset[str], salted: frozenset[int]
) -> tuple[pa.Table, dict[str, int]]:
    """Rows of a chunk with their ids, and how many of each file the input's own condition leaves out.

    Columns that the condition does not name are not decoded where it is true for no row.
    """
    condition = RowExpression.parse(source.where) if source.where else None
    wanted = set(columns) | ({source.key_column} if source.key_column else set())
    if not source.has_ids:
        wanted.discard(ROW_ID)
    first = set(condition.columns) if condition else set()
    # The condition and the key may name columns that are not among those selected: read, used, and left behind.
    rest = [name for name in source.stored.names if name in wanted and name not in first]
    chosen: pa.BooleanArray | None = None
    table, numbers = decoded(source, chunk, readers.condition, [n for n in source.stored.names if n in first])
    if condition is not None:
        chosen = condition.predicate(table) if table.num_columns else condition.predicate(_bare(len(numbers)))
        if not pc.any(chosen).as_py():
            schema = pa.schema([f for f in source.schema if f.name in columns or f.name == ROW_ID])
            return schema.empty_table(), chunk.by_file(numbers)
    if rest or not first:
        others, numbers = decoded(source, chunk, readers.rest, rest)
        table = _beside(table, others)
    table = _with_copies(table)
    ids = row_ids(source, chunk, table, numbers, salted)
    own = pa.array(ids, OWN_COLUMNS[ROW_ID])
    if not table.num_columns:
        table = pa.table({ROW_ID: own})
    elif ROW_ID not in table.column_names:
        table = table.append_column(ROW_ID, own)
    left_out: dict[str, int] = {}
    if chosen is not None:
        table, numbers, left_out = _selected(chunk, table, numbers, np.asarray(pc.fill_null(chosen, False)), left_out)
    if source.sample < 1.0:
        u = uniform(stream_key(source.seed, source.name, "--sample"), ids_of(table))
        table, numbers, left_out = _selected(chunk, table, numbers, u < source.sample, left_out)
    return table.select([n for n in source.schema.names if n in table.column_names]), left_out


def decoded(source: Source, chunk: Chunk, reader: ChunkReader, names: list[str]) -> tuple[pa.Table, NDArray[np.int64]]:
    """Columns of a chunk with the types of the input, which may be wider than those of the file."""
    table, numbers = reader.read(chunk, names)
    if names:
        try:
            table = fit(table, pa.schema([source.stored.field(name) for name in names], table.schema.metadata))
        except WidenError as error:
            raise BuildError(f"{chunk.place()}: {error}") from error
    return table, numbers


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    """Columns of two tables of the same rows."""
    if not left.num_columns or not right.num_columns:
        return left if left.num_columns else right
    fields = [*left.schema, *right.schema]
    return pa.Table.from_arrays([*left.columns, *right.columns], schema=pa.schema(fields, left.schema.metadata))


def _with_copies(table: pa.Table) -> pa.Table:
    """Give the rows of files without copies, which lie beside files with some, the number 0."""
    if COPY not in table.column_names or not table.column(COPY).null_count:
        return table
    at = table.column_names.index(COPY)
    return table.set_column(at, table.schema.field(at), pc.fill_null(table.column(COPY), 0))


def _bare(rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(rows)}).select([])


def _selected(
    chunk: Chunk, table: pa.Table, numbers: NDArray[np.int64], kept: NDArray[np.bool_], left_out: dict[str, int]
) -> tuple[pa.Table, NDArray[np.int64], dict[str, int]]:
    if kept.all():
        return table, numbers, left_out
    for name, count in chunk.by_file(numbers[~kept]).items():
        left_out[name] = left_out.get(name, 0) + count
    return keep(table, kept), numbers[kept], left_out


class _Local(threading.local):
    """What a thread keeps between jobs: the open file, and the chunk evaluated last."""

    def __init__(self) -> None:
        self.readers = Readers()
        self.last: tuple[tuple[str, Needs], Evaluation] | None = None


_local = _Local()


def evaluate(view: View, store: Store, chunk: Chunk | Made, key: str = "") -> Evaluation:
    """Pass one chunk through all stages that lead to what is wanted.

    With a ``key`` (of view and chunk) the result is kept until the next call, since neighbouring shards share chunks.
    """
    wanted = (key, view.needs)
    if key and _local.last is not None and _local.last[0] == wanted:
        return _local.last[1]
    _local.last = None
    result = _Evaluator(view, store, _local.readers).run(chunk)
    if key:
        _local.last = (wanted, result)
    return result


def release() -> None:
    """Let go of this thread's open file and kept rows."""
    _local.readers.close()
    _local.last = None


AFTER_TASK.append(release)


class _Evaluator:
    """Evaluates a chunk."""

    def __init__(self, view: View, store: Store, readers: Readers) -> None:
        self._view = view
        self._store = store
        self._readers = readers

    def run(self, chunk: Chunk | Made) -> Evaluation:
        """Pass one chunk through all stages that lead to what is wanted."""
        needs = self._view.needs
        result = Evaluation({}, {}, [], np.zeros(0, np.uint64), None, {})
        self._begin(chunk, result)
        for step in self._view.graph.steps:
            if any(ref in needs for ref in step.refs):
                tables = [result.tables.get(source) for source in step.sources]
                if any(table is not None for table in tables):
                    self._apply(step, tables, result)
        return result

    def _begin(self, chunk: Chunk | Made, result: Evaluation) -> None:
        graph, needs = self._view.graph, self._view.needs
        if isinstance(chunk, Made):
            stage = next(s.stage for s in graph.steps if s.name == chunk.step)
            assert isinstance(stage, ArtifactStage)
            full = graph.schemas[chunk.ref]
            schema = pa.schema([f for f in full if f.name in needs[chunk.ref]])
            table = stage.create(chunk.piece, Tables(self._store, chunk.tables), schema)
            result.tables[chunk.ref] = table
            result.flows[chunk.step] = Flow(created=table.num_rows, out=table.num_rows)
            return
        source = graph.sources[chunk.input]
        salted = self._view.salted.get(source.name, frozenset())
        table, result.not_selected = read_source(source, chunk, self._readers, needs[source.name], salted)
        result.tables[source.name] = table
        result.source_ids = ids_of(table)
        if COPY in table.column_names:
            result.source_copies = copies_of(table)

    def _apply(self, step: Step, tables: list[pa.Table | None], result: Evaluation) -> None:
        name = step.name
        key = self._view.states.get(name)
        state = None if key is None else load_state(self._store, key)
        keys = None if key is None else load_artifact(self._store, key)
        needs = self._view.needs
        wanted = {port: needs[step.ref(port)] for port in step.stage.ports if step.ref(port) in needs}
        artifact = None if keys is None else Tables(self._store, keys, wanted)
        try:
            outcome = step.stage.flow(tables, state, artifact)
        except ExpressionError as error:
            raise BuildError(f"stage '{name}': {error}") from error
        if step.stage.code:
            fault = fault_of(step.stage, [each for each in tables if each is not None], outcome, self._wanted(step))
            if fault:
                raise BuildError(f"stage '{name}': the plug-in {type(step.stage).__qualname__} is wrong: {fault}")
        flow = result.flows.setdefault(name, Flow())
        flow.into += sum(table.num_rows for table in tables if table is not None)
        flow.created += outcome.created
        for port, table in outcome.tables.items():
            result.tables[step.ref(port)] = table
            flow.out += table.num_rows
        for drop in outcome.drops:
            flow.dropped[drop.reason] = flow.dropped.get(drop.reason, 0) + len(drop.row_id)
            result.drops.append((name, drop))

    def _wanted(self, step: Step) -> dict[str, pa.Schema]:
        """Columns that must come out of each port that is read."""
        needs, schemas = self._view.needs, self._view.graph.schemas
        refs = {port: step.ref(port) for port in step.stage.ports}
        return {
            port: pa.schema([field for field in schemas[ref] if field.name in needs[ref]])
            for port, ref in refs.items()
            if ref in needs
        }
