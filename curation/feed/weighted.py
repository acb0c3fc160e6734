"""Rows drawn in proportion to a weight, by systematic sampling: exact counts, any draw at once."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation._jit import njit
from curation.feed.mixture import floor_part
from curation.feed.orders import Keys

_MASS_BITS = 59
_SUM_BITS = 61
_ROWS_PER_BUCKET = 8
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Weighted:
    """An epoch is the draws at evenly spaced points of the summed weights, in a shuffled order.

    The weights are summed in the stored order, in fixed point, so that an epoch of m draws is the mass m * 2**bits.
    Draw j is the row in which the point j * 2**bits + r lies, with one random r for the epoch. So a row is drawn
    floor or ceil of its expectation m * p times, exactly. The stored order is shuffled, but always the same, so that
    rows next to each other are a little less likely to come together.

    Attributes
    ----------
    ends : (n_rows,)
        Mass up to and with each row, mapped from the disk.
    buckets : (n_buckets + 1,)
        Row in which each stretch of the mass begins, mapped from the disk.
    epoch_draws
        Draws of an epoch, m.
    bits
        Binary digits of a draw's mass.
    """

    keys: Keys
    ends: NDArray[np.int64]
    buckets: NDArray[np.int64]
    epoch_draws: int
    bits: int

    @property
    def nbytes(self) -> int:
        """Nothing: both tables are mapped, and pages come and go."""
        return 0

    def rows(self, epoch: int, first: int, start: int, stop: int) -> NDArray[np.int64]:
        """Positions of the draws [start, stop) of an epoch."""
        order = self.keys.permutation("sample", epoch, self.epoch_draws).at(np.arange(start, stop))
        offset = int(self.keys.key("sample offset", epoch)) >> (64 - self.bits)
        points = (order << self.bits) + offset
        return _find(points, self.ends, self.buckets, _shift(int(self.ends[-1]), self.ends.shape[0]))

    def expected(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draws of some rows in an epoch, in the mean [-]."""
        before = np.where(rows > 0, self.ends[rows - 1], 0)
        expected: NDArray[np.float64] = np.ldexp((self.ends[rows] - before).astype(np.float64), -self.bits)
        return expected

    def weights(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Factor 1 / (n p) of some rows that can be drawn [-]."""
        factors: NDArray[np.float64] = self.epoch_draws / self.ends.shape[0] / self.expected(rows)
        return factors

    def group_draws(self, offset: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draws of each group in an epoch, in the mean [-]."""
        ends = np.concatenate([[0], self.ends[np.maximum(offset + counts - 1, 0)]])
        ends[1:][counts == 0] = 0
        total = np.maximum.accumulate(ends)
        draws: NDArray[np.float64] = np.ldexp(np.diff(total).astype(np.float64), -self.bits)
        return draws


def bits_of(epoch_draws: int) -> int:
    """Binary digits of the mass of one draw, for epochs of so many draws."""
    return _MASS_BITS - epoch_draws.bit_length()


def write_weights(folder: Path, names: dict[str, str], parts: Sequence[NDArray[np.float64]], epoch_draws: int) -> Any:
    """Write the summed weights and an index into them.

    Parameters
    ----------
    folder
        Where the files go.
    names
        File name of ``weights`` and of ``buckets``.
    parts
        Weights >= 0 of all rows, in the stored order, part by part; they may be mapped, and are read three times.
    epoch_draws
        Draws of an epoch.

    Returns
    -------
    dict
        Digest of both tables, by name.

    Raises
    ------
    ValueError
        If no weight is > 0.
    """
    try:
        total = math.fsum(math.fsum(part) for part in parts)
    except OverflowError:
        total = math.inf
    if not 0 < total < math.inf:
        raise ValueError(f"weights: expected a finite sum > 0, got {total:g}")
    exponent = _SUM_BITS - math.frexp(total)[1]
    whole = sum(int(_fixed(part, exponent).sum()) for part in parts)
    mass = epoch_draws << bits_of(epoch_draws)
    ratio = np.uint64((mass << 63) // whole)
    n_rows = sum(map(len, parts))
    with _scratch(folder, n_rows) as ends:
        row, before = 0, 0
        for part in parts:
            sums = before + np.cumsum(_fixed(part, exponent))
            with np.errstate(over="ignore"):
                _scale(sums, ratio, np.int64(whole), np.int64(mass), ends[row : row + len(part)])
            row, before = row + len(part), int(sums[-1]) if len(part) else before
        starts = np.arange(0, (mass >> _shift(mass, n_rows)) + 2, dtype=np.int64) << _shift(mass, n_rows)
        buckets = np.minimum(np.searchsorted(ends, starts, side="right"), n_rows - 1)
        return {
            "weights": _write(folder / names["weights"], "end", ends),
            "buckets": _write(folder / names["buckets"], "row", buckets),
        }


def open_column(path: Path) -> NDArray[np.int64]:
    """Map the only column of a file of `write_weights`."""
    with pa.memory_map(str(path), "r") as source:
        values: NDArray[np.int64] = pa.ipc.open_file(source).get_batch(0).column(0).to_numpy()
    return values


def _shift(mass: int, n_rows: int) -> int:
    """Binary digits of the stretch that a bucket covers."""
    return max(0, mass.bit_length() - max(1, n_rows // _ROWS_PER_BUCKET).bit_length())


def _fixed(part: NDArray[np.float64], exponent: int) -> NDArray[np.int64]:
    return np.floor(np.ldexp(part, exponent)).astype(np.int64)


@contextmanager
def _scratch(folder: Path, n_rows: int) -> Iterator[NDArray[np.int64]]:
    """A mapped array that needs no memory; gone at the end."""
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=folder)
    os.close(handle)
    try:
        yield np.asarray(np.memmap(name, dtype=np.int64, mode="w+", shape=(n_rows,)))
    finally:
        os.unlink(name)


def _write(path: Path, name: str, values: NDArray[np.int64]) -> str:
    """Write one batch, so that the file can be mapped as one array; returns its digest."""
    table = pa.table({name: pa.array(np.asarray(values))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    digest = blake2b(digest_size=16)
    for at in range(0, len(values), _AT_ONCE):
        digest.update(values[at : at + _AT_ONCE].tobytes())
    return digest.hexdigest()


@njit()
def _scale(sums: NDArray[np.int64], ratio: np.uint64, whole: np.int64, mass: np.int64, out: NDArray[np.int64]) -> None:
    for i in range(sums.shape[0]):
        scaled, _ = floor_part(np.uint64(sums[i]), ratio, np.uint64(0))
        # the last row with a weight ends where the mass does, whatever rounding has left over
        out[i] = mass if sums[i] >= whole else np.int64(scaled)


@njit()
def _find(
    points: NDArray[np.int64], ends: NDArray[np.int64], buckets: NDArray[np.int64], shift: int
) -> NDArray[np.int64]:
    out = np.empty(points.shape[0], dtype=np.int64)
    for i in range(points.shape[0]):
        bucket = points[i] >> shift
        a, b = buckets[bucket], buckets[bucket + 1]
        while a < b:  # smallest row whose end lies beyond the point
            middle = (a + b) // 2
            if ends[middle] > points[i]:
                b = middle
            else:
                a = middle + 1
        out[i] = a
    return out
