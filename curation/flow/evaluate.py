"""One chunk through the graph: read, identify, and pass from stage to stage; pure, whoever runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
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
from curation.tables import keep
from curation.types import COPY, OWN_COLUMNS, ROW_BITS, ROW_ID, Ids, copies_of, ids_of


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
        return content_key("view", [self.graph.key(ref, self.states) for ref in refs], salts)


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
    """Rows of one stage in one chunk."""

    into: int = 0
    out: int = 0
    created: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class Evaluation:
    """What became of a chunk."""

    tables: dict[str, pa.Table]
    flows: dict[str, Flow]
    drops: list[tuple[str, Drop]]
    source_ids: Ids
    source_copies: NDArray[np.uint32] | None
    not_selected: int


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
    high = np.uint64(chunk.row_bits << ROW_BITS)
    placed: Ids = high | numbers.astype(np.uint64)
    return placed


def read_source(
    source: Source, chunk: Chunk, reader: ChunkReader, columns: frozenset[str], salted: frozenset[int]
) -> tuple[pa.Table, int]:
    """Rows of a chunk with their ids, and how many the input's own condition leaves out."""
    condition = RowExpression.parse(source.where) if source.where else None
    wanted = set(columns) | set(condition.columns if condition else ())
    if source.key_column:
        wanted.add(source.key_column)
    if not source.has_ids:
        wanted.discard(ROW_ID)
    # The condition and the key may name columns that are not among those selected: read, used, and left behind.
    names = [*(n for n in source.schema.names if n in wanted), *sorted(wanted.difference(source.schema.names))]
    table, numbers = reader.read(chunk, names)
    ids = row_ids(source, chunk, table, numbers, salted)
    own = pa.array(ids, OWN_COLUMNS[ROW_ID])
    if not names:
        table = pa.table({ROW_ID: own})
    elif ROW_ID not in table.column_names:
        table = table.append_column(ROW_ID, own)
    before = table.num_rows
    if condition is not None:
        table = keep(table, condition.predicate(table))
    if source.sample < 1.0:
        u = uniform(stream_key(source.seed, source.name, "--sample"), ids_of(table))
        table = keep(table, u < source.sample)
    return table.select([n for n in table.column_names if n in source.schema.names]), before - table.num_rows


class _Local(threading.local):
    """What a thread keeps between jobs: the open file, and the chunk evaluated last."""

    def __init__(self) -> None:
        self.reader = ChunkReader()
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
    result = _Evaluator(view, store, _local.reader).run(chunk)
    if key:
        _local.last = (wanted, result)
    return result


def release() -> None:
    """Let go of this thread's open file and kept rows."""
    _local.reader.close()
    _local.last = None


AFTER_TASK.append(release)


class _Evaluator:
    """Evaluates a chunk."""

    def __init__(self, view: View, store: Store, reader: ChunkReader) -> None:
        self._view = view
        self._store = store
        self._reader = reader

    def run(self, chunk: Chunk | Made) -> Evaluation:
        """Pass one chunk through all stages that lead to what is wanted."""
        needs = self._view.needs
        result = Evaluation({}, {}, [], np.zeros(0, np.uint64), None, 0)
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
        table, result.not_selected = read_source(source, chunk, self._reader, needs[source.name], salted)
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
        flow = result.flows.setdefault(name, Flow())
        flow.into += sum(table.num_rows for table in tables if table is not None)
        flow.created += outcome.created
        for port, table in outcome.tables.items():
            result.tables[step.ref(port)] = table
            flow.out += table.num_rows
        for drop in outcome.drops:
            flow.dropped[drop.reason] = flow.dropped.get(drop.reason, 0) + len(drop.row_id)
            result.drops.append((name, drop))
