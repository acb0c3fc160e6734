"""The rows of a build at any positions, read from its shards; which form a column gets is said in ``columns``."""

from __future__ import annotations

import difflib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.feed.columns import As, Column, has_null
from curation.feed.gather import FixedWidth, Placed, Values, Varying, gathers
from curation.feed.plan import FeedError

Format = Literal["arrow", "parquet"]
Batch = dict[str, Any]
Numbers = NDArray[np.int64]
_T = TypeVar("_T")


class RowSource(Protocol):
    """Where a loader reads rows: `ShardSet`, or shards that come from a store as they are needed."""

    @property
    def n_rows(self) -> int:
        """Rows of all shards."""
        ...

    def check(self) -> tuple[pa.Schema, frozenset[str]]:
        """Refuse shards that are missing, damaged or unlike; gives the schema, and the columns that hold a null."""
        ...

    def check_columns(self, columns: Sequence[str] | None) -> list[str]:
        """Refuse columns that do not exist; None is all of them."""
        ...

    def take(self, positions: Numbers, columns: Sequence[str] | None = None, as_: As = "numpy") -> Batch:
        """Rows at some positions."""
        ...

    def expect(self, upcoming: Callable[[int], Numbers | None]) -> None:
        """Hear what will be read: ``upcoming(i)`` are the positions of the batch after the next ``i``, or None."""
        ...


class ShardSet:
    """The rows of a build, in the order of its shards, read at any positions; any number of threads may.

    Parameters
    ----------
    paths
        Shard files, in the order of the stored table.
    rows
        Rows of each shard, as the manifest says [rows].
    format
        ``arrow``: Arrow IPC files, memory-mapped; uncompressed ones are read without copies of what is not
        asked for. ``parquet``: values that a sidecar has the place of are read from the mapped file; of other columns
        whole row groups are decoded, and numbers without nulls once and for all as far as ``cache_bytes`` allows.
    sidecars
        Sidecar of each shard, of Parquet; None for a shard without one.
    max_open
        Shards held mapped at a time (Arrow; a mapping costs address space, not memory) or open (Parquet).
    cache_bytes
        Decoded rows of Parquet shards that are kept [bytes].

    Raises
    ------
    FeedError
        If ``paths`` and ``rows`` do not match.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rows: Sequence[int],
        format: Format = "arrow",
        *,
        sidecars: Sequence[Path | None] | None = None,
        max_open: int = 65_536,
        cache_bytes: int = 1 << 30,
    ) -> None:
        if len(paths) != len(rows):
            raise FeedError(f"rows: expected one number per shard, got {len(rows)} for {len(paths)} shards")
        if format not in ("arrow", "parquet"):
            raise FeedError(f"format: expected arrow or parquet, got {format}; export the build as one of them")
        self._paths = [Path(path) for path in paths]
        self._sidecars = [None] * len(paths) if sidecars is None else list(sidecars)
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(rows, dtype=np.int64))]).astype(np.int64)
        self._format: Format = format
        self._max_open, self._cache_bytes = max_open, cache_bytes
        self._checked: tuple[pa.Schema, frozenset[str]] | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._open_shards: _Recent[_Shard] = _Recent(self._max_open, lambda _: 1)
        self._row_groups: _Recent[list[pa.RecordBatch]] = _Recent(
            self._cache_bytes, lambda group: sum(batch.nbytes for batch in group)
        )
        self._gatherers: dict[str, FixedWidth | Varying | Placed | None] = {}
        self._resident_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it opens the files itself."""
        own = ("_lock", "_open_shards", "_row_groups", "_gatherers", "_resident_bytes")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def n_rows(self) -> int:
        """Rows of all shards."""
        return int(self._starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns; checks the shards on first use."""
        return list(self.check()[0].names)

    def check(self) -> tuple[pa.Schema, frozenset[str]]:
        """Look at every shard once: it must be there, whole and like the others.

        Returns
        -------
        schema
            Schema of the rows.
        nullable
            Names of the columns that hold a null somewhere.

        Raises
        ------
        FeedError
            If a shard is missing, unreadable, has another number of rows than the manifest says, or another
            schema.
        """
        with self._lock:
            if self._checked is None:
                self._checked = self._check()
            return self._checked

    def _check(self) -> tuple[pa.Schema, frozenset[str]]:
        schema: pa.Schema | None = None
        nullable: set[str] = set()
        for i, path in enumerate(self._paths):
            shard = self._open(i)
            expected = int(self._starts[i + 1] - self._starts[i])
            if shard.n_rows != expected:
                raise FeedError(
                    f"{path}: expected {expected} rows by the manifest, got {shard.n_rows}; the shard was "
                    "cut short or replaced, "
                    "restore it or build again"
                )
            if schema is not None and not shard.schema.equals(schema):
                raise FeedError(f"{path}: expected the schema of {self._paths[0].name}, got another; build again")
            schema = shard.schema.remove_metadata()
            nullable |= shard.nullable()
        if schema is None:
            raise FeedError("paths: expected at least one shard, got none; build with rows that pass the filters")
        return schema, frozenset(nullable)

    def assume(self, checked: tuple[pa.Schema, frozenset[str]]) -> None:
        """Take what `check` would say as known, since all shards together were looked at."""
        self._checked = checked

    def take(self, positions: Numbers, columns: Sequence[str] | None = None, as_: As = "numpy") -> Batch:
        """Rows at some positions.

        Parameters
        ----------
        positions : (k,)
            Positions in [0, n_rows), any order, repeats allowed.
        columns
            Names of the columns; None is all of them.
        as_
            ``arrow``: columns that numpy can hold only as objects become Arrow arrays.

        Returns
        -------
        dict
            Column to array, first axis k, in the order of ``positions``; see ``curation.feed.columns`` for the types.
            All of it is a copy.

        Raises
        ------
        FeedError
            If a position or a column does not exist, or a shard is not as the manifest says.
        """
        schema, nullable = self.check()
        names = self.check_columns(columns)
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.n_rows):
            raise FeedError(
                f"positions: expected 0 <= position < {self.n_rows}, got {positions.min()} to {positions.max()}"
            )
        found: Batch = {}
        slow: list[Column] = []
        for name in dict.fromkeys(names):
            gatherer = self._gatherer(name)
            if gatherer is None:
                slow.append(Column.of(schema.field(name), name in nullable))
            else:
                found[name] = _formed(gatherer.take(positions), schema.field(name).type, as_)
        found |= self._take_slowly(positions, slow, as_)
        return {name: found[name] for name in names}

    def expect(self, upcoming: Callable[[int], Numbers | None]) -> None:
        """Nothing to prepare: all shards are here."""

    def _gatherer(self, name: str) -> FixedWidth | Varying | Placed | None:
        """Compiled reader of a column over all shards, or None if it needs Arrow's own conversion."""
        if name not in self._gatherers:
            with self._lock:
                if name not in self._gatherers:
                    schema, nullable = self.check()
                    column = Column.of(schema.field(name), name in nullable)
                    make = self._mapped_gatherer if self._format == "arrow" else self._parquet_gatherer
                    self._gatherers[name] = make(column) if len(self._paths) <= self._max_open else None
        return self._gatherers[name]

    def _mapped_gatherer(self, column: Column) -> FixedWidth | Varying | None:
        return self._over(column, lambda shard, block: shard.read(block, (column.name,)))

    def _parquet_gatherer(self, column: Column) -> FixedWidth | Varying | Placed | None:
        if all(sidecar is not None for sidecar in self._sidecars):
            places = [_places(sidecar, column.name) for sidecar in self._sidecars if sidecar is not None]
            known = [place for place in places if place is not None]
            if len(known) == len(places):
                files = [np.asarray(np.memmap(path, np.uint8, mode="r")) for path in self._paths]
                return Placed(files, [at for at, _ in known], [n for _, n in known], self._starts, column.type)
        size = column.row_bytes * self.n_rows
        if column.kind != "view" or self._resident_bytes + size > self._cache_bytes:
            return None
        self._resident_bytes += size
        return self._over(column, lambda shard, block: shard.read(block, (column.name,)))

    def _over(self, column: Column, read: Callable[[_Shard, int], list[pa.RecordBatch]]) -> FixedWidth | Varying | None:
        """Reader over the arrays of a column, one of each record batch."""
        shards = [self._open(i) for i in range(len(self._paths))]
        batches = [batch for shard in shards for block in range(len(shard.starts) - 1) for batch in read(shard, block)]
        arrays = [batch.column(column.name) for batch in batches]
        starts = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)
        if column.kind == "view":
            return FixedWidth(arrays, starts, column.dtype, column.shape)
        return Varying(arrays, starts) if arrays and all(gathers(array) for array in arrays) else None

    def _take_slowly(self, positions: Numbers, columns: list[Column], as_: As) -> Batch:
        """Columns that need Arrow's own conversion, block by block."""
        if not columns:
            return {}
        names = tuple(column.name for column in columns)
        outputs = [column.output(positions.shape[0], as_) for column in columns]
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        for index, run in runs(ordered, self._starts):
            shard = self._open(index)
            rows = ordered[run] - self._starts[index]
            for block, within in runs(rows, shard.starts):
                batches = self._read(index, shard, block, names)
                starts = shard.starts[block] + np.cumsum([0, *(batch.num_rows for batch in batches)])
                targets = order[run][within]
                for i, part in runs(rows[within], starts):
                    local = rows[within][part] - starts[i]
                    for name, output in zip(names, outputs, strict=True):
                        output.put(batches[i].column(name), local, targets[part])
        return {name: output.done() for name, output in zip(names, outputs, strict=True)}

    def check_columns(self, columns: Sequence[str] | None) -> list[str]:
        """Names of the columns to read.

        Parameters
        ----------
        columns
            Wanted columns, or None.

        Returns
        -------
        list of str
            The wanted columns, or all.

        Raises
        ------
        FeedError
            If a column does not exist.
        """
        return chosen_columns(columns, self.columns)

    def _open(self, index: int) -> _Shard:
        return self._open_shards.get(index, lambda: _open_shard(self._paths[index], self._format))

    def _read(self, index: int, shard: _Shard, block: int, columns: tuple[str, ...]) -> list[pa.RecordBatch]:
        if self._format == "arrow":  # mapped already: nothing to keep
            return shard.read(block, columns)
        return self._row_groups.get((index, block, columns), lambda: shard.read(block, columns))


def chosen_columns(columns: Sequence[str] | None, names: list[str]) -> list[str]:
    """Wanted columns, or all of ``names``; refuses those that do not exist."""
    for name in columns or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise FeedError(f"columns: expected columns of the shards, got {name!r}; {hint}")
    return names if columns is None else list(columns)


def _formed(found: NDArray[Any] | Values, kind: pa.DataType, as_: As) -> Any:
    """Gathered rows in the form that was asked for."""
    if isinstance(found, np.ndarray) or as_ == "values":
        return found
    if as_ == "numpy":
        return found.objects()
    return found.arrow() if found.type == kind else found.arrow().cast(kind)


def _places(sidecar: Path, column: str) -> tuple[NDArray[np.uint64], NDArray[np.uint32]] | None:
    """Offsets and lengths of a column's values by a sidecar, mapped; None if it has none of them."""
    try:
        with pa.memory_map(str(sidecar)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise FeedError(f"{sidecar}: expected the sidecar of a shard, got {error}; build again") from error
    if f"{column}.offset" not in batch.schema.names:
        return None
    return batch.column(f"{column}.offset").to_numpy(), batch.column(f"{column}.length").to_numpy()


class _Recent(Generic[_T]):
    """The most recently used things up to a total size, made when they are missing."""

    def __init__(self, size: int, size_of: Callable[[_T], int]) -> None:
        self._left, self._size_of = size, size_of
        self._held: OrderedDict[Any, tuple[_T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], _T]) -> _T:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        made = make()  # threads may make a thing twice, and never wait for each other's
        with self._lock:
            if key not in self._held:
                self._held[key] = made, self._size_of(made)
                self._left -= self._held[key][1]
            while self._left < 0 and len(self._held) > 1:
                self._left += self._held.popitem(last=False)[1][1]
        return made


def runs(ordered: Numbers, starts: Numbers) -> list[tuple[int, slice]]:
    """Parts of sorted positions that fall into the same interval [starts[i], starts[i + 1])."""
    if not ordered.size:
        return []
    index = np.searchsorted(starts, ordered, side="right") - 1
    cuts = np.flatnonzero(np.diff(index)) + 1
    edges = [0, *cuts.tolist(), ordered.shape[0]]
    return [(int(index[a]), slice(a, b)) for a, b in pairwise(edges)]


class _Shard(Protocol):
    """An open shard: blocks of rows that are read one at a time."""

    schema: pa.Schema
    starts: Numbers  # (n_blocks + 1,) first row of each block

    @property
    def n_rows(self) -> int: ...

    def nullable(self) -> set[str]:
        """Columns that may hold a null."""
        ...

    def read(self, block: int, columns: Sequence[str]) -> list[pa.RecordBatch]: ...


def _open_shard(path: Path, format: Format) -> _Shard:
    try:
        return _ArrowShard(path) if format == "arrow" else _ParquetShard(path)
    except FileNotFoundError as error:
        raise FeedError(f"{path}: expected a shard, got no such file; restore it or build again") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise FeedError(f"{path}: expected a readable {format} file, got {error}; restore it or build again") from error


class _ArrowShard:
    """A memory-mapped Arrow IPC file; a block is a record batch."""

    def __init__(self, path: Path) -> None:
        # The mapping outlives the file, so that a build of many shards does not use up the open files.
        with pa.memory_map(str(path), "r") as source:
            reader = pa.ipc.open_file(source)
            self.schema = reader.schema
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in self._batches])]).astype(np.int64)

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    def nullable(self) -> set[str]:
        names = self.schema.names
        return {name for batch in self._batches for name in names if has_null(batch.column(name))}

    def read(self, block: int, columns: Sequence[str]) -> list[pa.RecordBatch]:
        return [self._batches[block]]


class _ParquetShard:
    """A Parquet file; a block is a row group."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with pq.ParquetFile(path) as file:
            self.metadata, self.schema = file.metadata, file.schema_arrow
        groups = [self.metadata.row_group(i) for i in range(self.metadata.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum([group.num_rows for group in groups])]).astype(np.int64)

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    def nullable(self) -> set[str]:
        # statistics are optional: without them a column that may hold a null is taken to hold one
        found: set[str] = set()
        for g in range(self.metadata.num_row_groups):
            group = self.metadata.row_group(g)
            for c in range(group.num_columns):
                column = group.column(c)
                statistics = column.statistics
                counted = statistics is not None and statistics.has_null_count
                if self.metadata.schema.column(c).max_definition_level and not (counted and statistics.null_count == 0):
                    found.add(column.path_in_schema.split(".")[0])
        return found

    def read(self, block: int, columns: Sequence[str]) -> list[pa.RecordBatch]:
        # A file of its own for each read: threads may not share one.
        with pq.ParquetFile(self._path, metadata=self.metadata, memory_map=True) as file:
            table = file.read_row_group(block, columns=list(columns), use_threads=False)
        # to_batches keeps chunks apart: joining binary columns copies them, and fails above 2 GiB
        return list(table.to_batches())
