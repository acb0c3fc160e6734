"""The jobs of a build: what is done to one chunk, or one shard, and the mark that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.engine.store import Mark, Store, keep_part, load_part, load_state
from curation.errors import BuildError
from curation.flow.evaluate import Evaluation, Flow, Made, View, decoded, evaluate
from curation.flow.graph import Source
from curation.hashing import key_hashes
from curation.io.chunks import Chunk, ChunkReader
from curation.keys import content_key
from curation.stages.base import ArtifactStage, Drop, FitStage, Stage, Tables
from curation.types import COPY, Ids, copies_of, ids_of

DECODE_BYTES = 128 << 20
"""Largest row group that is decoded at once (see ``curation.io.parquet``)."""

LEDGER_FORMAT = 2
"""Version of the columns of the ledger."""

LEDGER_BYTES = 64 << 20
"""Peak memory of writing the ledger: one chunk's part at a time."""

BASE_BYTES = 32 << 20
"""Buffers of readers, writers and kernels, whatever the rows."""


def chunk_memory(chunk: Chunk | Made) -> int:
    """Peak memory of a chunk on its way: the decoded piece, the rows, and what stages make of them."""
    if not isinstance(chunk, Chunk):
        return BASE_BYTES + 4 * chunk.bytes
    # Row groups are decoded bit by bit where they are large; a record batch is always whole.
    piece = 2 * chunk.piece_bytes
    return BASE_BYTES + (min(DECODE_BYTES, piece) if chunk.file.format == "parquet" else piece) + 4 * chunk.bytes


class _OfChunk:
    """What all jobs on one chunk share; they have a field ``chunk``."""

    chunk: Chunk | Made

    @property
    def rows(self) -> int:
        """Rows of the chunk."""
        return self.chunk.rows

    @property
    def cost(self) -> int:
        """Bytes of the chunk."""
        return self.chunk.bytes

    @property
    def memory(self) -> int:
        """Peak memory."""
        return chunk_memory(self.chunk)

    def describe(self) -> str:
        """Place of the chunk."""
        return self.chunk.place()


@dataclass(frozen=True)
class _OnChunk(_OfChunk):
    """A job that evaluates a chunk."""

    view: View
    chunk: Chunk | Made

    @property
    def memory(self) -> int:
        """Peak memory."""
        return chunk_memory(self.chunk) + self.view.graph.beside


@dataclass(frozen=True)
class InspectJob(_OfChunk):
    """Decode every row of a chunk once, to find those that cannot be."""

    chunk: Chunk
    columns: tuple[str, ...]
    root_key: str

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("inspect", self.root_key, self.chunk.key, self.columns)

    def run(self, store: Store) -> Mark:
        """List unreadable row ranges."""
        reader = ChunkReader()
        try:
            found = reader.faults(self.chunk, self.columns)
        finally:
            reader.close()
        return {"skips": [[skip.start, skip.stop, skip.reason] for skip in found]}


@dataclass(frozen=True)
class KeysJob(_OnChunk):
    """Hashes of what names the rows of an input in one chunk, sorted, so that equal ones can be found."""

    @cached_property
    def key(self) -> str:
        """Content key."""
        source = self.view.graph.sources[self.chunk.input]
        # A time has other hashes in another unit.
        kinds = [[name, str(source.stored.field(name).type)] for name in source.naming]
        return content_key("keys", self.view.graph.root_key, source.name, kinds, self.chunk.key)

    def run(self, store: Store) -> Mark:
        """Write the sorted hashes."""
        assert isinstance(self.chunk, Chunk)
        source = self.view.graph.sources[self.chunk.input]
        hashes, _, _ = read_keys(self.chunk, source)
        return store.write_table(self.key, pa.table({"hash": np.sort(hashes)}))


def read_keys(chunk: Chunk, source: Source) -> tuple[Ids, pa.ChunkedArray, Any]:
    """Hashes of what names the rows, its values, and row numbers as the chunk counts them."""
    with closing(ChunkReader()) as reader:
        table, numbers = decoded(source, chunk, reader, list(source.naming))
    column = source.naming[0]
    values = table.column(column)
    if values.null_count:
        first = int(numbers[int(np.flatnonzero(np.asarray(values.is_null()))[0])])
        raise BuildError(
            f"{chunk.place(first, first + 1)}: the key column '{column}' is NULL; every row needs a key, or leave "
            "`key:` out so that rows are named by their place"
        )
    hashes = key_hashes(values, salt=source.name, bits=63)
    if COPY in source.naming:
        copies = pc.fill_null(table.column(COPY), 0).to_numpy()  # a file may lack the numbers that others have
        hashes = (hashes + copies.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) & np.uint64((1 << 63) - 1)
        texts = [f"{row}, copy {copy}" for row, copy in zip(ids_of(table).tolist(), copies.tolist(), strict=True)]
        values = pa.chunked_array([texts], pa.string())
    return hashes, values, numbers


@dataclass(frozen=True)
class RepeatsJob:
    """Hashes that occur more than once in one range of hash values, over all chunks."""

    keys: tuple[str, ...]
    part: int
    parts: int
    rows: int

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("repeats", self.keys, self.part, self.parts)

    @property
    def cost(self) -> int:
        """Bytes of hashes gone through."""
        return 8 * self.rows

    @property
    def memory(self) -> int:
        """Peak memory: the hashes of the range, three times."""
        return 24 * self.rows

    def describe(self) -> str:
        """Say what is looked for."""
        return f"equal keys, part {self.part + 1} of {self.parts}"

    def run(self, store: Store) -> Mark:
        """Merge the range of all sorted runs."""
        low, high = ((1 << 63) * i // self.parts for i in (self.part, self.part + 1))
        runs = []
        for key in self.keys:
            hashes = store.table(key).column("hash").to_numpy()
            a, b = np.searchsorted(hashes, np.array([low, high], np.uint64))
            runs.append(hashes[a:b])
        merged = np.sort(np.concatenate(runs)) if runs else np.zeros(0, np.uint64)
        twice = np.unique(merged[1:][merged[1:] == merged[:-1]])
        return {"repeats": [int(value) for value in twice]}


@dataclass(frozen=True)
class FitJob(_OnChunk):
    """Partial state of a stage over one chunk."""

    stage: Stage[Any]
    use: str
    ref: str
    state: str | None
    round: int

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key(
            "fit", self.view.key(self.ref), self.stage.key(self.use), self.state, self.round, self.chunk.key
        )

    def run(self, store: Store) -> Mark:
        """Evaluate up to the stage and take its partial state."""
        assert isinstance(self.stage, FitStage)
        table = evaluate(self.view, store, self.chunk).tables.get(self.ref)
        if table is None or table.num_rows == 0:
            return {"state": None}
        state = None if self.state is None else load_state(store, self.state)
        return keep_part(store, self.key, self.stage.partial(table, state))


MERGE_PARTS = 32
"""Partial states that one job merges: a power of two, so that its tree is a part of the whole tree."""


def merge_tree(stage: FitStage[Any], parts: list[Any]) -> Any:
    """Merge neighbours pairwise until one is left: a tree that depends on the number of parts alone."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [stage.merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


@dataclass(frozen=True)
class MergeJob:
    """Partial states of neighbouring stretches, merged: a lower part of the tree."""

    stage: FitStage[Any]
    use: str
    parts: tuple[str, ...]
    bytes: int
    rows: int = 0

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("merge", self.stage.key(self.use), self.parts)

    @property
    def cost(self) -> int:
        """Bytes of the states."""
        return max(1, self.bytes)

    @property
    def memory(self) -> int:
        """Peak memory: the states as text, as arrays, and what comes of them."""
        return BASE_BYTES + 3 * self.bytes

    def describe(self) -> str:
        """Name the stage."""
        return f"stage '{self.stage.name}', {len(self.parts)} partial states"

    def run(self, store: Store) -> Mark:
        """Merge in the tree's order."""
        return keep_part(store, self.key, merge_tree(self.stage, [load_part(store, key) for key in self.parts]))


@dataclass(frozen=True)
class ExtractJob(_OnChunk):
    """What an artifact stage saves of one chunk."""

    stage: ArtifactStage[Any]
    use: str
    ref: str
    state: str

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("extract", self.view.key(self.ref), self.stage.key(self.use), self.state, self.chunk.key)

    def run(self, store: Store) -> Mark:
        """Evaluate up to the stage and save its extract, if there is any."""
        table = evaluate(self.view, store, self.chunk).tables.get(self.ref)
        if table is None:
            return {"rows": 0}
        found = self.stage.extract(table, load_state(store, self.state))
        return {"rows": found.num_rows} | (store.write_table(self.key, found) if found.num_rows else {})


@dataclass(frozen=True)
class ProbeJob(_OnChunk):
    """What an artifact stage saves of one chunk that flows in, once it has tables."""

    stage: ArtifactStage[Any]
    use: str
    ref: str
    state: str
    base_key: str
    tables: Tables

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("probe", self.view.key(self.ref), self.base_key, self.chunk.key)

    def run(self, store: Store) -> Mark:
        """Evaluate up to the stage and let it look."""
        table = evaluate(self.view, store, self.chunk).tables.get(self.ref)
        if table is None or not table.num_rows:
            return {"rows": 0}
        found = self.stage.probe(table, load_state(store, self.state), self.tables)
        return {"rows": found.num_rows} | (store.write_table(self.key, found) if found.num_rows else {})


@dataclass(frozen=True)
class StepJob:
    """One job of a step of an artifact stage."""

    stage: ArtifactStage[Any]
    step: str
    detail: Mapping[str, Any]
    base_key: str
    tables: Tables

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("step", self.base_key, self.step, dict(self.detail))

    @property
    def rows(self) -> int:
        """Rows gone through."""
        return int(self.detail.get("stop", self.detail.get("rows", 0))) - int(self.detail.get("start", 0))

    @property
    def cost(self) -> int:
        """Searches are work, not bytes: every job is a task of its own."""
        return 256 << 20

    @property
    def memory(self) -> int:
        """Peak memory by the stage's formula."""
        return self.stage.memory(self.step, self.detail)

    def describe(self) -> str:
        """Stage and step."""
        return f"stage '{self.stage.name}', {self.step} {dict(self.detail)}"

    def run(self, store: Store) -> Mark:
        """Let the stage work and save its table."""
        table, notes = self.stage.run(self.step, self.detail, self.tables)
        return {"notes": notes} | store.write_table(self.key, table)


@dataclass(frozen=True)
class CensusJob(_OnChunk):
    """What becomes of every row of a chunk, stage by stage; closes the balance."""

    outputs: Mapping[str, str]
    ends: tuple[tuple[str, str, str], ...]

    @cached_property
    def key(self) -> str:
        """Content key."""
        refs = [*self.outputs.values(), *(ref for ref, _, _ in self.ends)]
        return content_key("census", sorted(self.outputs.items()), self.ends, self.view.key(*refs), self.chunk.key)

    def run(self, store: Store) -> Mark:
        """Count, and list what is not simply kept."""
        result = evaluate(self.view, store, self.chunk)
        for ref, name, reason in self.ends:
            self._close(ref, name, reason, result)
        kept_rows = {name: result.tables[ref].num_rows for name, ref in self.outputs.items() if ref in result.tables}
        kept, dropped = self._balance(result)
        mark: Mark = {
            "not_selected": dict(result.not_selected),
            "read": len(result.source_ids),
            "kept": kept,
            "dropped": dropped,
            "outputs": kept_rows,
            "stages": {name: vars(flow) for name, flow in result.flows.items()},
        }
        drops = [(name, drop) for name, drop in result.drops if len(drop.row_id)]
        if drops:
            table, causes = ledger_table(drops)
            mark |= {"causes": causes} | store.write_table(self.key, table)
        return mark

    def _close(self, ref: str, name: str, reason: str, result: Evaluation) -> None:
        table = result.tables.get(ref)
        if table is None or not table.num_rows:
            return
        result.drops.append((name, Drop.of(table, reason)))
        flow = result.flows.setdefault(name, Flow())
        if ref.partition(".")[0] != name:  # rows that the stage only looks things up in
            flow.looked_up += table.num_rows
            return
        flow.out -= table.num_rows
        flow.dropped[reason] = flow.dropped.get(reason, 0) + table.num_rows

    def _balance(self, result: Evaluation) -> tuple[int, int]:
        """Count rows of the input that are kept, and rows that are not but are listed; nothing may be left over."""
        for name, flow in result.flows.items():
            if flow.into + flow.created != flow.out + sum(flow.dropped.values()):
                raise AssertionError(f"stage '{name}' does not balance at {self.describe()}: {flow}")
        copied = result.source_copies is not None
        rows = _named(result.source_ids, result.source_copies)
        outputs = [result.tables[ref] for ref in self.outputs.values() if ref in result.tables]
        kept = _among(rows, [_named(ids_of(each), copies_of(each) if copied else None) for each in outputs])
        listed = _among(rows, [_named(d.row_id, d.copy if copied else None) for _, d in result.drops])
        if (~kept & ~listed).any():
            raise AssertionError(f"rows vanish without a reason at {self.describe()}")
        return int(kept.sum()), int((~kept & listed).sum())


def _named(ids: Ids, copies: NDArray[np.uint32] | None) -> NDArray[Any]:
    """Rows as one comparable value each: the id, and the copy number where rows come in as copies."""
    if copies is None:
        return ids
    both = np.empty(len(ids), [("id", np.uint64), ("copy", np.uint32)])
    both["id"], both["copy"] = ids, copies
    return both


def _among(rows: NDArray[Any], parts: list[NDArray[Any]]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.isin(rows, np.concatenate(parts)) if parts else np.zeros(len(rows), bool)
    return found


def ledger_table(drops: list[tuple[str, Drop]]) -> tuple[pa.Table, list[list[str]]]:
    """Ledger rows of one chunk, and the stages and reasons that their ``code`` counts."""
    sizes = [len(drop.row_id) for _, drop in drops]
    table = pa.table(
        {
            "row_id": np.concatenate([drop.row_id for _, drop in drops]),
            "copy": np.concatenate([drop.copy for _, drop in drops]),
            "code": np.repeat(np.arange(len(drops), dtype=np.int32), sizes),
        }
    )
    if any(drop.instead is not None for _, drop in drops):
        parts = [pa.nulls(len(d.row_id), pa.uint64()) if d.instead is None else pa.array(d.instead) for _, d in drops]
        table = table.append_column("instead", pa.chunked_array(parts))
    return table, [[name, drop.reason] for name, drop in drops]


@dataclass(frozen=True)
class LedgerJob:
    """The ledger of a build: those of all chunks, in order, in one file."""

    keys: tuple[str, ...]
    rows: int
    cost: int = 1
    memory: int = LEDGER_BYTES

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("ledger", LEDGER_FORMAT, self.keys)

    def describe(self) -> str:
        """Say what is written."""
        return "the ledger"

    def run(self, store: Store) -> Mark:
        """Write the file, one batch a chunk, with one dictionary for all."""
        causes = {key: (store.mark(key) or {})["causes"] for key in self.keys}
        seen = [dict.fromkeys(cause[i] for key in self.keys for cause in causes[key]) for i in (0, 1)]
        names = [pa.array(list(each), pa.string()) for each in seen]
        kind = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema(
            [
                ("row_id", pa.uint64()),
                ("copy", pa.uint32()),
                ("stage", kind),
                ("reason", kind),
                ("instead", pa.uint64()),
            ]
        )

        def fill(path: Any) -> None:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
                for key in self.keys:
                    table = store.table(key)
                    columns = [table.column("row_id"), table.column("copy")]
                    for i, values in enumerate(names):
                        places = pc.index_in(pa.array([cause[i] for cause in causes[key]], pa.string()), values)
                        index = places.take(table.column("code").combine_chunks())
                        columns.append(pa.DictionaryArray.from_arrays(index, values))
                    here = "instead" in table.column_names
                    columns.append(table.column("instead") if here else pa.nulls(table.num_rows, pa.uint64()))
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))

        return {"rows": self.rows} | store.write(self.key, ".arrow", fill)
