"""What a plan must know of the rows besides their number: sizes of the groups, and the weight of every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.engine.store import Mark, Store
from curation.errors import BuildError
from curation.keys import content_key
from curation.types import ROW_ID

if TYPE_CHECKING:
    from curation.engine.runner import Runner
    from curation.flow.output import Target
    from curation.flow.passes import OutputResult
    from curation.recipe.model import FeedSpec


@dataclass(frozen=True)
class Measured:
    """Columns of an output, as its plan wants them.

    Attributes
    ----------
    sizes : (n_groups,)
        Sum of the column ``size`` in each group, or None.
    weights
        Column ``sample_by`` in the order of the rows, shard by shard and mapped, or None.
    """

    sizes: list[float] | None = None
    weights: list[NDArray[np.float64]] | None = None


@dataclass(frozen=True)
class MeasureJob:
    """One column of a finished shard: its weights row by row, or its sums by group."""

    shard: str
    format: str
    rows: int
    column: str
    kind: Literal["size", "weight"]
    group: str | None

    @cached_property
    def key(self) -> str:
        """Content key."""
        return content_key("measure", self.shard, self.column, self.kind, self.group)

    @property
    def cost(self) -> int:
        """Bytes of the columns."""
        return 32 * self.rows + 1

    @property
    def memory(self) -> int:
        """Peak memory: the columns, as they are and as numbers."""
        return measure_memory(self.rows)

    def describe(self) -> str:
        """What is measured."""
        return f"column '{self.column}' of a shard"

    def run(self, store: Store) -> Mark:
        """Sum by group, or write the weights as float64; stop at the first value that is neither."""
        table = self._read(store)
        # NULL becomes NaN
        values = table.column(self.column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(~((values >= 0) & (values < np.inf)))
        if wrong.size:
            bad = table.slice(int(wrong[0]), 1)
            group = None if self.group is None else bad.column(self.group)[0].as_py()
            return {"bad": [str(bad.column(self.column)[0].as_py()), str(bad.column(ROW_ID)[0].as_py()), group]}
        if self.kind == "size":
            return {"bad": None, "sizes": self._sums(table, values)}
        return {"bad": None} | store.write_table(self.key, pa.table({"weight": values}))

    def _read(self, store: Store) -> pa.Table:
        path = store.data(self.shard, f".{self.format}")
        names = list(dict.fromkeys(filter(None, (self.column, self.group, ROW_ID))))
        if self.format == "parquet":
            return pq.read_table(path, columns=names)
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all().select(names)

    def _sums(self, table: pa.Table, values: NDArray[np.float64]) -> list[list[Any]]:
        """Group and sum; rows of a group stand together. A sum is rounded once, so that no order of adding shows."""
        if self.group is None:
            return [[None, math.fsum(values)]]
        coded = table.column(self.group).combine_chunks()
        coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=codes[:1] - 2))
        names = coded.dictionary.to_pylist()
        parts = np.split(values, starts[1:])
        return [
            [None if codes[start] < 0 else names[codes[start]], math.fsum(part)]
            for start, part in zip(starts.tolist(), parts, strict=True)
        ]


def measure_memory(rows: int) -> int:
    """Peak memory of a job of so many rows [bytes]."""
    return 128 * rows + (16 << 20)


def measure_feed(runner: Runner, target: Target, feed: FeedSpec, result: OutputResult) -> Measured:
    """Measure the columns that a feed names.

    Parameters
    ----------
    runner
        Runs the jobs, one a shard.
    target, result
        The output and its finished shards.
    feed
        What the recipe says.

    Returns
    -------
    Measured
        Empty if the feed names no column.

    Raises
    ------
    BuildError
        If a value is NULL, NaN, infinite or negative, with the row id.
    """
    column = feed.size or feed.sample_by  # never both: sizes are of mixtures, which a weight of rows has no room for
    if column is None:
        return Measured()
    kind: Literal["size", "weight"] = "weight" if feed.size is None else "size"
    jobs = [
        MeasureJob(shard.key, target.format, shard.mark["rows"], column, kind, target.group) for shard in result.shards
    ]
    marks = runner.run(f"{target.name}: feed", jobs)
    for mark in marks:
        if mark["bad"] is not None:
            value, row_id, group = mark["bad"]
            place = f"row {row_id}" + ("" if target.group is None else f" of group {group!r}")
            raise BuildError(
                f"feed of output '{target.name}', column '{column}': expected numbers >= 0, got {value} in {place}; "
                "filter such rows, or derive a column without them"
            )
    if kind == "size":
        return Measured(sizes=_by_group([mark["sizes"] for mark in marks], result.groups))
    columns = [runner.store.table(job.key).column("weight") for job in jobs]
    return Measured(weights=[chunk.to_numpy() for column in columns for chunk in column.chunks])


def _by_group(marks: Sequence[list[list[Any]]], groups: Sequence[tuple[Any, int]]) -> list[float]:
    parts: dict[Any, list[float]] = {value: [] for value, _ in groups}
    for mark in marks:
        for value, size in mark:
            parts[value].append(size)
    return [math.fsum(parts[value]) for value, _ in groups]
