"""Kernels that find keys by their hashes in tables that lie sorted in partitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_TURN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(29)


def combined_hashes(columns: Sequence[Hashes]) -> Hashes:
    """One hash of keys of several columns; that of one column is left as it is.

    Parameters
    ----------
    columns : each (n,)
        Hashes of 64 bits, one array per column.

    Returns
    -------
    (n,)
        Hashes of 64 bits, which depend on the order of the columns.
    """
    found = columns[0]
    with np.errstate(over="ignore"):  # wrap-around is meant
        for each in columns[1:]:
            found = (found * _TURN) ^ each
            found = (found ^ (found >> _SHIFT)) * _MIX
            found = found ^ (found >> _SHIFT)
    return found


def partition_starts(parts: int) -> Hashes:
    """Smallest hash of each partition: equal shares of the range of 64-bit hashes.

    Parameters
    ----------
    parts
        Number of partitions, >= 1.

    Returns
    -------
    (parts,)
        Ascending, the first is 0.
    """
    if parts < 1:
        raise ValueError(f"parts: expected >= 1, got {parts}; use 1 to keep all in one")
    return np.array([_start(part, parts) for part in range(parts)], np.uint64)


def _start(part: int, parts: int) -> int:
    return -((-part << 64) // parts)


def partition_slice(hashes: Hashes, part: int, parts: int) -> slice:
    """Where the hashes of a partition lie among sorted ones.

    Parameters
    ----------
    hashes : (n,)
        Ascending.
    part, parts
        Number of the partition, and how many there are.

    Returns
    -------
    slice
        Positions, perhaps none.
    """
    first = int(np.searchsorted(hashes, np.uint64(_start(part, parts))))
    last = part == parts - 1
    return slice(first, len(hashes) if last else int(np.searchsorted(hashes, np.uint64(_start(part + 1, parts)))))


def partition_of(hashes: Hashes, parts: int) -> NDArray[np.int64]:
    """Partition of each hash.

    Parameters
    ----------
    hashes : (n,)
        In any order.
    parts
        Number of partitions, >= 1.

    Returns
    -------
    (n,)
        0 .. parts - 1.
    """
    return np.searchsorted(partition_starts(parts), hashes, side="right").astype(np.int64) - 1


def candidate_pairs(table: Hashes, wanted: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of equal hashes; whether the keys are equal, too, has to be looked at.

    Parameters
    ----------
    table : (m,)
        Ascending.
    wanted : (n,)
        In any order.

    Returns
    -------
    (pairs,), (pairs,)
        Positions in ``wanted``, ascending, and in ``table``, ascending for each of ``wanted``.
    """
    first = np.searchsorted(table, wanted, side="left")
    count = np.searchsorted(table, wanted, side="right") - first
    query = np.repeat(np.arange(len(wanted), dtype=np.int64), count)
    ends = np.cumsum(count)
    within = np.arange(len(query), dtype=np.int64) - np.repeat(ends - count, count)
    return query, np.repeat(first, count).astype(np.int64) + within


def numbers_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each member inside its group, where equal values stand side by side.

    Parameters
    ----------
    groups : (n,)
        Equal values are neighbours.

    Returns
    -------
    (n,)
        0 for the first member of a group, then 1, 2, ...
    """
    if not len(groups):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    return np.arange(len(groups), dtype=np.int64) - np.repeat(starts, np.diff(np.append(starts, len(groups))))
