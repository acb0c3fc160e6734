"""Sample draws exactly k rows, uniform or weighted, with or without replacement, as a race of arrivals."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation._jit import njit
from curation.methods.base import Params, Shape
from curation.rng import uniform_at

_DIGIT = 16  # bits per level of the threshold search: 4 levels, a table of 512 KiB
_LEVELS = 64 // _DIGIT


class LongTail(BaseModel):
    """Options of ``long_tail:`` in ``use: sample``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    imbalance: float = Field(gt=1.0, description="rows of the largest class over those of the smallest, e.g. 100")


class Sample(Params):
    """Options of ``use: sample``."""

    shape: ClassVar[Shape] = "fit"

    n: int | None = Field(default=None, ge=1, description="rows to draw in all")
    fraction: float | None = Field(
        default=None,
        gt=0.0,
        description="share of the rows to draw, rounded half up; above 1 only with replacement",
    )
    replacement: bool = Field(default=False, description="a row may be drawn more than once; copies carry _copy")
    weight: str | None = Field(
        default=None, description="column of weights >= 0, in proportion to which rows are drawn; 0 = never"
    )
    by: str | None = Field(
        default=None,
        description="column of strata; n or fraction is dealt to them in proportion to their rows",
    )
    quotas: dict[bool | int | float | str, int] | None = Field(
        default=None, description="rows to draw per value of by; values that are not named give none"
    )
    long_tail: LongTail | None = Field(
        default=None, description="make the classes of by long-tailed: {imbalance: largest over smallest}"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Sample:
        given = [name for name in ("n", "fraction", "quotas", "long_tail") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"n, fraction, quotas, long_tail: expected exactly one, got {given or 'none'}; keep one")
        if self.by is None and given[0] in ("quotas", "long_tail"):
            raise ValueError(f"{given[0]}: expected by as well, got none; name the column of strata in by")
        if self.fraction is not None and not self.replacement and not self.fraction <= 1:
            raise ValueError(f"fraction: expected <= 1, got {self.fraction}; lower it or set replacement: true")
        if self.fraction is not None and not np.isfinite(self.fraction):
            raise ValueError(f"fraction: expected a finite number, got {self.fraction}; use n for a fixed size")
        for value, rows in (self.quotas or {}).items():
            if rows < 0:
                raise ValueError(f"quotas[{value!r}]: expected >= 0, got {rows}; leave the value out for none")
        if self.long_tail is not None and self.replacement:
            raise ValueError("long_tail: expected replacement: false, got true; use quotas to repeat rows")
        return self


@njit()
def _arrivals(
    key: np.uint64,
    row_id: NDArray[np.uint64],
    stream: NDArray[np.uint64],
    copy: NDArray[np.uint64],
    weight: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    for i in range(row_id.shape[0]):
        w = weight[i * (weight.shape[0] > 1)]
        first = stream[i * (stream.shape[0] > 1)]
        time = 0.0
        for c in range(np.int64(copy[i * (copy.shape[0] > 1)]) + 1):
            time += _gap(key, row_id[i], first + np.uint64(c), w)
        out[i] = time


@njit()
def _gap(key: np.uint64, row_id: np.uint64, stream: np.uint64, weight: float) -> float:
    if not weight > 0.0:
        return float(np.inf)
    return float(-np.log1p(-uniform_at(key, row_id, stream, np.uint64(0))) / weight)


@njit()
def _count_until(
    key: np.uint64,
    row_id: NDArray[np.uint64],
    t_max: float,
    weight: NDArray[np.float64],
    out: NDArray[np.int64],
) -> None:
    for i in range(row_id.shape[0]):
        w = weight[i * (weight.shape[0] > 1)]
        time = _gap(key, row_id[i], np.uint64(0), w)
        n = 0
        while time <= t_max:
            n += 1
            time += _gap(key, row_id[i], np.uint64(n), w)
        out[i] = n


@njit()
def _fill_until(
    key: np.uint64,
    row_id: NDArray[np.uint64],
    weight: NDArray[np.float64],
    counts: NDArray[np.int64],
    position: NDArray[np.int64],
    copy: NDArray[np.uint32],
    arrival: NDArray[np.float64],
) -> None:
    at = 0
    for i in range(row_id.shape[0]):
        w = weight[i * (weight.shape[0] > 1)]
        time = 0.0
        for c in range(counts[i]):
            time += _gap(key, row_id[i], np.uint64(c), w)
            position[at] = i
            copy[at] = c
            arrival[at] = time
            at += 1


def arrival_keys(
    key: np.uint64,
    row_id: ArrayLike,
    *,
    copy: ArrayLike = 0,
    stream: ArrayLike = 0,
    weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    r"""Arrival times of an exponential race: row i is a Poisson process of rate :math:`w_i`.

    Copy c of a row arrives at :math:`\sum_{j \le c} -\log(1 - u_{ij}) / w_i`, u addressed by (row id,
    stream + j). The k smallest times of copy 0 are k draws without replacement by weight (Efraimidis and
    Spirakis: the order of u^(1/w), largest first); the k smallest times of *all* copies are k independent
    draws with replacement.

    Parameters
    ----------
    key
        From :func:`curation.rng.stream_key`.
    row_id : (n,)
        Row ids.
    copy
        Which arrival, 0 = the first; one number or (n,).
    stream
        Number of the process, for rows that share an id and yet race on their own; one number or (n,).
    weight : (n,)
        Rates, finite and >= 0 [-]; 1 if not given.

    Returns
    -------
    (n,)
        Times >= 0; ``inf`` for weight 0, which is never drawn.

    Raises
    ------
    ValueError
        If a weight is negative, NaN or infinite, or a length does not fit.

    Source
    ------
    Efraimidis, Spirakis, "Weighted random sampling with a reservoir", IPL 97 (2006), algorithm A, as
    exponential clocks; the sum over copies is the Poisson process of a multinomial draw.
    """
    rows = np.asarray(row_id).astype(np.uint64, order="C", copy=False)
    copies, streams = (_per_row(name, v, rows.size) for name, v in (("copy", copy), ("stream", stream)))
    out = np.empty(rows.size)
    with np.errstate(over="ignore"):  # a tiny weight may arrive at inf; only uncompiled kernels would warn
        _arrivals(np.uint64(key), rows, streams, copies, _rates(weight, rows.size), out)
    return out


def arrivals_until(
    key: np.uint64, row_id: ArrayLike, t_max: float, weight: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float64]]:
    """All arrivals of all rows up to a time; the k first of them are k draws with replacement.

    Parameters
    ----------
    key, row_id, weight
        As in :func:`arrival_keys`.
    t_max
        Last time that counts, finite and >= 0; :func:`arrival_horizon` gives one that yields k arrivals.

    Returns
    -------
    position : (m,)
        Row of each arrival, ascending.
    copy : (m,)
        Its number among the row's arrivals, ascending inside a row.
    arrival : (m,)
        Its time, equal to :func:`arrival_keys` with that ``copy``.

    Raises
    ------
    ValueError
        As :func:`arrival_keys`, or if ``t_max`` is not finite.
    """
    if not 0 <= t_max < np.inf:
        raise ValueError(f"t_max: expected a finite time >= 0, got {t_max}; use arrival_horizon")
    rows = np.asarray(row_id).astype(np.uint64, order="C", copy=False)
    rates = _rates(weight, rows.size)
    counts = np.empty(rows.size, np.int64)
    with np.errstate(over="ignore"):
        _count_until(np.uint64(key), rows, float(t_max), rates, counts)
    m = int(counts.sum())
    position, copy, arrival = np.empty(m, np.int64), np.empty(m, np.uint32), np.empty(m)
    _fill_until(np.uint64(key), rows, rates, counts, position, copy, arrival)
    return position, copy, arrival


def arrival_horizon(n_draws: int, total_weight: float) -> float:
    """Time until which ``n_draws`` arrivals have come in all, but for a chance below 1e-15.

    Parameters
    ----------
    n_draws
        Draws with replacement, >= 0 [rows].
    total_weight
        Sum of all weights, > 0.

    Returns
    -------
    float
        ``t_max`` for :func:`arrivals_until`; if fewer arrivals come after all, double it and look again.

    Raises
    ------
    ValueError
        If no row can be drawn.
    """
    if not 0 < total_weight < np.inf:
        raise ValueError(f"total_weight: expected finite > 0, got {total_weight}; no row can be drawn")
    return float((n_draws + 9.0 * np.sqrt(n_draws) + 40.0) / total_weight)


def _rates(weight: NDArray[np.float64] | None, n: int) -> NDArray[np.float64]:
    if weight is None:
        return np.ones(1)
    rates = np.ascontiguousarray(weight, np.float64)
    if rates.shape != (n,):
        raise ValueError(f"weight: expected one per row ({n},), got {rates.shape}; align them with the rows")
    wrong = ~((rates >= 0) & (rates < np.inf))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"weight[{i}]: expected finite >= 0, got {rates[i]}; mend or filter these rows first")
    return rates


def _per_row(name: str, values: ArrayLike, n: int) -> NDArray[np.uint64]:
    array = np.atleast_1d(np.asarray(values))
    if array.shape not in ((1,), (n,)) or array.dtype.kind not in "iu" or (array.size and int(array.min()) < 0):
        raise ValueError(f"{name}: expected one integer >= 0 or one per row, got {values!r}; pass ({n},)")
    return np.ascontiguousarray(array).astype(np.uint64)


def order_bits(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Unsigned integers in the order of float64 numbers.

    Parameters
    ----------
    values : (n,)
        Numbers; -0.0 counts as 0.0.

    Returns
    -------
    (n,)
        ``a < b`` as integers exactly if ``a < b`` as numbers; NaN comes after ``inf``.
    """
    top = np.uint64(1 << 63)
    plain = np.asarray(values, np.float64) + 0.0  # makes -0.0 positive
    bits = np.where(np.isnan(plain), np.nan, plain).view(np.uint64)
    ordered: NDArray[np.uint64] = np.where(bits >= top, ~bits, bits | top)
    return ordered


def apportion(total: int, sizes: ArrayLike) -> NDArray[np.int64]:
    """Deal a number of rows to strata in proportion to their sizes, by largest remainder.

    Parameters
    ----------
    total
        Rows to deal, >= 0 [rows].
    sizes : (n_strata,)
        Rows per stratum, >= 0 [rows].

    Returns
    -------
    (n_strata,)
        Rows per stratum [rows], less than one off ``total * size / sum(sizes)``; their sum is ``total``.
        Equal remainders: the first stratum first.
        No stratum gets more than it has while ``total`` <= ``sum(sizes)``.

    Raises
    ------
    ValueError
        If a number is negative, or all strata are empty and ``total`` > 0.

    Source
    ------
    Hamilton's method; in whole numbers, so exact at any size.
    """
    rows = [int(n) for n in np.asarray(sizes).tolist()]
    whole = sum(rows)
    if total < 0 or any(n < 0 for n in rows):
        raise ValueError(f"total, sizes: expected >= 0, got {total}, {min(rows, default=0)}; count rows again")
    if whole == 0:
        if total > 0:
            raise ValueError(f"sizes: expected at least one row for total={total}, got none; lower total")
        return np.zeros(len(rows), np.int64)
    shares = [divmod(total * n, whole) for n in rows]
    left = total - sum(quotient for quotient, _ in shares)
    first = sorted(range(len(rows)), key=lambda i: -shares[i][1])[:left]
    dealt = np.array([quotient for quotient, _ in shares], np.int64)
    dealt[first] += 1
    return dealt


def long_tail_sizes(sizes: ArrayLike, imbalance: float) -> NDArray[np.int64]:
    r"""Rows per class of a long-tailed subset, :math:`\min(n_c, n_{max}\,\rho^{-r/(C-1)})`.

    Parameters
    ----------
    sizes : (n_classes,)
        Rows per class, >= 1, sorted by class value, which decides the rank of equal sizes [rows].
    imbalance
        :math:`\rho` > 1, largest over smallest class [-].

    Returns
    -------
    (n_classes,)
        Rows to keep [rows], rounded half up, at least 1 and never more than there are; r = 0 is the largest.

    Raises
    ------
    ValueError
        If a class is empty or ``imbalance`` <= 1.

    Source
    ------
    Cao, Wei, Gaidon, Arechiga, Ma, "Learning imbalanced datasets with label-distribution-aware margin loss",
    NeurIPS 2019, long-tailed CIFAR (there classes rank by label and sizes are truncated).
    """
    rows = np.asarray(sizes, np.int64)
    if rows.size and rows.min() < 1:
        i = int(rows.argmin())
        raise ValueError(f"sizes[{i}]: expected >= 1, got {rows[i]}; drop empty classes first")
    if not 1 < imbalance < np.inf:
        raise ValueError(f"imbalance: expected > 1, got {imbalance}; use quotas for equal classes")
    if rows.size < 2:
        return rows.copy()
    rank = np.empty(rows.size)
    rank[np.argsort(-rows, kind="stable")] = np.arange(rows.size)
    wanted = rows.max() * imbalance ** (-rank / (rows.size - 1))
    kept: NDArray[np.int64] = np.clip(np.floor(wanted + 0.5).astype(np.int64), 1, rows)
    return kept
