"""Which group each draw takes, and its how-manieth row: shares turned into exact counts in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation._jit import njit

WINDOW = 2048
"""Draws that are shuffled among themselves; at the end of each window the counts are as close as they get."""

_HALF_WORD = np.uint64(0xFFFFFFFF)
_S32, _S63, _ONE = np.uint64(32), np.uint64(63), np.uint64(1)
_UNIT = np.uint64(1 << 63)  # a fraction of 1, in the fixed point of the tree
_HALF = np.uint64(1 << 62)


@dataclass(frozen=True)
class Mixture:
    """Shares per segment, and a tree of two-way splits that turns them into counts.

    The groups are the leaves of a binary tree, balanced by share. A node that has been given t draws passes
    floor(t a + phase) of them to its left child, a being the left child's part of the node's share, and the
    others to its right child. So the counts of all groups after any number of draws follow from that number
    alone, they never decrease, and they sum to it. The phase begins at 1/2 (rounding to the nearest); in a
    later segment it is the remainder that the segment before left, so that the target is followed across
    changes of shares.

    Within a window of `WINDOW` draws the order is shuffled. A group's rows are still numbered in the order of
    the draws, so a pass over a group ends before the next begins, inside windows as well.

    Attributes
    ----------
    boundaries : (n_segments + 1,)
        Segment s is draws ``boundaries[s]`` to ``boundaries[s + 1]``.
    shares : (n_segments, n_groups)
        Share of each group in each segment [-].
    base : (n_segments + 1, n_groups)
        Draws that each group has had before each segment, and in all.
    """

    boundaries: NDArray[np.int64]
    shares: NDArray[np.float64]
    base: NDArray[np.int64]
    _root: int
    _left: NDArray[np.int64]  # child: inner node if >= 0, otherwise -1 - group
    _right: NDArray[np.int64]
    _split: NDArray[np.uint64]  # (n_segments, n_nodes): part of the left child, 1 being 2**63
    _phase: NDArray[np.uint64]  # (n_segments, n_nodes)

    @classmethod
    def from_shares(cls, boundaries: NDArray[np.int64], shares: NDArray[np.float64]) -> Mixture:
        """Build the tree.

        Parameters
        ----------
        boundaries : (n_segments + 1,)
            Draws at which segments begin and end; increasing, from 0.
        shares : (n_segments, n_groups)
            Shares, >= 0, each row with sum 1 [-].

        Returns
        -------
        Mixture
            State of O(n_groups * n_segments) bytes.
        """
        mean = np.diff(boundaries).astype(np.float64) @ shares
        order = np.argsort(-mean, kind="stable")
        order = order[mean[order] > 0]
        left, right = _grow(np.concatenate([[0.0], np.cumsum(mean[order])]), order)
        root = 0 if left.size else -1 - int(order[0])
        with np.errstate(over="ignore"):  # wrap-around of the long multiplication, when it runs uncompiled
            split, phase, base = _fill(boundaries, shares, root, left, right)
        return cls(boundaries, shares, base, root, left, right, split, phase)

    @property
    def nbytes(self) -> int:
        """Memory held [bytes]."""
        arrays = (self.boundaries, self.shares, self.base, self._left, self._right, self._split, self._phase)
        return sum(array.nbytes for array in arrays)

    def bound(self) -> float:
        """Largest distance of a group's count from the sum of its shares that any draw can have, by the tree itself.

        A node deals with an error of 1/2, and hands on its own error times the part of the child, plus that error
        times what the parts change from segment to segment. With one segment no inner child has more than 2/3 of
        its parent, so that the bound stays below 2.
        """
        part = self._split.astype(np.float64) * 2.0**-63
        change = np.concatenate([np.zeros((1, part.shape[1])), np.cumsum(np.abs(np.diff(part, axis=0)), axis=0)])
        errors = np.zeros(part.shape[1])
        most = 0.0
        for node in range(part.shape[1]):  # children have higher numbers than their parents
            for child, of_child in ((self._left[node], part[:, node]), (self._right[node], 1 - part[:, node])):
                error = errors[node] * float((of_child + change[:, node]).max()) + 0.5
                if child >= 0:
                    errors[child] = error
                else:
                    most = max(most, error)
        return most

    def segment(self, draw: int) -> int:
        """Segment of a draw in [0, ``boundaries[-1]``)."""
        return int(np.searchsorted(self.boundaries, draw, side="right")) - 1

    def counts(self, draw: int) -> NDArray[np.int64]:
        """Draws that each group has had before a draw, taken at the windows' natural order.

        Parameters
        ----------
        draw
            Number of draws, in [0, ``boundaries[-1]``]; at the end of a window the counts are those of the
            plan.

        Returns
        -------
        (n_groups,)
            Counts; their sum is ``draw``.
        """
        s = min(self.segment(draw), self.shares.shape[0] - 1)
        counts: NDArray[np.int64] = self.base[s].copy()
        with np.errstate(over="ignore"):
            _add_counts(
                draw - int(self.boundaries[s]),
                self._root,
                self._left,
                self._right,
                self._split[s],
                self._phase[s],
                counts,
            )
        return counts

    def window(
        self, draw: int, shuffle: Callable[[int, int, int], NDArray[np.uint16]]
    ) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Compute the window of a draw.

        Parameters
        ----------
        draw
            A draw in [0, ``boundaries[-1]``).
        shuffle
            (segment, window in segment, size) -> permutation of [0, size).

        Returns
        -------
        start
            First draw of the window.
        groups : (size,)
            Group of each draw of the window.
        cursors : (size,)
            How many draws the group has had before this one, in the whole training.
        """
        s = self.segment(draw)
        begin, end = int(self.boundaries[s]), int(self.boundaries[s + 1])
        w = (draw - begin) // WINDOW
        start = begin + w * WINDOW
        size = min(WINDOW, end - start)
        groups, cursors = self._slots(s, start - begin, shuffle(s, w, size))
        return start, groups, cursors

    def natural(self, draw: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Groups of the draws from one on as the tree deals them, without the shuffle.

        Parameters
        ----------
        draw
            A draw in [0, ``boundaries[-1]``).
        size
            Draws that are wanted, in [1, ``WINDOW``]; there are fewer at the end of a segment.

        Returns
        -------
        groups : (k,)
            Group of each draw, 1 <= k <= size.
        cursors : (k,)
            How many draws the group has had before, in the whole training.
        """
        s = self.segment(draw)
        size = min(size, int(self.boundaries[s + 1]) - draw)
        return self._slots(s, draw - int(self.boundaries[s]), np.arange(size, dtype=np.uint16))

    def group(self, draw: int) -> int:
        """Group of a draw in [0, ``boundaries[-1]``), without the shuffle."""
        return int(self.natural(draw, 1)[0][0])

    def _slots(self, s: int, first: int, shuffle: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        with np.errstate(over="ignore"):
            groups, cursors = _window(
                first,
                shuffle,
                self._root,
                self._left,
                self._right,
                self._split[s],
                self._phase[s],
                self.base[s],
            )
        return groups, cursors


@njit()
def _grow(edges: NDArray[np.float64], order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the groups, largest first, as near to half of the share as can be, again and again."""
    n = order.shape[0]
    left = np.empty(n - 1, dtype=np.int64)
    right = np.empty(n - 1, dtype=np.int64)
    todo = np.empty((n, 3), dtype=np.int64)  # node, first leaf, past the last leaf
    n_nodes, n_todo = 0, 0
    if n > 1:
        todo[0, 0], todo[0, 1], todo[0, 2] = 0, 0, n
        n_nodes, n_todo = 1, 1
    while n_todo > 0:
        n_todo -= 1
        node, lo, hi = todo[n_todo, 0], todo[n_todo, 1], todo[n_todo, 2]
        half = 0.5 * (edges[lo] + edges[hi])
        a, b = lo + 1, hi - 1  # smallest cut in [lo + 1, hi - 1] with edges[cut] >= half, or the last
        while a < b:
            middle = (a + b) // 2
            if edges[middle] >= half:
                b = middle
            else:
                a = middle + 1
        if a > lo + 1 and half - edges[a - 1] <= edges[a] - half:
            a -= 1
        for side in range(2):
            first, past = (lo, a) if side == 0 else (a, hi)
            child = -1 - order[first]
            if past - first > 1:
                child = n_nodes
                todo[n_todo, 0], todo[n_todo, 1], todo[n_todo, 2] = child, first, past
                n_todo += 1
                n_nodes += 1
            if side == 0:
                left[node] = child
            else:
                right[node] = child
    return left, right


@njit(inline=True)
def floor_part(t: np.uint64, split: np.uint64, phase: np.uint64) -> tuple[np.uint64, np.uint64]:
    """floor(t * split + phase) and the remainder, exact: the product has up to 126 bits."""
    t_high, t_low = t >> _S32, t & _HALF_WORD
    s_high, s_low = split >> _S32, split & _HALF_WORD
    low = t_low * s_low
    cross = t_high * s_low + (low >> _S32)
    cross_low = (cross & _HALF_WORD) + t_low * s_high
    high = t_high * s_high + (cross >> _S32) + (cross_low >> _S32)
    low = (cross_low << _S32) | (low & _HALF_WORD)
    total = low + phase
    if total < low:
        high += _ONE
    return (high << _ONE) | (total >> _S63), total & (_UNIT - _ONE)


@njit()
def _fill(
    boundaries: NDArray[np.int64],
    shares: NDArray[np.float64],
    root: int,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    n_segments, n_groups = shares.shape
    n_nodes = left.shape[0]
    split = np.empty((n_segments, n_nodes), dtype=np.uint64)
    phase = np.empty((n_segments, n_nodes), dtype=np.uint64)
    base = np.zeros((n_segments + 1, n_groups), dtype=np.int64)
    total = np.empty(n_nodes)
    given = np.empty(n_nodes, dtype=np.uint64)
    for s in range(n_segments):
        for g in range(n_groups):
            base[s + 1, g] = base[s, g]
        for node in range(n_nodes - 1, -1, -1):  # children have higher numbers than their parents
            a, b = left[node], right[node]
            of_left = total[a] if a >= 0 else shares[s, -1 - a]
            of_right = total[b] if b >= 0 else shares[s, -1 - b]
            total[node] = of_left + of_right
            part = of_left / total[node] if total[node] > 0.0 else 0.5
            split[s, node] = np.uint64(min(part, 1.0) * 9223372036854775808.0)
        n_draws = boundaries[s + 1] - boundaries[s]
        if n_nodes > 0:
            given[0] = np.uint64(n_draws)
        else:
            base[s + 1, -1 - root] += n_draws
        for node in range(n_nodes):
            if s == 0:
                phase[s, node] = _HALF
            to_left, rest = floor_part(given[node], split[s, node], phase[s, node])
            if s + 1 < n_segments:
                phase[s + 1, node] = rest
            to_right = given[node] - to_left
            a, b = left[node], right[node]
            if a >= 0:
                given[a] = to_left
            else:
                base[s + 1, -1 - a] += np.int64(to_left)
            if b >= 0:
                given[b] = to_right
            else:
                base[s + 1, -1 - b] += np.int64(to_right)
    return split, phase, base


@njit()
def _add_counts(
    n_draws: int,
    root: int,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    split: NDArray[np.uint64],
    phase: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> None:
    n_nodes = left.shape[0]
    if n_nodes == 0:
        counts[-1 - root] += n_draws
        return
    given = np.empty(n_nodes, dtype=np.uint64)
    given[0] = np.uint64(n_draws)
    for node in range(n_nodes):
        to_left, _ = floor_part(given[node], split[node], phase[node])
        to_right = given[node] - to_left
        a, b = left[node], right[node]
        if a >= 0:
            given[a] = to_left
        else:
            counts[-1 - a] += np.int64(to_left)
        if b >= 0:
            given[b] = to_right
        else:
            counts[-1 - b] += np.int64(to_right)


@njit()
def _window(
    first: int,
    shuffle: NDArray[np.uint16],
    root: int,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    split: NDArray[np.uint64],
    phase: NDArray[np.uint64],
    base: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n = shuffle.shape[0]
    slot_group = np.empty(n, dtype=np.int64)
    following = np.empty(base.shape[0], dtype=np.int64)  # next cursor of each group that occurs
    for k in range(n - 1, -1, -1):  # backwards, so that the group's first slot is what remains
        t = np.uint64(first + k)
        node = root
        while node >= 0:
            to_left, rest = floor_part(t, split[node], phase[node])
            if rest + split[node] >= _UNIT:  # the next draw of this node would be one more to the left
                node = left[node]
                t = to_left
            else:
                node = right[node]
                t = t - to_left
        g = -1 - node
        slot_group[k] = g
        following[g] = base[g] + np.int64(t)
    groups = np.empty(n, dtype=np.int64)
    cursors = np.empty(n, dtype=np.int64)
    for k in range(n):
        g = slot_group[shuffle[k]]
        groups[k] = g
        cursors[k] = following[g]
        following[g] += 1
    return groups, cursors
