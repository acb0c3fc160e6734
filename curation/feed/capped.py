"""Caps on how often the rows of a group may be seen: shares are cut, and the others take what is left over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SWEEPS = 10_000
_TOLERANCE = 1e-13


def capped_shares(
    shares: NDArray[np.float64], draws: NDArray[np.int64], caps: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Shares under which no group is drawn more often than its cap over the whole training.

    The shares of a group are multiplied by the same factor in all segments, and every segment is made to sum to 1
    again: :math:`q'_{sg} = \lambda_g q_{sg} / \sum_h \lambda_h q_{sh}`. A factor is 1 unless the cap is reached. With
    one segment that is clipping and renormalising until nothing is above its cap.

    Parameters
    ----------
    shares : (n_segments, n_groups)
        Shares, each row with sum 1 [-].
    draws : (n_segments,)
        Draws of each segment [draws].
    caps : (n_groups,)
        Largest number of draws of each group in all, >= 0 [draws].

    Returns
    -------
    (n_segments, n_groups)
        Shares; a group gets at most its cap, within 1e-12 of all draws. Without a cap that bites the very input.

    Raises
    ------
    ValueError
        If the caps of the groups that have a share add up to fewer draws than there are, in all or in a segment.
    """
    wanted = draws @ shares
    if (wanted <= caps).all():
        return shares
    demand = float(draws.sum())
    for s, row in enumerate(shares):
        if caps[row > 0].sum() < draws[s]:
            raise ValueError(f"caps: expected a sum >= {draws[s]} draws in segment {s}, got {caps[row > 0].sum():g}")
    capacity = float(caps[wanted > 0].sum())
    if capacity < demand:
        raise ValueError(f"caps: expected a sum >= {demand:g} draws, got {capacity:g}")
    if len(shares) == 1:
        return _poured(shares[0], demand, caps)[None, :]
    return _scaled(shares, draws, caps, demand)


def _poured(shares: NDArray[np.float64], demand: float, caps: NDArray[np.float64]) -> NDArray[np.float64]:
    """One segment: what is above a cap goes to the others in proportion, until nothing is."""
    full = np.zeros(shares.shape[0], dtype=np.bool_)
    given = shares * demand
    while (over := ~full & (given > caps)).any():
        full |= over
        rest = ~full & (shares > 0)
        left = max(0.0, demand - float(caps[full & (shares > 0)].sum()))
        given = np.where(full, np.minimum(caps, np.where(shares > 0, caps, 0.0)), 0.0)
        if rest.any():
            given[rest] = shares[rest] / shares[rest].sum() * left
    poured: NDArray[np.float64] = given / given.sum()
    return poured


def _scaled(
    shares: NDArray[np.float64], draws: NDArray[np.int64], caps: NDArray[np.float64], demand: float
) -> NDArray[np.float64]:
    """Several segments: scale the groups to their caps and the segments to 1 in turn, until both hold."""
    out = shares
    factor = np.ones(shares.shape[1])
    reached = np.zeros(shares.shape[1], dtype=np.bool_)
    for _ in range(_SWEEPS):
        had = draws @ out
        reached |= had > caps
        # a group that was cut too far, because others were cut later, comes up again, but never above factor 1
        adjust = reached & ((had > caps) | (factor < 1))
        if not (np.abs(had - caps)[adjust] > _TOLERANCE * demand).any():
            return out
        factor[adjust] = np.minimum(1.0, factor[adjust] * caps[adjust] / had[adjust])
        out = shares * factor
        out = out / out.sum(axis=1, keepdims=True)
    raise ValueError(f"caps: expected shares that settle, got none in {_SWEEPS} sweeps; raise max_repeats a little")
