"""The loader: turns the positions of a plan into batches of numpy arrays, read from the shards.

How columns become arrays is the same for every batch of a training, since it follows from the schema and from
whether a column holds any null at all:

=================================================  ===========================================================
column                                             array
=================================================  ===========================================================
integers, floats, without nulls                    same dtype, (k,)
boolean, timestamp, date, duration, without nulls  bool, datetime64, timedelta64 (time zones: UTC), (k,)
fixed-size list of integers or floats, no nulls    same dtype, (k, size), nested lists (k, size, size, ...)
string, binary                                     object: str or bytes, None for null
list                                               object: one numpy array per row, None for null
timestamp, date, duration, with nulls              object: numpy scalars, as exact as the column, None for null
anything with a null, and all other types          object: Python values, None for null
=================================================  ===========================================================

Numbers with nulls become objects rather than masked arrays or NaN, because code that is unaware of a mask
reads what is under it without a word; fill such a column in the recipe.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.feed.gather import FixedWidth
from curation.feed.plan import FeedError, Plan, check_rank
from curation.tables import take

Array = NDArray[Any]
Format = Literal["arrow", "parquet"]
_T = TypeVar("_T")


class ShardSet:
    """The rows of a build, in the order of its shards, read at any positions.

    Parameters
    ----------
    paths
        Shard files, in the order of the stored table.
    rows
        Rows of each shard, as the manifest says [rows].
    format
        ``arrow``: Arrow IPC files, memory-mapped; uncompressed ones are read without copies of what is not
        asked for. ``parquet``: row groups are read whole and the last few are kept, so scattered reads are
        slow.
    max_open
        Shards held mapped at a time (Arrow; a mapping costs address space, not memory) or open (Parquet).
    max_row_groups
        Row groups of Parquet shards kept at a time.

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
        max_open: int = 65_536,
        max_row_groups: int = 8,
    ) -> None:
        if len(paths) != len(rows):
            raise FeedError(f"rows: expected one number per shard, got {len(rows)} for {len(paths)} shards")
        if format not in ("arrow", "parquet"):
            raise FeedError(f"format: expected arrow or parquet, got {format}; export the build as one of them")
        self._paths = [Path(path) for path in paths]
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(rows, dtype=np.int64))]).astype(np.int64)
        self._format: Format = format
        self._open_shards: _Recent[_Shard] = _Recent(max_open)
        self._row_groups: _Recent[list[pa.RecordBatch]] = _Recent(max_row_groups)
        self._max_open = max_open
        self._fixed: dict[str, FixedWidth] = {}
        self._checked: tuple[pa.Schema, frozenset[str]] | None = None

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
        if self._checked is not None:
            return self._checked
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
        self._checked = (schema, frozenset(nullable))
        return self._checked

    def take(self, positions: NDArray[np.int64], columns: Sequence[str] | None = None) -> dict[str, Array]:
        """Rows at some positions.

        Parameters
        ----------
        positions : (k,)
            Positions in [0, n_rows), any order, repeats allowed.
        columns
            Names of the columns; None is all of them.

        Returns
        -------
        dict
            Column to array, first axis k, in the order of ``positions``; see the module for the types.

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
        found = {name: _Column.of(schema.field(name), name in nullable) for name in names}
        fast = {name: self._fixed_width(column) for name, column in found.items() if self._mapped(column)}
        slow = self._take_slowly(positions, [column for name, column in found.items() if name not in fast])
        return {name: fast[name].take(positions) if name in fast else slow[name] for name in names}

    def _mapped(self, column: _Column) -> bool:
        """Whether a column can be copied from where it is mapped: numbers without nulls, all shards open at once."""
        return column.kind == "view" and self._format == "arrow" and len(self._paths) <= self._max_open

    def _fixed_width(self, column: _Column) -> FixedWidth:
        if column.name not in self._fixed:
            shards = [self._open(i) for i in range(len(self._paths))]
            blocks = [(shard, block) for shard in shards for block in range(len(shard.starts) - 1)]
            arrays = [shard.read(block, (column.name,))[0].column(column.name) for shard, block in blocks]
            firsts = [start + shard.starts[:-1] for start, shard in zip(self._starts, shards, strict=False)]
            starts = np.concatenate([*firsts, self._starts[-1:]])
            self._fixed[column.name] = FixedWidth(arrays, starts, column.dtype, column.shape)
        return self._fixed[column.name]

    def _take_slowly(self, positions: NDArray[np.int64], readers: list[_Column]) -> dict[str, Array]:
        """Columns that need Arrow's own conversion, block by block."""
        if not readers:
            return {}
        names = [reader.name for reader in readers]
        outputs = [reader.empty(positions.shape[0]) for reader in readers]
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        for index, run in _runs(ordered, self._starts):
            shard = self._open(index)
            rows = ordered[run] - self._starts[index]
            for block, within in _runs(rows, shard.starts):
                batches = self._read(index, shard, block, tuple(names))
                starts = shard.starts[block] + np.cumsum([0, *(batch.num_rows for batch in batches)])
                targets = order[run][within]
                for i, part in _runs(rows[within], starts):
                    local = rows[within][part] - starts[i]
                    for reader, output in zip(readers, outputs, strict=True):
                        reader.gather(batches[i].column(reader.name), local, output, targets[part])
        return dict(zip(names, outputs, strict=True))

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
        names = self.columns
        for name in columns or ():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
                raise FeedError(f"columns: expected columns of the shards, got {name!r}; {hint}")
        return names if columns is None else list(columns)

    def _open(self, index: int) -> _Shard:
        return self._open_shards.get(index, lambda: _open_shard(self._paths[index], self._format))

    def _read(self, index: int, shard: _Shard, block: int, columns: tuple[str, ...]) -> list[pa.RecordBatch]:
        if self._format == "arrow":  # mapped already: nothing to keep
            return shard.read(block, columns)
        return self._row_groups.get((index, block, columns), lambda: shard.read(block, columns))


class Loader:
    """Batches of a plan, for one rank.

    Iterating yields ``dict[str, numpy array]`` from the current batch to the last one of the training (or of
    one epoch), and goes on where it stopped when iterated again. All ranks make the same number of steps; the
    last batch of an epoch may be empty on some ranks if it has fewer rows than there are ranks.

    Parameters
    ----------
    plan
        What to read when.
    shards
        Where the rows are.
    rank, world_size
        This rank and the number of ranks, 0 <= rank < world_size.
    columns
        Columns of a batch; None is all of them.
    epoch
        Only this epoch; None is the whole training.

    Raises
    ------
    FeedError
        If rank, epoch or a column does not exist, a shard is missing or not as the manifest says, or plan and
        shards belong to different builds.
    """

    def __init__(
        self,
        plan: Plan,
        shards: ShardSet,
        *,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
        epoch: int | None = None,
    ) -> None:
        check_rank(rank, world_size)
        shards.check()
        if plan.n_rows != shards.n_rows:
            raise FeedError(
                f"plan: expected {shards.n_rows} rows as in the shards, got {plan.n_rows}; take both of one build"
            )
        self._plan, self._shards = plan, shards
        self._rank, self._world_size = rank, world_size
        self._columns = shards.check_columns(columns)
        self._begin, self._end = 0, plan.n_steps
        if epoch is not None:
            plan.epoch_size(epoch)  # refuses an epoch that does not exist
            self._begin, self._end = plan.first_step(epoch), plan.first_step(epoch + 1)
        self._step = self._begin

    def __len__(self) -> int:
        """Batches from the first to the last, whatever the current one."""
        return self._end - self._begin

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self

    def __next__(self) -> dict[str, Array]:
        if self._step >= self._end:
            raise StopIteration
        positions = self._plan.batch(self._step, self._rank, self._world_size)
        batch = self._shards.take(positions, self._columns)
        self._step += 1  # only now: a batch that could not be read is not passed over
        return batch

    def state_dict(self) -> dict[str, Any]:
        """State of the training: the same on all ranks, and for any number of them.

        Returns
        -------
        dict
            ``plan``: fingerprint of the plan; ``step``: the next batch, counted over the training.
        """
        return {"plan": self._plan.fingerprint, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the batch of a state, exactly, whatever the number of ranks that saved it.

        Parameters
        ----------
        state
            From `state_dict`.

        Raises
        ------
        FeedError
            If the state belongs to another plan, or its step to another epoch than that of this loader.
        """
        if state.get("plan") != self._plan.fingerprint:
            raise FeedError(
                f"state: expected the state of plan {self._plan.fingerprint}, got one of "
                f"{state.get('plan')}; open the build "
                "that the training began with, or begin anew"
            )
        step = state.get("step")
        if not isinstance(step, int) or not self._begin <= step <= self._end:
            raise FeedError(
                f"state: expected {self._begin} <= step <= {self._end}, got {step}; set another epoch, or none"
            )
        self._step = step


class _Recent(Generic[_T]):
    """The most recently used things, made when they are missing."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[Any, _T] = OrderedDict()

    def get(self, key: Any, make: Callable[[], _T]) -> _T:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        made = self._held[key] = make()
        if len(self._held) > self._size:
            self._held.popitem(last=False)
        return made


def _runs(ordered: NDArray[np.int64], starts: NDArray[np.int64]) -> list[tuple[int, slice]]:
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
    starts: NDArray[np.int64]  # (n_blocks + 1,) first row of each block

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
        return {name for batch in self._batches for name in names if _has_null(batch.column(name))}

    def read(self, block: int, columns: Sequence[str]) -> list[pa.RecordBatch]:
        return [self._batches[block]]


class _ParquetShard:
    """A Parquet file; a block is a row group."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, memory_map=True)
        self.schema = self._file.schema_arrow
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum([group.num_rows for group in groups])]).astype(np.int64)

    @property
    def n_rows(self) -> int:
        return int(self.starts[-1])

    def nullable(self) -> set[str]:
        # statistics are optional: without them a column that may hold a null is taken to hold one
        found: set[str] = set()
        for g in range(self._file.num_row_groups):
            group = self._file.metadata.row_group(g)
            for c in range(group.num_columns):
                column = group.column(c)
                statistics = column.statistics
                counted = statistics is not None and statistics.has_null_count
                if self._file.schema.column(c).max_definition_level and not (counted and statistics.null_count == 0):
                    found.add(column.path_in_schema.split(".")[0])
        return found

    def read(self, block: int, columns: Sequence[str]) -> list[pa.RecordBatch]:
        # to_batches keeps chunks apart: joining binary columns copies them, and fails above 2 GiB
        table = self._file.read_row_group(block, columns=list(columns))
        return list(table.to_batches())


def _has_null(array: pa.Array) -> bool:
    if array.null_count:
        return True
    return pa.types.is_fixed_size_list(array.type) and _has_null(array.flatten())


@dataclass(frozen=True)
class _Column:
    """How one column becomes an array."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    kind: Literal["view", "numpy", "times", "python"]

    @classmethod
    def of(cls, field: pa.Field, has_null: bool) -> _Column:
        shape: tuple[int, ...] = ()
        kind = field.type
        while pa.types.is_fixed_size_list(kind):
            shape, kind = (*shape, kind.list_size), kind.value_type
        if not has_null and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return cls(field.name, np.dtype(kind.to_pandas_dtype()), shape, "view")
        dtype = _numpy_dtype(field.type)
        if dtype is None:
            return cls(field.name, np.dtype(object), (), "python")
        if dtype.kind != "O" and not has_null:
            return cls(field.name, dtype, (), "numpy")
        if dtype.kind in "mM":
            return cls(field.name, np.dtype(object), (), "times")
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
        lists = (pa.types.is_list, pa.types.is_large_list)
        as_numpy = any(test(field.type) for test in (*texts, *lists))
        return cls(field.name, np.dtype(object), (), "numpy" if as_numpy else "python")

    def empty(self, n: int) -> Array:
        return np.empty((n, *self.shape), dtype=self.dtype)

    def gather(self, array: pa.Array, rows: NDArray[np.int64], output: Array, targets: NDArray[np.int64]) -> None:
        """Write some rows of a record batch to their places."""
        if self.kind == "view":
            while pa.types.is_fixed_size_list(array.type):
                array = array.flatten()
            output[targets] = array.to_numpy().reshape(-1, *self.shape)[rows]
            return
        taken = take(pa.table([array], names=[self.name]), rows).column(0)
        if self.kind == "numpy":
            output[targets] = taken.to_numpy(zero_copy_only=False)
            return
        for target, value in zip(targets.tolist(), self._values(taken), strict=True):
            output[target] = value

    def _values(self, taken: pa.ChunkedArray) -> list[Any]:
        if self.kind == "times":  # Python's own hold no nanoseconds, and only the years 1 to 9999
            return [None if np.isnat(value) else value for value in taken.to_numpy()]
        try:
            values: list[Any] = taken.to_pylist()
        except (ValueError, OverflowError) as error:
            raise FeedError(
                f"column {self.name!r} of type {taken.type} holds a value that Python cannot: {error}; leave the "
                "column out, or make it text or a number in the recipe"
            ) from error
        return values


def _numpy_dtype(kind: pa.DataType) -> np.dtype[Any] | None:
    """Dtype that Arrow gives a column without nulls, or None if it knows none, as for lists of views."""
    try:
        dtype: np.dtype[Any] = pa.array([], kind).to_numpy(zero_copy_only=False).dtype
    except pa.ArrowNotImplementedError:
        return None
    return dtype
