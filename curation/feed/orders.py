"""Orders of draws: each says which rows an epoch draws, as a pure function of keys and of the place asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.feed.mixture import WINDOW, Mixture
from curation.feed.permutation import Permutation, child_keys, derive_key, permute_runs, shuffled
from curation.feed.steps import GroupSteps
from curation.methods.rs2 import RS2, round_rows

_RESOLVE_AT_ONCE = 128 * WINDOW


class Order(Protocol):
    """Which rows are drawn."""

    def rows(self, epoch: int, first: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of the draws [start, stop) of an epoch whose first draw has the number ``first``."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that the arrays of the order hold [bytes]."""
        ...


@dataclass(frozen=True)
class Keys:
    """Keys of one feed, by purpose."""

    seed: int
    name: str
    purposes: tuple[str, ...] = ()

    def key(self, *names: str | int) -> np.uint64:
        """Key of a purpose."""
        return derive_key(self.seed, self.name, *self.purposes, *names)

    def permutation(self, purpose: str, number: int, size: int) -> Permutation:
        """Bijection of [0, size) of a purpose and a number."""
        return Permutation(size, self.key(purpose, number))

    def below(self, *purposes: str) -> Keys:
        """Keys of a part, unrelated to those of the whole."""
        return Keys(self.seed, self.name, (*self.purposes, *purposes))


@dataclass(frozen=True)
class Rounds:
    """Rounds of RS2 over all rows."""

    keys: Keys
    n_rows: int
    epoch_draws: int
    subset: RS2

    def rows(self, epoch: int, first: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of the draws [start, stop) of an epoch."""
        return _round(self.keys, self.subset, epoch, np.arange(start, stop), self.n_rows, self.epoch_draws)

    @property
    def nbytes(self) -> int:
        """None."""
        return 0


def _round(
    keys: Keys, subset: RS2, number: int, positions: NDArray[np.int64], n_rows: int, n_subset: int
) -> NDArray[np.int64]:
    return round_rows(
        number,
        positions,
        n_rows=n_rows,
        n_subset=n_subset,
        tail=subset.tail,
        replacement=subset.replacement,
        keyed=keys.permutation,
    )


@dataclass(frozen=True)
class Stratified:
    """Rounds of RS2 in every group for itself, shuffled among each other within an epoch.

    Attributes
    ----------
    offset, counts : (n_groups,)
        First row and rows of each group.
    draws : (n_groups,)
        Rows that an epoch draws of each group.
    texts
        Name of each group, as keys have it.
    """

    keys: Keys
    offset: NDArray[np.int64]
    counts: NDArray[np.int64]
    draws: NDArray[np.int64]
    texts: list[str]
    subset: RS2

    def rows(self, epoch: int, first: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of the draws [start, stop) of an epoch."""
        ends = np.cumsum(self.draws)
        places = self.keys.permutation("strata", epoch, int(ends[-1])).at(np.arange(start, stop))
        groups = np.searchsorted(ends, places, side="right")
        out = np.empty(stop - start, dtype=np.int64)
        order = np.argsort(groups, kind="stable")
        present, begins = np.unique(groups[order], return_index=True)
        for g, run in zip(present.tolist(), np.split(order, begins[1:]), strict=True):
            keys = self.keys.below("stratum", self.texts[g])
            within = places[run] - (ends[g] - self.draws[g])
            found = _round(keys, self.subset, epoch, within, int(self.counts[g]), int(self.draws[g]))
            out[run] = self.offset[g] + found
        return out

    @property
    def nbytes(self) -> int:
        """Memory that the arrays of the order hold [bytes]."""
        return int(self.draws.nbytes)


class Passes:
    """Endless streams of the rows of each group: pass after pass, each a permutation.

    Parameters
    ----------
    keys
        Of the feed.
    texts
        Name of each group, as keys have it.
    offset, counts : (n_groups,)
        First row and rows of each group.
    """

    def __init__(self, keys: Keys, texts: list[str], offset: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        self._offset, self._counts = offset, counts
        self._keys = np.array([keys.key("rows", text) for text in texts], dtype=np.uint64)

    @property
    def nbytes(self) -> int:
        """Memory of the keys [bytes]."""
        return int(self._keys.nbytes)

    def rows(self, groups: NDArray[np.int64], cursors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of (group, cursor): sorted by group, so that each run is one pass of one group."""
        small = np.uint16 if len(self._keys) <= 1 << 16 else np.int64  # numpy sorts 16-bit keys by radix
        order = np.argsort(groups.astype(small), kind="stable")
        groups, cursors = groups[order], cursors[order]
        rows = self._counts[groups]
        passes = cursors // rows
        begins = np.ones(groups.shape[0], dtype=np.bool_)
        # one-row groups change pass at every draw and need no bijection: keep them one run
        begins[1:] = (groups[1:] != groups[:-1]) | ((passes[1:] != passes[:-1]) & (rows[1:] > 1))
        first = np.flatnonzero(begins)
        keys = child_keys(self._keys[groups[first]], passes[first])
        starts = np.append(first, groups.shape[0])
        out = np.empty(groups.shape[0], dtype=np.int64)
        out[order] = self._offset[groups] + permute_runs(cursors - passes * rows, starts, rows[first], keys)
        return out


class Mixed:
    """Draws by the shares of a mixture, shuffled within windows."""

    def __init__(self, keys: Keys, mixture: Mixture, passes: Passes) -> None:
        self._keys, self._mixture, self._passes = keys, mixture, passes
        self._window: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the arrays of the order hold [bytes]."""
        return self._mixture.nbytes + self._passes.nbytes

    def rows(self, epoch: int, first: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of the draws [start, stop) of an epoch; cursors go on from epoch to epoch."""
        start, stop = first + start, first + stop
        out = np.empty(stop - start, dtype=np.int64)
        for begin in range(start, stop, _RESOLVE_AT_ONCE):
            end = min(begin + _RESOLVE_AT_ONCE, stop)
            groups = np.empty(end - begin, dtype=np.int64)
            cursors = np.empty(end - begin, dtype=np.int64)
            done = begin
            while done < end:
                at, window_groups, window_cursors = self._window_of(done)
                until = min(end, at + window_groups.shape[0])
                part = slice(done - begin, until - begin)
                groups[part] = window_groups[done - at : until - at]
                cursors[part] = window_cursors[done - at : until - at]
                done = until
            out[begin - start : end - start] = self._passes.rows(groups, cursors)
        return out

    def _window_of(self, draw: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        last = self._window  # one assignment and one read: threads may race, and then merely compute it twice
        if last is None or not last[0] <= draw < last[0] + last[1].shape[0]:
            last = self._mixture.window(draw, self._shuffle)
            self._window = last
        return last

    def _shuffle(self, segment: int, window: int, size: int) -> NDArray[np.uint16]:
        return shuffled(size, self._keys.key("window", segment, window))


@dataclass(frozen=True)
class Unmixed:
    """Batches of one group each; the rows of a group go on from batch to batch, and from pass to pass."""

    steps: GroupSteps
    passes: Passes

    @property
    def nbytes(self) -> int:
        """Memory that the arrays of the order hold [bytes]."""
        return self.steps.order.nbytes + self.passes.nbytes + int(self.steps.sizes.nbytes)

    def rows(self, epoch: int, first: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of the draws [start, stop) of an epoch."""
        if start == stop:
            return np.empty(0, dtype=np.int64)
        start, stop = first + start, first + stop
        step = self.steps.step_at(start)
        begin = self.steps.first_draw(step)
        parts: list[NDArray[np.int64]] = []
        at = begin
        smallest, largest = int(self.steps.sizes.min()), int(self.steps.sizes.max())
        while at < stop:
            wanted = min(-(-(stop - at) // smallest), max(1, _RESOLVE_AT_ONCE // largest), WINDOW)
            groups, before = self.steps.order.natural(step, wanted)
            sizes = self.steps.sizes[groups]
            total = int(sizes.sum())
            within = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            cut = slice(max(0, start - at), min(total, stop - at))
            cursors = np.repeat(before * sizes, sizes) + within
            parts.append(self.passes.rows(np.repeat(groups, sizes)[cut], cursors[cut]))
            step, at = step + len(groups), at + total
        return np.concatenate(parts)
