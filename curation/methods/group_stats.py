"""Group statistics describe numbers group by group, from states of fixed accuracy that merge in any number of parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from curation.methods.base import Params, Shape

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MANTISSA_BITS = 7
"""Leading bits of the mantissa that a bucket keeps: it is 2^-7 of its lower edge wide, its middle within 2^-8."""
SKETCH_BITS = 20
"""Bits of a bucket's number inside a sketch's key."""
_DROPPED = np.uint64(52 - MANTISSA_BITS)
_MIDDLE = np.uint64(1 << (51 - MANTISSA_BITS))
_INFINITE = np.uint64(2047 << MANTISSA_BITS)
_HALF = np.int64(1 << (SKETCH_BITS - 1))


class GroupStats(Params):
    """Options of ``use: group_stats``."""

    shape: ClassVar[Shape] = "artifact"

    by: str | None = Field(default=None, description="column of groups; default: all rows are one group")
    columns: list[str] | None = Field(
        default=None, min_length=1, description="columns of numbers to describe; default: all of them"
    )
    quantiles: list[float] = Field(
        default=[0.05, 0.25, 0.5, 0.75, 0.95], description="quantiles to give, 0 .. 1, as columns q05, q25, ..."
    )

    @field_validator("columns")
    @classmethod
    def _columns_differ(cls, columns: list[str] | None) -> list[str] | None:
        if twice := sorted({name for name in columns or [] if (columns or []).count(name) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice")
        return columns

    @field_validator("quantiles")
    @classmethod
    def _quantiles_are_shares(cls, quantiles: list[float]) -> list[float]:
        for q in quantiles:
            if not 0 <= q <= 1:
                raise ValueError(f"expected quantiles >= 0 and <= 1, got {q}")
        names = [quantile_name(q) for q in quantiles]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"quantile {twice[0]} is given twice")
        return quantiles

    def ports(self) -> tuple[str, ...]:
        """The rows that flow in, and the table of statistics."""
        return ("", "table")


def quantile_name(q: float) -> str:
    """Column of a quantile: ``q05`` for 0.05, ``q50`` for 0.5, ``q99_9`` for 0.999."""
    whole, _, rest = f"{100 * q:.10g}".partition(".")
    return f"q{whole:0>2}_{rest}" if rest else f"q{whole:0>2}"


def group_moments(values: Floats, code: Counts, *, groups: int) -> dict[str, NDArray[np.float64] | Counts]:
    """Count, least, greatest, mean and squared deviations of each group.

    Parameters
    ----------
    values : (n,)
        Numbers, no NaN.
    code : (n,)
        Group of each, 0 .. groups - 1.
    groups
        Number of groups.

    Returns
    -------
    dict
        ``n`` (int64), ``min``, ``max`` (infinite where there is none), ``mean`` and ``m2``, the sum of squared
        deviations from the mean (float64), each (groups,).
    """
    n = np.bincount(code, minlength=groups).astype(np.int64)
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, code, values)
    np.maximum.at(high, code, values)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite values
        mean = np.bincount(code, weights=values, minlength=groups) / np.maximum(n, 1)
        m2 = np.bincount(code, weights=(values - mean[code]) ** 2, minlength=groups)
    return {"n": n, "min": low, "max": high, "mean": mean, "m2": m2}


def merged_moments(
    left: Mapping[str, NDArray[np.float64]], right: Mapping[str, NDArray[np.float64]]
) -> dict[str, Floats]:
    """Moments of two sets of values together, from those of each; shapes agree.

    Source
    ------
    Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance, eq. 2.1.
    """
    a, b = left["n"], right["n"]
    n = a + b
    with np.errstate(invalid="ignore", over="ignore"):  # infinite values
        delta = right["mean"] - left["mean"]
        both = left["mean"] + delta * (b / np.maximum(n, 1))
        spread = left["m2"] + right["m2"] + delta**2 * (a * (b / np.maximum(n, 1)))
    return {
        "n": n,
        "min": np.minimum(left["min"], right["min"]),
        "max": np.maximum(left["max"], right["max"]),
        "mean": np.where(b == 0, left["mean"], np.where(a == 0, right["mean"], both)),
        "m2": np.where(b == 0, left["m2"], np.where(a == 0, right["m2"], spread)),
    }


def bucket_of(values: Floats) -> Counts:
    """Bucket of each number: sign, exponent and the first bits of the mantissa, as a whole number in the same order.

    Parameters
    ----------
    values : (n,)
        Numbers, no NaN.

    Returns
    -------
    (n,)
        -2^18 .. 2^18; 0 for zero and for what is below 2^-1029.
    """
    size = (np.abs(values).view(np.uint64) >> _DROPPED).astype(np.int64)
    return np.where(values < 0, -size, size)


def bucket_middle(buckets: Counts) -> Floats:
    """Number in the middle of each bucket, within 2^-8 of every number in it."""
    size = np.abs(buckets).astype(np.uint64)
    middle = ((size << _DROPPED) | _MIDDLE).view(np.float64)
    middle[size >= _INFINITE] = np.inf
    return np.where(buckets == 0, 0.0, np.where(buckets < 0, -middle, middle))


def sketch(values: Floats, pair: Counts) -> tuple[Counts, Counts]:
    """Numbers per bucket of each pair of group and column.

    Parameters
    ----------
    values : (n,)
        Numbers, no NaN.
    pair : (n,)
        Number of the pair, 0 .. 2^43.

    Returns
    -------
    (m,), (m,)
        Keys, ascending (pair, then bucket), and how many numbers are in each.
    """
    keys, counts = np.unique((pair << SKETCH_BITS) | (bucket_of(values) + _HALF), return_counts=True)
    return keys, counts.astype(np.int64)


def merged_sketches(left: tuple[Counts, Counts], right: tuple[Counts, Counts]) -> tuple[Counts, Counts]:
    """Sketch of two sets of numbers together; whole numbers are added, so the order of merging has no influence."""
    both = np.concatenate([left[0], right[0]])
    keys, where = np.unique(both, return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    np.add.at(counts, where, np.concatenate([left[1], right[1]]))
    return keys, counts


def renumbered(keys: Counts, pair: Counts) -> Counts:
    """Keys of a sketch with other numbers of pairs; ``pair`` has the new one of each."""
    bucket = keys & np.int64((1 << SKETCH_BITS) - 1)
    found: Counts = (pair[keys >> SKETCH_BITS] << SKETCH_BITS) | bucket
    return found


def sketch_quantiles(keys: Counts, counts: Counts, n: Counts, q: float) -> Floats:
    """Quantile of each pair: the middle of the bucket with the number of rank ``floor(q (n - 1))``.

    Parameters
    ----------
    keys, counts : (m,)
        A sketch.
    n : (pairs,)
        Numbers of each pair; those of the sketch.
    q
        0 .. 1.

    Returns
    -------
    (pairs,)
        Within 0.4 % of the number of that rank; NaN where a pair has none.
    """
    if not len(keys):
        return np.full(len(n), np.nan)
    until = np.cumsum(n)
    rank = until - n + np.floor(q * np.maximum(n - 1, 0)).astype(np.int64)
    at = np.minimum(np.searchsorted(np.cumsum(counts), rank, side="right"), len(keys) - 1)
    bucket = (keys[at] & np.int64((1 << SKETCH_BITS) - 1)) - _HALF
    return np.where(n > 0, bucket_middle(bucket), np.nan)
