"""Sorted outputs: which order reaches an output, and where sorted runs are cut into shards."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.flow.graph import Step
from curation.methods.sort import Sort
from curation.ordering import By

SAMPLE = 1024
"""Every so-manieth key of a run is held by the driver."""


# Which order


class OrderLostError(Exception):
    """The order of stage ``sort`` does not reach an output, since stage ``at`` is in the way."""

    def __init__(self, sort: str, at: str, why: str) -> None:
        self.sort = sort
        super().__init__(f"the order ends at stage '{at}', which {why}")


def order_at(steps: Sequence[Step], ref: str) -> By:
    """Order in which rows at a reference are to be written; none if no ``sort`` lies before it.

    Raises
    ------
    OrderLostError
        If one lies before it, but its columns do not come through, or stages put its rows together with others.
    """
    way: list[tuple[Step, str]] = []
    step = _step_of(steps, ref)
    while step is not None and not isinstance(step.stage.params, Sort):
        if ref.partition(".")[2] in step.stage.optional_ports:
            return ()  # other rows than those that flow in
        way.append((step, ref))
        if len(step.sources) != 1:
            for sort in _sorts(steps, step.sources):
                raise OrderLostError(sort, step.name, "puts its rows together with others")
            return ()
        (ref,) = step.sources
        step = _step_of(steps, ref)
    if step is None:
        return ()
    found = []
    for column, descending in step.stage.params.columns:
        name: str | None = column
        for each, out in reversed(way):
            name = each.stage.carries(name or "", out.partition(".")[2])
            if name is None:
                raise OrderLostError(step.name, each.name, f"does not let column {column!r} through as it is")
        found.append((str(name), descending))
    return tuple(found)


def _sorts(steps: Sequence[Step], refs: Iterable[str]) -> list[str]:
    """Stages ``sort`` whose rows reach the references."""
    found: dict[str, None] = {}
    for ref in refs:
        if (step := _step_of(steps, ref)) is not None:
            if isinstance(step.stage.params, Sort):
                found[step.name] = None
            found |= dict.fromkeys(_sorts(steps, step.sources))
    return list(found)


def unused_sorts(steps: Sequence[Step], outputs: Iterable[str]) -> list[str]:
    """Stages ``sort`` whose rows reach no output."""
    used = set(_sorts(steps, outputs))
    return [step.name for step in steps if isinstance(step.stage.params, Sort) and step.name not in used]


def _step_of(steps: Sequence[Step], ref: str) -> Step | None:
    return next((step for step in steps if ref in step.refs), None)


# Where to cut


class Keys:
    """Sort keys of a run, read one by one where it is mapped."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        whole = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        _, offsets, data = whole.buffers()
        self._edges = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
        self._data = memoryview(data)

    def __len__(self) -> int:
        return len(self._edges) - 1

    def __getitem__(self, i: int) -> bytes:
        return bytes(self._data[self._edges[i] : self._edges[i + 1]])


class Cuts:
    """Finds the rows of sorted runs that come first of all, from samples of the keys and a small exact window.

    Memory of the driver: every :data:`SAMPLE`-th key. Keys read for a cut: about
    ``10 · runs · log2(2 · runs) + SAMPLE``.
    """

    def __init__(self, runs: Sequence[Keys]) -> None:
        self._runs = runs
        self._samples = [[run[p] for p in range(0, len(run), SAMPLE)] for run in runs]
        # With run and number: should two keys be equal after all, they still have an order.
        numbered = ([(key, i, at) for at, key in enumerate(each)] for i, each in enumerate(self._samples))
        self._merged = sorted(chain.from_iterable(numbered))

    def at(self, rank: int) -> NDArray[np.int64]:
        """Rows of each run that are among the first ``rank`` of all; ``rank`` is less than all rows."""
        # With i samples below it, a sample has between (i - runs) · SAMPLE and i · SAMPLE rows below it.
        low = min(rank // SAMPLE, len(self._merged) - 1)
        high = min(rank // SAMPLE + len(self._runs) + 2, len(self._merged))
        while high - low > 1:
            middle = (low + high) // 2
            if int(self._below(*self._merged[middle]).sum()) <= rank:
                low = middle
            else:
                high = middle
        first = self._below(*self._merged[low])
        last = self._below(*self._merged[high]) if high < len(self._merged) else np.array([len(r) for r in self._runs])
        window = [(run[p], i) for i, run in enumerate(self._runs) for p in range(first[i], last[i])]
        for _, i in sorted(window)[: rank - int(first.sum())]:
            first[i] += 1
        return first

    def _below(self, key: bytes, number: int, at: int) -> NDArray[np.int64]:
        """Rows of each run that come before sample ``at`` of run ``number``, which has this key."""
        found = np.zeros(len(self._runs), np.int64)
        for i, (run, samples) in enumerate(zip(self._runs, self._samples, strict=True)):
            bisect = bisect_right if i < number else bisect_left
            block = bisect(samples, key)
            if i == number:
                found[i] = at * SAMPLE
            elif block:
                found[i] = bisect(run, key, (block - 1) * SAMPLE + 1, min(block * SAMPLE, len(run)))
        return found
