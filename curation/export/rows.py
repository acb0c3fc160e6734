"""Rows of a build in the order in which an export writes them, a shard at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.feed.plan import Plan
from curation.io.atomic import explained
from curation.io.location import local
from curation.io.manifest import Manifest
from curation.report.rows import Rows, batches
from curation.tables import take

_OPEN = 1024
"""Shards of the build that are held mapped at a time."""


@dataclass(frozen=True)
class Piece:
    """Rows of one shard of the export, as positions of the build and, in the order of a plan, where they were drawn."""

    positions: NDArray[np.int64]
    epochs: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    steps: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def pieces(plan: Plan, steps: tuple[int, int], shard_rows: int) -> Iterator[Piece]:
    """Draws of a stretch of steps, in pieces of exactly ``shard_rows``; the last has the rest."""
    kept: list[tuple[NDArray[np.int64], int, int]] = []
    count = 0
    for step in range(*steps):
        rows, epoch = plan.batch(step), plan.epoch_of(step)[0]
        while len(rows):
            part, rows = rows[: shard_rows - count], rows[shard_rows - count :]
            kept.append((part, epoch, step))
            count += len(part)
            if count == shard_rows:
                yield _piece(kept)
                kept, count = [], 0
    if kept:
        yield _piece(kept)


def _piece(kept: Sequence[tuple[NDArray[np.int64], int, int]]) -> Piece:
    lengths = [len(rows) for rows, _, _ in kept]
    epochs, steps = (np.repeat(np.array([each[i] for each in kept], np.int64), lengths) for i in (1, 2))
    return Piece(np.concatenate([rows for rows, _, _ in kept]), epochs, steps)


def drawn(source: Source, piece: Piece, mark: bool) -> pa.Table:
    """Rows of a piece, with where they were drawn if ``mark``."""
    table = source.take(piece.positions)
    if mark:
        table = table.append_column("_epoch", pa.array(piece.epochs)).append_column("_step", pa.array(piece.steps))
    return table


class Source:
    """Rows of a build at any positions, with their Arrow types."""

    def __init__(self, manifest: Manifest, columns: Sequence[str], scratch: Path) -> None:
        rows = Rows(manifest)
        shards = manifest.shards
        self._paths = list(zip(rows.paths, (shard.xxh3 for shard in shards), strict=True))
        self._starts = np.array(list(accumulate((shard.rows for shard in shards), initial=0)))
        self._format = str(manifest.content["shard_format"])
        self._columns, self._scratch = list(columns), scratch
        self._table = lru_cache(maxsize=_OPEN)(self._open)

    def take(self, positions: NDArray[np.int64]) -> pa.Table:
        """Rows at positions of the build, in their order."""
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        shard = np.searchsorted(self._starts, ordered, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(ordered)]
        parts = [take(self._table(int(shard[a])), ordered[a:b] - self._starts[shard[a]]) for a, b in pairwise(cuts)]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return take(pa.concat_tables(parts), back)

    def _open(self, index: int) -> pa.Table:
        path, xxh3 = self._paths[index]
        file = local(path, xxh3=xxh3)
        if self._format == "parquet":
            file = self._as_arrow(file, index)
        with pa.memory_map(str(file)) as mapped:
            return pa.ipc.open_file(mapped).read_all().select(self._columns)

    def _as_arrow(self, shard: Path, index: int) -> Path:
        target = self._scratch / f"{index}.arrow"
        if not target.exists():
            file = pq.ParquetFile(shard)
            schema = pa.schema([file.schema_arrow.field(name) for name in self._columns])
            with explained(target), pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group, columns=self._columns).select(self._columns))
        return target


def stored(manifest: Manifest, schema: pa.Schema, shard_rows: int) -> Iterator[pa.Table]:
    """All rows in the order of the shards, in tables of exactly ``shard_rows``; the last has the rest."""
    kept: list[pa.RecordBatch] = []
    count = 0
    for batch in all_batches(manifest, schema.names):
        while batch.num_rows:
            part = batch.slice(0, shard_rows - count)
            batch = batch.slice(part.num_rows)
            kept.append(part)
            count += part.num_rows
            if count == shard_rows:
                yield pa.Table.from_batches(kept)
                kept, count = [], 0
    if kept:
        yield pa.Table.from_batches(kept)


def all_batches(manifest: Manifest, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Record batches of all shards in their order."""
    for path in Rows(manifest).paths:
        for batch, _ in batches(path, str(manifest.content["shard_format"]), columns, 0):
            yield batch
