"""Exact nearest neighbours: the speed of a matrix product, the answer of a direct float64 sum.

A matrix product gives every distance up to a proven rounding error. A pair is passed over only if its
distance *less that error* exceeds the k-th best found so far; every other pair is measured directly in
float64. So the answer is exact for any finite data and does not depend on block sizes, visiting order or BLAS
threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation._jit import njit

_ROWS, _COLUMNS = 256, 4096  # block of the matrix product: 4 MiB of float32, near the best BLAS rate

Floats = NDArray[np.floating[Any]]
Data = tuple[Floats, NDArray[np.uint64], NDArray[np.int64], Floats, NDArray[np.float64]]
State = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint64], Floats]
Scales = tuple[float, float, float, float, float]


def exact_neighbors(
    base: Floats, queries_start: int, queries_stop: int, *, k: int, ids: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest other rows of each row in a range, in the order of (distance, id).

    Distances are those of ``((a - b) ** 2).sum()`` in float64. Only where the largest magnitude leaves
    2^-450 .. 2^500 are they formed on data scaled by a power of two, so that no square over- or underflows.

    Parameters
    ----------
    base : (n, d)
        Rows, float32 or float64, finite.
    queries_start, queries_stop
        The rows [start, stop) are the queries; each is excluded from its own neighbours by position.
    k
        Neighbours per row, 1 .. n - 1 [rows].
    ids : (n,)
        Distinct row ids, which decide between equal distances.

    Returns
    -------
    index : (m, k)
        Positions in ``base``, nearest first.
    squared_distance : (m, k)
        In the squared unit of the data; ``inf`` or 0 where float64 cannot hold it (the order is
        right even so).

    Raises
    ------
    TypeError
        If ``base`` is not float32 or float64.
    ValueError
        If a value is NaN or infinite, ``k`` >= n, or range or ids do not fit ``base``.

    Notes
    -----
    Memory: one copy of ``base``, 4 to 8 MiB of buffers and 24 k bytes per query. Time: m·n·d
    multiplications, half of that between rows that are both queries. Data without contrast (most rows at one
    same distance > 0, or clusters narrower than 1e-3 of their spread in float32) are measured pair by pair,
    which is much slower.

    Source
    ------
    Rounding error of inner products: Higham, "Accuracy and Stability of Numerical Algorithms",
    2nd edition, eq. 3.5.
    """
    _check(base, queries_start, queries_stop, k, ids)
    m = queries_stop - queries_start
    search = _prepare(np.ascontiguousarray(base), queries_start, queries_stop, ids)
    near = np.full((m, k), -1, np.int64)
    near_d2 = np.full((m, k), np.inf)
    near_id = np.zeros((m, k), np.uint64)
    state = (near, near_d2, near_id, np.full(m, -np.inf, search.rows.dtype))
    for q in range(0, m, _ROWS):
        queries = (q, min(q + _ROWS, m))
        search.visit(queries, queries, False, state)
        for b in range(queries[1], m, _COLUMNS):  # pairs of two queries: one product serves both
            search.visit(queries, (b, min(b + _COLUMNS, m)), True, state)
        for b in range(m, base.shape[0], _COLUMNS):
            search.visit(queries, (b, min(b + _COLUMNS, base.shape[0])), False, state)
    back = np.empty(m, np.int64)
    back[search.data[2][:m] - queries_start] = np.arange(m)
    with np.errstate(over="ignore", under="ignore"):
        near_d2 = near_d2 / search.scales[0] / search.scales[0] / search.scales[1] / search.scales[1]
    return near[back], near_d2[back]


def all_neighbors(
    base: Floats, *, k: int, ids: NDArray[np.uint64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest other rows of every row: :func:`exact_neighbors` with all rows as queries.

    Parameters
    ----------
    base : (n, d)
        Rows, float32 or float64, finite.
    k
        Neighbours per row, 1 .. n - 1 [rows].
    ids : (n,)
        Distinct row ids, which decide between equal distances; positions if not given.

    Returns
    -------
    index, squared_distance : (n, k)
        As :func:`exact_neighbors`.

    Raises
    ------
    TypeError, ValueError
        As :func:`exact_neighbors`.

    Examples
    --------
    >>> index, squared_distance = all_neighbors(np.array([[0.0], [1.0], [3.0]]), k=1)
    >>> index.ravel().tolist(), squared_distance.ravel().tolist()
    ([1, 0, 1], [1.0, 1.0, 4.0])
    """
    n = len(base)
    return exact_neighbors(base, 0, n, k=k, ids=np.arange(n, dtype=np.uint64) if ids is None else ids)


@dataclass(frozen=True)
class _Search:
    """Rows ready for the product: centred, scaled to magnitude 1, in visiting order (queries first)."""

    rows: Floats  # (n, d) centred and scaled
    # base and ids as given; position in base of each visited row; half its squared norm less the error bound,
    # rounded down to the work precision, and before that rounding
    data: Data
    # factors b, a of the direct distance ((x·b - y·b)·a)²; half of (scale of rows)² / (scale of that)², with
    # room for rounding; relative and absolute lowering of the cut, for its rounding to the work precision
    scales: Scales
    product: Floats  # buffer of one block
    flags: NDArray[np.uint8]  # buffer of one row of flags

    def visit(self, queries: tuple[int, int], others: tuple[int, int], both: bool, state: State) -> None:
        """Take up one block of pairs; ``both``: the others are queries as well and learn of this block."""
        shape = (queries[1] - queries[0], others[1] - others[0])
        product = self.product[: shape[0] * shape[1]].reshape(shape)
        np.matmul(self.rows[slice(*queries)], self.rows[slice(*others)].T, out=product)
        self.flags[:] = 0
        eights = self.flags.view(np.uint64)
        _scan(product, queries[0], others[0], both, self.data, state, self.scales, self.flags, eights)


def _prepare(base: Floats, start: int, stop: int, ids: NDArray[np.uint64]) -> _Search:
    n, d = base.shape
    # A fixed shuffle: rows sorted along an axis would otherwise come ever nearer, and be measured one by one.
    shuffled = np.random.default_rng(0).permutation(n)
    inside = (shuffled >= start) & (shuffled < stop)
    order = np.concatenate([shuffled[inside], shuffled[~inside]]).astype(np.int64, copy=False)
    largest = float(max(base.max(), -base.min()))
    before = 2.0**-600 if largest > 2.0**500 else 1.0
    center = base.mean(axis=0, dtype=np.float64) if before == 1.0 else (base * before).mean(axis=0)
    reach = _reach(base, before, center)
    exponent = float(np.frexp(reach)[1]) if reach > 0 else 0.0
    scale = 2.0 ** min(-exponent, 1000.0)
    after = scale if 0 < reach < 2.0**-450 else 1.0
    work = base.dtype if _bound(d, base.dtype) < 0.25 else np.dtype(np.float64)
    rows = _centred(base, order, before, center, scale, np.empty((n, d), work))
    info = np.finfo(work)
    ratio = (scale / after) ** 2
    half_norm = 0.5 * np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    top = half_norm * (1.0 - _bound(d, work)) - d * (float(info.tiny) * 2.0**16 + ratio * 2.0**-1070)
    floor = np.nextafter(top.astype(work), work.type(-np.inf))
    half_ratio = 0.5 * ratio * (1.0 + (d + 16) * 2.0**-51)
    return _Search(
        rows=rows,
        data=(base, np.ascontiguousarray(ids), order, floor, top),
        scales=(before, after, half_ratio, 4.0 * float(info.eps), 4.0 * float(info.tiny)),
        product=np.empty(min(_ROWS, n) * max(min(_ROWS, n), min(_COLUMNS, n)), work),
        flags=np.zeros(-(-max(_ROWS, _COLUMNS) // 8) * 8, np.uint8),
    )


def _bound(d: int, dtype: np.dtype[Any]) -> float:
    """Error of 2·norm/2 + 2·norm/2 - 2·product over the sum of squared norms, all roundings included.

    With unit roundoff u: d·u for the product (|a||b| <= (a² + b²)/2), as much for the norms, 4.2 u for
    centring and scaling, 2 u for the subtraction in the scan; the rest of the 16 u is room.
    """
    u = (2 * d + 16) * float(np.finfo(dtype).eps) / 2
    return u / (1 - u) if u < 0.5 else 1.0


def _reach(base: Floats, before: float, center: NDArray[np.float64]) -> float:
    low, high = base.min(axis=0).astype(np.float64), base.max(axis=0).astype(np.float64)
    return float(max((high * before - center).max(), (center - low * before).max()))


@njit()
def _centred(
    base: Floats,
    order: NDArray[np.int64],
    before: float,
    center: NDArray[np.float64],
    scale: float,
    out: Floats,
) -> Floats:
    for i in range(order.shape[0]):
        row = order[i]
        for j in range(base.shape[1]):
            out[i, j] = (np.float64(base[row, j]) * before - center[j]) * scale
    return out


@njit()
def _squared_distance(base: Floats, a: int, b: int, before: float, after: float) -> float:
    # Summed in column order, without vector tricks: the same bits on every machine, and symmetric in a and b.
    total = 0.0
    if before == 1.0 and after == 1.0:
        for j in range(base.shape[1]):
            step = np.float64(base[a, j]) - np.float64(base[b, j])
            total += step * step
        return total
    for j in range(base.shape[1]):
        step = (np.float64(base[a, j]) * before - np.float64(base[b, j]) * before) * after
        total += step * step
    return total


@njit()
def _consider(query: int, other: int, data: Data, state: State, scales: Scales) -> None:
    """Measure one pair and, if it is among the k best of the query so far, insert it and raise the cut."""
    base, ids, order, _, top = data
    near, near_d2, near_id, cut = state
    before, after, half_ratio, slack, tiny = scales
    last = near.shape[1] - 1
    full = near[query, last] >= 0
    other_id = ids[order[other]]
    if full and near_d2[query, last] == 0.0 and other_id > near_id[query, last]:
        return  # k copies with lower ids are known: nothing can come before them
    d2 = _squared_distance(base, order[query], order[other], before, after)
    if full and not _precedes(d2, other_id, near_d2[query, last], near_id[query, last]):
        return
    slot = last
    while slot > 0 and (
        near[query, slot - 1] < 0 or _precedes(d2, other_id, near_d2[query, slot - 1], near_id[query, slot - 1])
    ):
        near[query, slot] = near[query, slot - 1]
        near_d2[query, slot] = near_d2[query, slot - 1]
        near_id[query, slot] = near_id[query, slot - 1]
        slot -= 1
    near[query, slot] = order[other]
    near_d2[query, slot] = d2
    near_id[query, slot] = other_id
    if near[query, last] >= 0:
        # A pair with product - floor[other] below this is farther than the k-th best, whatever was rounded.
        bar = top[query] - half_ratio * near_d2[query, last]
        cut[query] = bar - abs(bar) * slack - tiny


@njit()
def _precedes(d2: float, row_id: np.uint64, other_d2: float, other_id: np.uint64) -> bool:
    return d2 < other_d2 or bool(d2 == other_d2 and row_id < other_id)


@njit()
def _scan(
    products: Floats,
    query_start: int,
    other_start: int,
    both: bool,
    data: Data,
    state: State,
    scales: Scales,
    flags: NDArray[np.uint8],
    eights: NDArray[np.uint64],
) -> None:
    """Take up a block of products for the queries (rows) and, with ``both``, for the others (columns)."""
    floor, cut = data[3], state[3]
    n = products.shape[1]
    low = floor[other_start : other_start + n]
    bars = cut[other_start : other_start + n]
    for r in range(products.shape[0]):
        query = query_start + r
        row, bar, own = products[r], cut[query], floor[query]
        # Flags first, then eight at a time: the first loop is pure SIMD, and hits are rare in the second.
        if both:
            for c in range(n):
                flags[c] = (row[c] - low[c] >= bar) | (row[c] - own >= bars[c])
        else:
            for c in range(n):
                flags[c] = row[c] - low[c] >= bar
        for e in range((n + 7) // 8):
            if eights[e] == 0:
                continue
            for c in range(8 * e, min(8 * e + 8, n)):
                other = other_start + c
                if row[c] - low[c] >= cut[query] and other != query:
                    _consider(query, other, data, state, scales)
                if both and row[c] - own >= bars[c]:
                    _consider(other, query, data, state, scales)


def _check(base: Floats, start: int, stop: int, k: int, ids: NDArray[np.uint64]) -> None:
    if base.dtype not in (np.float32, np.float64):
        raise TypeError(f"base: expected float32 or float64, got {base.dtype}; convert it first")
    if base.ndim != 2 or base.shape[1] < 1:
        raise ValueError(f"base: expected (n, d) with d >= 1, got {base.shape}; pass one row per line")
    n = base.shape[0]
    if not 1 <= k < n:
        raise ValueError(f"k: expected 1 .. {n - 1} (one less than the rows), got {k}; lower k or add rows")
    if not 0 <= start <= stop <= n:
        raise ValueError(f"queries: expected 0 <= start <= stop <= {n}, got {start}, {stop}; clip the range")
    if ids.shape != (n,) or ids.dtype != np.uint64:
        raise ValueError(f"ids: expected uint64 ({n},), got {ids.dtype} {ids.shape}; pass one id per row")
    require_finite("base", base)


def require_finite(name: str, rows: Floats) -> None:
    """Refuse NaN and infinity.

    Parameters
    ----------
    name
        What the message calls the rows.
    rows : (n, d)
        Values to look at.

    Raises
    ------
    ValueError
        Naming the first bad value and how many there are.
    """
    # A sum is finite only if all terms are; the costly look is taken only when it is not (or overflowed).
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum(dtype=np.float64)):
            return
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        i, j = bad[0].tolist()
        raise ValueError(
            f"{name}[{i}, {j}]: expected a finite number, got {rows[i, j]} ({len(bad)} such values);"
            " drop or fill these rows first"
        )
