"""From rows to shards: in the order of the input, by columns, or by group and a hash of the row id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.engine.store import Mark, Store
from curation.flow.evaluate import Made, View, evaluate
from curation.flow.gates import GateSpec, measure
from curation.flow.jobs import chunk_memory
from curation.flow.sorting import Cuts, Keys
from curation.hashing import HASH_VERSION, fingerprint, row_hashes
from curation.io.chunks import Chunk
from curation.io.parquet_profile import PROFILE, SIDECAR, has_offsets, write_offsets, write_parquet
from curation.keys import content_key
from curation.ordering import By, order_keys
from curation.rng import random_bits, stream_key
from curation.tables import take
from curation.types import CarriesSchemas, Ids, conform, copies_of, ids_of, schema_key

ORDER = "__order"
"""Sort key of a row in a run; never leaves the work directory."""

KEY_BYTES = 160
"""What the parts of a sort key, their copies, its end and positions take for a row while rows are sorted."""

RUN_BYTES = 64 << 20
"""Decoded size of a run. Tasks may be larger; runs are part of no promise, since ties of the order go by row id."""


@dataclass(frozen=True)
class Target(CarriesSchemas):
    """An output as its jobs see it."""

    name: str
    ref: str
    schema: pa.Schema
    format: str
    compression: str
    shard_rows: int
    order: str
    group: str | None
    seed: int
    gates: tuple[GateSpec, ...]
    sort: By = ()

    @cached_property
    def key(self) -> str:
        """Content key of how rows become bytes."""
        return content_key(
            "target",
            schema_key(self.schema),
            [self.format, self.compression, self.order, self.group, self.seed, HASH_VERSION],
            PROFILE if self.format == "parquet" else 0,
            [gate.key for gate in self.gates],
            *([self.sort] if self.sort else []),
        )


@dataclass(frozen=True)
class ScatterJob:
    """Rows of neighbouring chunks, sorted by group and order key: a run."""

    view: View
    chunks: tuple[Chunk | Made, ...]
    target: Target

    @cached_property
    def key(self) -> str:
        """Content key."""
        ref, target = self.target.ref, self.target
        chunks = [chunk.key for chunk in self.chunks]
        schema = schema_key(target.schema)
        how = target.sort or [target.group, target.seed]
        return content_key("scatter", self.view.key(ref), schema, how, chunks)

    @property
    def rows(self) -> int:
        """Rows of the chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def cost(self) -> int:
        """Bytes of the chunks."""
        return sum(chunk.bytes for chunk in self.chunks)

    @property
    def memory(self) -> int:
        """Peak memory: one chunk on its way, all of them, and their sorted copy, with sort keys if there are some."""
        keys = 2 * self.cost + KEY_BYTES * self.rows if self.target.sort else 0
        return max(map(chunk_memory, self.chunks)) + self.view.graph.beside + 3 * self.cost + keys

    def describe(self) -> str:
        """Place of the chunks."""
        return self.chunks[0].place()

    def run(self, store: Store) -> Mark:
        """Evaluate, sort, write; the mark tells where each group lies."""
        tables = [evaluate(self.view, store, chunk).tables.get(self.target.ref) for chunk in self.chunks]
        found = [conform(table, self.target.schema) for table in tables if table is not None and table.num_rows]
        if not found:
            return {"groups": []}
        table = pa.concat_tables(found)
        if self.target.sort:
            keys = order_keys(table, self.target.sort)
            ordered = table.append_column(ORDER, keys)
            run = take(ordered, pc.sort_indices(keys).to_numpy())
            return {"groups": [[None, 0, table.num_rows]]} | store.write_table(self.key, run)
        key = stream_key(self.target.seed, "output", "order")
        order = random_bits(key, ids_of(table), stream=copies_of(table))
        index, groups = sort_run(table, order, self.target.group)
        run = take(table, index).append_column(ORDER, pa.array(order[index]))
        return {"groups": groups} | store.write_table(self.key, run)


def neighbours(chunks: Sequence[Chunk | Made]) -> list[tuple[Chunk | Made, ...]]:
    """Group chunks of one file, or of one stage's new rows, up to ``RUN_BYTES``: few runs, since each shard reads all.

    The groups depend on the chunks alone; an appended file changes none of them.
    """
    groups: list[list[Chunk | Made]] = []
    size, last = 0, ""
    for chunk in chunks:
        place = chunk.file.key if isinstance(chunk, Chunk) else chunk.step
        if place != last or size + chunk.bytes > RUN_BYTES:
            groups.append([])
            size, last = 0, place
        groups[-1].append(chunk)
        size += chunk.bytes
    return [tuple(group) for group in groups]


def sort_run(table: pa.Table, order: Ids, group: str | None) -> tuple[Any, list[list[Any]]]:
    """Positions in sorted order, and ``[group, first, rows]`` of each group, missing groups last."""
    ids, copies = ids_of(table), copies_of(table)
    if group is None:
        return np.lexsort((copies, ids, order)) if _repeats(order) else np.argsort(order), [[None, 0, table.num_rows]]
    values = plain(table.column(group))
    rank = _ranks(values)
    index = np.lexsort((copies, ids, order, rank)) if _repeats(order) else np.lexsort((order, rank))
    ordered = values.take(pa.array(index)).combine_chunks()
    counts = ordered.value_counts()
    sizes = counts.field("counts").to_numpy()
    firsts = np.concatenate([[0], np.cumsum(sizes)])
    names = counts.field("values").to_pylist()
    return index, [[n, int(a), int(s)] for n, a, s in zip(names, firsts, sizes, strict=False)]


def _repeats(order: Ids) -> bool:
    """Whether two rows have the same order key, so that ties must be broken."""
    ordered = np.sort(order)
    return bool((ordered[1:] == ordered[:-1]).any())


def _ranks(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Place of each row's value among the sorted values, missing last."""
    coded = values.combine_chunks().dictionary_encode()
    place = np.empty(len(coded.dictionary) + 1, np.int64)
    place[pc.sort_indices(coded.dictionary).to_numpy()] = np.arange(len(coded.dictionary))
    place[-1] = len(coded.dictionary)
    ranks: NDArray[np.int64] = place[coded.indices.fill_null(len(coded.dictionary)).to_numpy()]
    return ranks


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decode a dictionary column, whose values cannot be sorted otherwise."""
    kind = values.type
    return values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values


def group_order(value: Any) -> tuple[int, Any]:
    """Sort key of group values: by value, missing last, as Arrow sorts them."""
    return (1, 0) if value is None else (0, value)


@dataclass(frozen=True)
class Slice:
    """Rows ``[start, stop)`` of one run or of one chunk's result."""

    key: str
    start: int
    stop: int


def cut_runs(
    store: Store, runs: Sequence[tuple[str, list[list[Any]]]], shard_rows: int
) -> tuple[list[list[Slice]], list[tuple[Any, int]]]:
    """Cut sorted runs into shards of exactly ``shard_rows`` rows (the last has the rest).

    The driver looks at sort keys near the cuts only; rows stay where they are.

    Parameters
    ----------
    runs
        Key and groups (``[value, first, rows]``) of each run.
    shard_rows
        Rows of a shard.

    Returns
    -------
    tuple
        The slices of every shard, and the groups with their rows, in layout order.
    """
    sizes: dict[Any, int] = {}
    for _, groups in runs:
        for value, _, rows in groups:
            sizes[value] = sizes.get(value, 0) + rows
    names = sorted(sizes, key=group_order)
    offsets = np.concatenate([[0], np.cumsum([sizes[name] for name in names])]).astype(np.int64)
    total = int(offsets[-1])
    places = [{value: (first, rows) for value, first, rows in groups} for _, groups in runs]
    keys = [store.table(key).column(ORDER).to_numpy() for key, _ in runs]
    edges = [np.zeros(len(runs), np.int64)]
    for cut in range(shard_rows, total, shard_rows):
        at = int(np.searchsorted(offsets, cut, side="right")) - 1
        edges.append(_edge(keys, places, names, at, cut - int(offsets[at])))
    edges.append(np.array([len(key) for key in keys], np.int64))
    shards = [
        [Slice(run[0], int(a), int(b)) for run, a, b in zip(runs, low, high, strict=True) if b > a]
        for low, high in pairwise(edges)
    ]
    return [shard for shard in shards if shard], [(name, sizes[name]) for name in names]


def _edge(keys: list[Ids], places: list[dict[Any, tuple[int, int]]], names: list[Any], at: int, rank: int) -> Any:
    """Position in each run before which lie the groups before ``at`` and the ``rank`` smallest keys of group ``at``."""
    name = names[at]
    parts = []
    for run, place in zip(keys, places, strict=True):
        first, rows = place[name] if name in place else (_first_after(place, name), 0)
        parts.append((first, run[first : first + rows]))
    if rank == 0:
        return np.array([first for first, _ in parts], np.int64)
    cut = _kth_smallest([part for _, part in parts], rank)
    return np.array([first + int(np.searchsorted(part, cut, side="right")) for first, part in parts], np.int64)


def _first_after(place: dict[Any, tuple[int, int]], name: Any) -> int:
    before = [first + rows for other, (first, rows) in place.items() if group_order(other) < group_order(name)]
    return max(before, default=0)


def _kth_smallest(parts: list[Ids], rank: int) -> np.uint64:
    """The ``rank``-th smallest (1-based) of sorted arrays, looking only at a window around where it must lie."""
    total = sum(len(part) for part in parts)
    spread = 8.0 * np.sqrt(total) + 16.0
    low, high = (min(max((rank + s) / total, 0.0), 1.0) for s in (-spread, spread))
    bounds = np.array([int(low * 2**64), min(int(high * 2**64), 2**64 - 1)], np.uint64)
    below, window = 0, []
    for part in parts:
        a, b = np.searchsorted(part, bounds[:1], side="left")[0], np.searchsorted(part, bounds[1:], side="right")[0]
        below += int(a)
        window.append(part[a:b])
    inside = np.sort(np.concatenate(window))
    if not below < rank <= below + len(inside):  # keys that are not uniform
        below, inside = 0, np.sort(np.concatenate(parts))
    return np.uint64(inside[rank - below - 1])


def cut_sorted(store: Store, keys: Sequence[str], shard_rows: int) -> list[list[Slice]]:
    """Cut sorted runs into shards of exactly ``shard_rows`` rows (the last has the rest)."""
    runs = [Keys(store.table(key).column(ORDER)) for key in keys]
    cuts, total = Cuts(runs), sum(map(len, runs))
    edges = [np.zeros(len(runs), np.int64), *(cuts.at(rank) for rank in range(shard_rows, total, shard_rows))]
    edges.append(np.array([len(run) for run in runs], np.int64))
    return [
        [Slice(key, int(a), int(b)) for key, a, b in zip(keys, low, high, strict=True) if b > a]
        for low, high in pairwise(edges)
        if (high > low).any()
    ]


@dataclass(frozen=True)
class _Shard:
    """What both kinds of shard job share."""

    target: Target
    number: int
    slices: tuple[Slice, ...]
    row_bytes: int

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return sum(each.stop - each.start for each in self.slices)

    @property
    def cost(self) -> int:
        """Bytes of the shard."""
        return max(1, self.rows * self.row_bytes)

    def describe(self) -> str:
        """Output and shard."""
        return f"output '{self.target.name}', shard {self.number:05d}"

    @cached_property
    def key(self) -> str:
        """Content key: the rows and how they become bytes."""
        slices = [[each.key, each.start, each.stop] for each in self.slices]
        return content_key("shard", self.target.key, slices)

    def _write(self, store: Store, table: pa.Table) -> Mark:
        table = conform(table, self.target.schema)
        data = store.write(self.key, f".{self.target.format}", lambda path: self._fill(path, table))
        return {
            "rows": table.num_rows,
            "fingerprint": f"{fingerprint(row_hashes(table)):032x}",
            "gates": [measure(gate, table) for gate in self.target.gates],
            **self._sidecar(store),
        } | data

    def _sidecar(self, store: Store) -> Mark:
        """Write where single values lie in the shard just written, if it has columns that can be read so."""
        shard = store.data(self.key, f".{self.target.format}")
        if self.target.format != "parquet" or not has_offsets(shard):
            return {}
        written = store.write(self.key, SIDECAR, lambda path: write_offsets(shard, path))
        return {"sidecar": written["data"]}

    def _fill(self, path: Path, table: pa.Table) -> None:
        if self.target.format == "parquet":
            write_parquet(table, path, compression=self.target.compression)
            return
        # One batch a shard: a loader maps it once and gathers rows without looking for their batch.
        whole = table.combine_chunks()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
            writer.write_table(whole)


@dataclass(frozen=True)
class GatherJob(_Shard):
    """A shard of slices of sorted runs."""

    @property
    def memory(self) -> int:
        """Peak memory: the slices, the sorted rows, and what is written, with sort keys if there are some."""
        keys = 2 * self.cost + KEY_BYTES * self.rows if self.target.sort else 0
        return 4 * self.cost + keys + (64 << 20)

    def run(self, store: Store) -> Mark:
        """Merge the slices by group and order key."""
        # Copied out run by run: what stays mapped counts as memory, and a shard touches every run.
        parts = []
        for each in self.slices:
            rows = store.table(each.key).slice(each.start, each.stop - each.start)
            parts.append(take(rows, np.arange(rows.num_rows)))
        table = pa.concat_tables(parts)
        if self.target.sort:
            index = pc.sort_indices(table.column(ORDER)).to_numpy()
        else:
            index, _ = sort_run(table, table.column(ORDER).to_numpy(), self.target.group)
        return self._write(store, take(table, index))


@dataclass(frozen=True)
class StreamJob(_Shard):
    """A shard of the results of consecutive chunks, in their order."""

    view: View
    chunks: Mapping[str, Chunk | Made]

    @property
    def memory(self) -> int:
        """Peak memory: one chunk on its way, and the shard."""
        largest = max((chunk_memory(chunk) for chunk in self.chunks.values()), default=0)
        return largest + self.view.graph.beside + 3 * self.cost

    def run(self, store: Store) -> Mark:
        """Evaluate the chunks and cut out the rows."""
        parts = []
        for each in self.slices:
            result = evaluate(self.view, store, self.chunks[each.key], each.key)
            rows = result.tables[self.target.ref].slice(each.start, each.stop - each.start)
            parts.append(conform(rows, self.target.schema))
        return self._write(store, pa.concat_tables(parts) if parts else self.target.schema.empty_table())


def cut_chunks(
    chunks: Sequence[Chunk | Made], view_key: str, rows: Sequence[int], shard_rows: int
) -> list[list[tuple[Slice, Chunk | Made]]]:
    """Cut the results of chunks, in order, into shards of exactly ``shard_rows`` rows (the last has the rest)."""
    shards: list[list[tuple[Slice, Chunk | Made]]] = []
    room = 0
    for chunk, count in zip(chunks, rows, strict=True):
        key, at = content_key(view_key, chunk.key), 0
        while at < count:
            if room == 0:
                shards.append([])
                room = shard_rows
            taken = min(room, count - at)
            shards[-1].append((Slice(key, at, at + taken), chunk))
            at, room = at + taken, room - taken
    return shards
