"""The k-th smallest of many keyed rows, per stratum, over chunks: radix selection with small mergeable tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curation.types import Ids

KEY_BITS = 64


def digit_table(
    code: NDArray[np.int64], bits: Ids, *, prefix: Ids, depth: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the next ``width`` bits of the keys that share their stratum's prefix.

    Parameters
    ----------
    code : (n,)
        Stratum of each row, an index into ``prefix``; negative rows are left out.
    bits : (n,)
        Keys.
    prefix : (n_strata,)
        The first ``depth`` bits of the sought key of each stratum, right-aligned.
    depth, width
        Bits known, and bits to look at now; ``depth + width <= 64``.

    Returns
    -------
    tuple
        Stratum, digit and count of every pair that occurs, sorted, each (n_pairs,).
    """
    inside = code >= 0
    if depth:
        inside &= (bits >> np.uint64(KEY_BITS - depth)) == prefix[code]
    digit = (bits[inside] >> np.uint64(KEY_BITS - depth - width)) & np.uint64((1 << width) - 1)
    pair = (code[inside] << width) | digit.astype(np.int64)
    pairs, counts = np.unique(pair, return_counts=True)
    return pairs >> width, pairs & ((1 << width) - 1), counts.astype(np.int64)


def merge_tables(
    left: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    right: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    *,
    width: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Add two tables of :func:`digit_table`."""
    pair = np.concatenate([(t[0] << width) | t[1] for t in (left, right)])
    count = np.concatenate([left[2], right[2]])
    pairs, where = np.unique(pair, return_inverse=True)
    total = np.zeros(len(pairs), np.int64)
    np.add.at(total, where, count)
    return pairs >> width, pairs & ((1 << width) - 1), total


def descend(digit: NDArray[np.int64], count: NDArray[np.int64], rank: int) -> tuple[int, int, int]:
    """Digit that holds the key of a rank.

    Parameters
    ----------
    digit, count : (n_digits,)
        Digits of one stratum in ascending order, and how many keys have each.
    rank
        1-based rank of the sought key among them.

    Returns
    -------
    tuple
        The digit, the rank inside it, and how many keys it holds.

    Raises
    ------
    ValueError
        If there are fewer than ``rank`` keys.
    """
    upto = np.cumsum(count)
    if rank < 1 or len(upto) == 0 or upto[-1] < rank:
        raise ValueError(f"rank: expected 1 to {upto[-1] if len(upto) else 0}, got {rank}")
    at = int(np.searchsorted(upto, rank))
    return int(digit[at]), int(rank - (upto[at] - count[at])), int(count[at])
