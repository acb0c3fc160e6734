"""RS2 trains each epoch on a fresh random subset of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curation.methods.base import Params, Shape

Tail = Literal["carry", "short", "drop"]


class RS2(Params):
    """Options of ``subset: {use: rs2, ...}``."""

    shape: ClassVar[Shape] = "plan"

    fraction: float = Field(gt=0.0, le=1.0, description="share of the rows that one epoch visits, in (0, 1]")
    replacement: bool = Field(
        default=False,
        description="false: no row comes twice before all came once; true: each epoch is drawn from all rows",
    )
    tail: Tail = Field(
        default="carry",
        description="rows left when epochs do not divide the data: carry them into the next epoch | "
        "short: make a shorter epoch of them | drop: leave them out until the next shuffle",
    )
    stratify: bool | str | None = Field(
        default=None,
        description="true, or the column of `groups`: every epoch has the same number of rows of each group",
    )


class Bijection(Protocol):
    """A permutation of [0, n) that is evaluated where it is needed."""

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values at positions."""
        ...

    def inverse(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of values."""
        ...


Keyed = Callable[[str, int, int], Bijection]
"""(purpose, number, size) -> the bijection of [0, size) of that name, the same each time."""


def subset_size(n_rows: int, fraction: float) -> int:
    """Rows that one epoch visits: ``fraction * n_rows`` rounded half up, at least 1.

    Parameters
    ----------
    n_rows
        Rows of the data, >= 1 [rows].
    fraction
        Share of the rows, in (0, 1] [-]. It is read as the decimal it prints as, so that 0.29 of 50 is 14.5
        -> 15.

    Returns
    -------
    int
        Subset size in [1, n_rows] [rows].

    Raises
    ------
    ValueError
        If ``n_rows`` < 1 or ``fraction`` is outside (0, 1].

    Source
    ------
    Okanovic et al., Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning (ICLR 2024),
    where the rounding is not stated; half up is ours.

    Examples
    --------
    >>> subset_size(10, 0.25), subset_size(3, 0.01)
    (3, 1)
    """
    if n_rows < 1:
        raise ValueError(f"n_rows: expected >= 1, got {n_rows}; an epoch needs rows to visit")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: expected 0 < fraction <= 1, got {fraction}; use 1 for whole epochs")
    return max(1, math.floor(Fraction(repr(float(fraction))) * n_rows + Fraction(1, 2)))


def stratum_sizes(n_rows: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """Rows that one epoch visits of each group: ``fraction * n_rows``, rounded by largest remainder.

    Parameters
    ----------
    n_rows : (n_groups,)
        Rows of each group, >= 0, at least 1 in all [rows].
    fraction
        Share of the rows, in (0, 1] [-].

    Returns
    -------
    (n_groups,)
        Subset sizes [rows] within 1 of ``fraction * n_rows``; their sum is `subset_size` of all rows. Of equal
        remainders the first group goes up first.

    Raises
    ------
    ValueError
        As `subset_size`.

    Source
    ------
    Stratified RS2 (card: ``cards/rs2.md``); largest remainders are Hamilton's method of apportionment.

    Examples
    --------
    >>> stratum_sizes(np.array([70, 25, 5]), 0.1).tolist()
    [7, 3, 0]
    """
    total = subset_size(int(n_rows.sum()), fraction)
    exact = [Fraction(repr(float(fraction))) * n for n in n_rows.tolist()]
    sizes = [math.floor(part) for part in exact]
    # the total is rounded half up, so that at most one more than the number of remainders is asked for
    remainders = [(size - part, g) for g, (size, part) in enumerate(zip(sizes, exact, strict=True)) if part > size]
    for _, g in sorted(remainders)[: max(0, total - sum(sizes))]:
        sizes[g] += 1
    if sum(sizes) < total:  # fraction * n < 1/2 rounds to 1 row in all
        sizes[int(n_rows.argmax())] += total - sum(sizes)
    return np.array(sizes, dtype=np.int64)


def rounds_per_cycle(n_rows: int, n_subset: int, tail: Tail) -> int:
    """Count the rounds after which sizes of rounds repeat: 1 unless the tail is ``short``.

    Parameters
    ----------
    n_rows, n_subset
        Rows of the data and of one round, 1 <= ``n_subset`` <= ``n_rows`` [rows].
    tail
        Tail rule.

    Returns
    -------
    int
        Rounds.
    """
    return -(-n_rows // n_subset) if tail == "short" else 1


def round_size(number: int, *, n_rows: int, n_subset: int, tail: Tail, replacement: bool = False) -> int:
    """Rows of one round: ``n_subset``, or the rest of the cycle in its last round if the tail is ``short``.

    Parameters
    ----------
    number
        Round, >= 0.
    n_rows, n_subset
        Rows of the data and of one round, 1 <= ``n_subset`` <= ``n_rows`` [rows].
    tail
        Tail rule; without effect when drawing with replacement.
    replacement
        Whether every round is drawn from all rows.

    Returns
    -------
    int
        Rows of the round [rows].

    Examples
    --------
    >>> [round_size(t, n_rows=10, n_subset=4, tail="short") for t in range(4)]
    [4, 4, 2, 4]
    """
    if replacement or tail != "short":
        return n_subset
    index = number % rounds_per_cycle(n_rows, n_subset, tail)
    return min(n_subset, n_rows - index * n_subset)


def round_rows(
    number: int,
    positions: NDArray[np.int64],
    *,
    n_rows: int,
    n_subset: int,
    tail: Tail,
    replacement: bool,
    keyed: Keyed,
) -> NDArray[np.int64]:
    """Rows at some positions of one round, without looking at any other round.

    Parameters
    ----------
    number
        Round, >= 0.
    positions : (k,)
        Positions in [0, `round_size`), any order.
    n_rows, n_subset
        Rows of the data and of one round, 1 <= ``n_subset`` <= ``n_rows`` [rows].
    tail
        Tail rule. ``carry``: the rounds are cut from one endless sequence whose every ``n_rows`` draws are a
        permutation of all rows, and no row comes twice in a round, also not in a round that spans two
        permutations. ``short``: the last round of a permutation is smaller. ``drop``: the last
        ``n_rows % n_subset`` rows of a permutation are left out.
    replacement
        True: every round is the start of a permutation of its own; the tail rule has no effect.
    keyed
        Source of bijections.

    Returns
    -------
    (k,)
        Row numbers in [0, n_rows).

    Notes
    -----
    Time is O(k) and memory O(k) whatever the round: about 2 evaluations of a bijection per row for ``carry``,
    and 1 otherwise.

    Source
    ------
    Okanovic et al. (ICLR 2024), section 3, RS2 with and without replacement. The tail rules are ours: the
    authors' code repeats rows in the round that spans two permutations.
    """
    if replacement:
        return keyed("round", number, n_rows).at(positions)
    if tail == "carry" and n_rows % n_subset:
        if 2 * n_subset <= n_rows:
            return _carried(number, positions, n_rows, n_subset, keyed)
        return _carried_by_leaving_out(number, positions, n_rows, n_subset, keyed)
    per_cycle = rounds_per_cycle(n_rows, n_subset, tail) if tail == "short" else n_rows // n_subset
    cycle, index = divmod(number, per_cycle)
    return keyed("cycle", cycle, n_rows).at(positions + index * n_subset)


def _carried(number: int, positions: NDArray[np.int64], n: int, m: int, keyed: Keyed) -> NDArray[np.int64]:
    """Round of the endless sequence, m <= n / 2."""
    cycle, offset = divmod(number * m, n)
    at = positions + offset
    here = at < n
    if here.all():
        return _Cycle(cycle, n, m, keyed).at(at)
    out = np.empty(positions.shape[0], dtype=np.int64)
    out[here] = _Cycle(cycle, n, m, keyed).at(at[here])
    out[~here] = _Cycle(cycle + 1, n, m, keyed).at(at[~here] - n)
    return out


def _carried_by_leaving_out(
    number: int, positions: NDArray[np.int64], n: int, m: int, keyed: Keyed
) -> NDArray[np.int64]:
    """Round of the endless sequence, m > n / 2: all rows but those that rounds of n - m rows leave out.

    Every row comes equally often iff it is left out equally often, so the rows left out are themselves rounds
    without replacement, of a size that `_Cycle` handles. The rows owed by the current cycle (fewer visits,
    more often left out) go first in the round; that keeps every n draws a permutation.
    """
    s = n - m
    cycle, offset = divmod(number * s, n)
    out_of = _Cycle(cycle, n, s, keyed)
    if offset + s <= n:  # owed: [0, offset) of the cycle of rows left out; left out now: [offset, offset + s)
        at = np.empty(positions.shape[0], dtype=np.int64)
        owed = positions < offset
        if offset:
            at[owed] = keyed("owed", number, offset).at(positions[owed])
        if n - offset - s:
            fresh = keyed("fresh", number, n - offset - s).at(positions[~owed] - offset)
            at[~owed] = fresh + (offset + s)
        return out_of.at(at)
    # Rows left out now: the end of this cycle and the first `head` of the next, which are owed rows, for a
    # round leaves no row out twice. So the round is the other owed rows. Walk: an owed row that is left out
    # has number k in the next cycle; go on from spare position m + k until the row is not left out.
    head = offset + s - n
    following = _Cycle(cycle + 1, n, s, keyed)
    rows = out_of.at(keyed("owed", number, m).at(positions))
    todo = np.arange(rows.shape[0])
    while todo.size:
        k = following.inverse(rows[todo])
        left_out = k < head
        todo, k = todo[left_out], k[left_out]
        rows[todo] = out_of.at(m + k)
    return rows


class _Cycle:
    """One permutation of the endless sequence of rounds of m <= n / 2 rows, in closed form.

    Cycle c is a keyed permutation P whose first m positions are rearranged, if a round spans cycles c - 1 and
    c: that round has taken T, the last t rows of cycle c - 1, and must not meet them among its remaining h =
    m - t positions [0, h) here. Row number k of T gets position h + k, if it is among the m rows at all; the
    rows that are pushed out follow the chain of such moves to its end (cycle walking), a row outside T. As 2
    m <= n, the rearrangement never reaches the last t rows of its own cycle, so that T is known from the
    plain permutation of cycle c - 1 and no earlier cycle matters.
    """

    def __init__(self, number: int, n: int, m: int, keyed: Keyed) -> None:
        self._n, self._m = n, m
        self._tail = number * n % m  # t
        self._head = m - self._tail  # h
        self._plain = keyed("cycle", number, n)
        self._before = keyed("cycle", number - 1, n) if self._tail else self._plain

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        rows = self._plain.at(positions)
        if not self._tail:
            return rows
        spare = np.flatnonzero((positions >= self._head) & (positions < self._m))
        walks = positions < self._head
        if spare.size:
            row, has_row = self._moved_to(positions[spare])
            rows[spare[has_row]] = row[has_row]
            walks[spare[~has_row]] = True
        todo = np.flatnonzero(walks)
        while todo.size:
            k = self._number_in_tail(rows[todo])
            todo, k = todo[k >= 0], k[k >= 0]
            rows[todo] = self._plain.at(self._head + k)
        return rows

    def inverse(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        positions = self._plain.inverse(rows)
        if not self._tail:
            return positions
        todo = np.flatnonzero(positions < self._m)
        k = self._number_in_tail(rows[todo])
        positions[todo[k >= 0]] = self._head + k[k >= 0]
        todo = todo[k < 0]
        while todo.size:  # the row ends a chain: its position is where the chain begins
            todo = todo[positions[todo] >= self._head]
            row, has_row = self._moved_to(positions[todo])
            todo = todo[has_row]
            positions[todo] = self._plain.inverse(row[has_row])
        return positions

    def _number_in_tail(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the number of each row in T, negative for the rows outside."""
        return self._before.inverse(rows) - (self._n - self._tail)

    def _moved_to(self, spare: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Row of T that belongs at spare positions, and whether it is among the first m rows."""
        row = self._before.at(self._n - self._tail + spare - self._head)
        return row, self._plain.inverse(row) < self._m
