"""SMOTE adds minority rows between a row and one of its nearest neighbours of the same class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curation._jit import njit
from curation.methods.base import Params, Shape
from curation.methods.neighbors import Floats, all_neighbors, require_finite
from curation.rng import random_bits, stream_key, uniform

Label = TypeVar("Label", bool, int, float, str)
Base = Literal["even", "iid"]
Gap = Literal["segment", "box"]
Small = Literal["error", "shrink", "copy"]
Classes = Literal["auto", "minority", "not minority", "not majority", "all"]
Target = dict[bool | int | float | str, int] | float | Classes

# Words of one (row, repeat) address; a box takes one word per feature from _WORD_BOX on.
_WORD_MIX, _WORD_SLOT, _WORD_BASE, _WORD_REMAINDER, _WORD_BOX = 0, 1, 2, 3, 16


class Smote(Params):
    """Options of ``use: smote``."""

    shape: ClassVar[Shape] = "artifact"

    label: str = Field(description="column that holds the class")
    features: list[str] = Field(
        min_length=1,
        description="numeric or fixed-size-list columns, read as one matrix; scale them alike",
    )
    target: Target = Field(
        default="auto",
        description="rows after resampling as {class: rows}, a ratio minority / majority for two classes, or"
        " which classes grow to the largest: auto (= not majority), minority, not minority, not majority,"
        " all",
    )
    k: int = Field(default=5, ge=1, description="neighbours a synthetic row may lean to; the paper uses 5")
    base: Base = Field(
        default="even",
        description="even: every row of the class serves equally often; iid: drawn, as imbalanced-learn does",
    )
    gap: Gap = Field(
        default="segment",
        description="segment: one mixing factor per synthetic row; box: one per feature",
    )
    small: Small = Field(
        default="error",
        description="a class of <= k rows: error, shrink (k = rows - 1), copy (also repeats a lone row)",
    )
    keep: list[str] = Field(
        default=[],
        description="other columns taken over from the base parent; every column that is neither label,"
        " feature nor listed here is null in synthetic rows",
    )

    @model_validator(mode="after")
    def _columns_and_target(self) -> Smote:
        used = [self.label, *self.features, *self.keep]
        twice = sorted({name for name in used if used.count(name) > 1})
        if twice:
            raise ValueError(f"label, features, keep: expected each column once, got {twice} twice; drop one")
        if isinstance(self.target, float) and not 0 < self.target <= 1:
            raise ValueError(f"target: expected a ratio in (0, 1], got {self.target}; or name rows per class")
        if isinstance(self.target, dict):
            for label, rows in self.target.items():
                if rows < 0:
                    raise ValueError(f"target[{label!r}]: expected >= 0, got {rows}; name rows after resampling")
        return self


def sampling_targets(counts: Mapping[Label, int], target: Target) -> dict[Label, int]:
    """Rows to generate per class, with the semantics of imbalanced-learn's ``sampling_strategy``.

    Parameters
    ----------
    counts
        Rows per class [rows], each >= 1, in any order.
    target
        ``{class: rows after resampling}``, a ratio minority / majority in (0, 1] for exactly two classes, or
        which classes grow to the largest: ``auto`` = ``not majority``, ``minority``,
        ``not minority``, ``all``.

    Returns
    -------
    dict
        Rows to generate [rows] of every class in ``counts``, in that order; 0 where nothing is to be done. A
        ratio truncates as imbalanced-learn does; of classes of equal size the first is minority or majority.

    Raises
    ------
    ValueError
        If a class has no row or is unknown, rows would have to be removed, a ratio meets other than two
        classes or lies below the present one, or there is a single class and ``target`` names no rows.
    """
    for label, rows in counts.items():
        if rows < 1:
            raise ValueError(f"counts[{label!r}]: expected >= 1 row, got {rows}; drop the class")
    if isinstance(target, dict):
        return _rows_per_class(counts, target)
    if len(counts) < 2:
        raise ValueError(f"target: expected two classes or more, got {list(counts)}; name rows per class instead")
    largest = max(counts.values())
    majority = max(counts, key=lambda label: counts[label])
    minority = min(counts, key=lambda label: counts[label])
    if isinstance(target, (int, float)):
        return _rows_by_ratio(counts, float(target), majority)
    grow = {
        "auto": set(counts) - {majority},
        "not majority": set(counts) - {majority},
        "not minority": set(counts) - {minority},
        "minority": {minority},
        "all": set(counts),
    }
    if target not in grow:
        raise ValueError(f"target: expected one of {sorted(grow)}, got {target!r}; or name rows per class")
    return {label: largest - rows if label in grow[target] else 0 for label, rows in counts.items()}


def _rows_per_class(counts: Mapping[Label, int], target: Mapping[Any, int]) -> dict[Label, int]:
    for label, rows in target.items():
        if label not in counts:
            raise ValueError(f"target[{label!r}]: expected one of {list(counts)}, got {label!r}; mend the class")
        if rows < counts[label]:
            raise ValueError(
                f"target[{label!r}]: expected >= {counts[label]} (rows present), got {rows};"
                " SMOTE removes no row, use sample with quotas for that"
            )
    return {label: int(target.get(label, rows)) - rows for label, rows in counts.items()}


def _rows_by_ratio(counts: Mapping[Label, int], ratio: float, majority: Label) -> dict[Label, int]:
    if len(counts) != 2:
        raise ValueError(f"target: expected two classes with a ratio, got {len(counts)}; name rows per class instead")
    if not 0 < ratio <= 1:
        raise ValueError(f"target: expected a ratio in (0, 1], got {ratio}; 1 makes both classes equal")
    minority = next(label for label in counts if label != majority)
    new = int(counts[majority] * ratio - counts[minority])
    present = counts[minority] / counts[majority]
    if ratio < present:
        raise ValueError(
            f"target: expected a ratio >= {present:.6g} (the present one), got {ratio}; SMOTE removes no row"
        )
    return {label: new if label == minority else 0 for label in counts}


def usable_k(n_rows: int, k: int, small: Small, *, label: object = None) -> int:
    """Neighbours per row that a class of this size allows.

    Parameters
    ----------
    n_rows
        Rows of the class [rows].
    k
        Neighbours asked for, >= 1.
    small
        What to do if ``n_rows`` <= ``k``: ``error``; ``shrink`` to ``n_rows - 1`` (a lone row is an error);
        ``copy``: the same, and a lone row is repeated as it is.
    label
        Named in the message.

    Returns
    -------
    int
        ``k``, or less; 0 = repeat the lone row (:func:`interpolate` with itself).

    Raises
    ------
    ValueError
        If the class is empty, or too small under this rule.
    """
    if n_rows > k:
        return k
    if n_rows < 1 or small == "error" or (n_rows == 1 and small == "shrink"):
        least = k + 1 if small == "error" else 2 if small == "shrink" else 1
        raise ValueError(
            f"class {label!r}: expected >= {least} rows for k={k}, small={small}, got {n_rows};"
            " lower k or set small: shrink or copy"
        )
    return n_rows - 1


def smote_draws(
    key: np.uint64,
    start: int,
    stop: int,
    *,
    n_new: int,
    k: int,
    ids: NDArray[np.uint64],
    base: Base = "even",
    width: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Draw base row, neighbour and mixing factor of the synthetic rows [start, stop) of one class.

    Any slice is computed alone. The rows' order does not matter: with rows of the class sorted by id,
    synthetic row s has the base s mod T while s < T·⌊n_new / T⌋; the remainder are the rows with the lowest
    hash keys, in order of id. Slot and mix are addressed by (id of the base, how often it served before).
    ``iid`` addresses all by s.

    Parameters
    ----------
    key
        From :func:`curation.rng.stream_key`, another one for each class.
    start, stop
        Slice of 0 .. ``n_new``.
    n_new
        Synthetic rows of the class in all [rows].
    k
        Neighbours per row, >= 1.
    ids : (T,)
        Distinct row ids of the class.
    base
        ``even``: every row serves ⌊n_new / T⌋ times or once more; ``iid``: uniform with replacement.
    width
        If given, that many mixing factors per synthetic row, one per feature (``gap: box``).

    Returns
    -------
    base : (m,)
        Position of the base row in ``ids``, m = stop - start.
    slot : (m,)
        Which of its k neighbours, 0 = nearest.
    mix : (m,) or (m, width)
        Place between them in [0, 1) [-], 0 = the base.

    Raises
    ------
    ValueError
        If there is no row, ``k`` < 1, or the slice does not fit ``n_new``.

    Source
    ------
    Chawla, Bowyer, Hall, Kegelmeyer, "SMOTE", JAIR 16 (2002), section 4.2, algorithm SMOTE(T, N, k).
    """
    if not 0 <= start <= stop <= n_new:
        raise ValueError(f"start, stop: expected 0 <= start <= stop <= {n_new}, got {start}, {stop}; clip them")
    if ids.size < 1:
        raise ValueError("ids: expected at least one row, got none; drop the class")
    if k < 1:
        raise ValueError(f"k: expected >= 1, got {k}; pass 1 to repeat a lone row, its own neighbour")
    order = np.argsort(ids, kind="stable")
    s = np.arange(start, stop, dtype=np.int64)
    if base == "even":
        rank, last = s % ids.size, s >= n_new - n_new % ids.size
        rank[last] = _remainder(key, ids[order], n_new % ids.size)[rank[last]]
        address, stream = ids[order[rank]], s // ids.size
    else:
        address, stream = s.astype(np.uint64), np.zeros(1, np.int64)
        rank = _choice(uniform(key, address, word=_WORD_BASE), ids.size)
    slot = _choice(uniform(key, address, stream=stream, word=_WORD_SLOT), k)
    return order[rank], slot, _mix(key, address, stream, width)


def _choice(u: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    return np.minimum((u * n).astype(np.int64), n - 1)


def _mix(
    key: np.uint64, address: NDArray[np.uint64], stream: NDArray[np.int64], width: int | None
) -> NDArray[np.float64]:
    if width is None:
        return uniform(key, address, stream=stream, word=_WORD_MIX)
    columns = [uniform(key, address, stream=stream, word=_WORD_BOX + j) for j in range(width)]
    return np.stack(columns, axis=1)


def _remainder(key: np.uint64, sorted_ids: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Ranks of the ``n`` rows that serve once more: those of lowest hash, ties by id, in order of id."""
    lots = random_bits(key, sorted_ids, word=_WORD_REMAINDER)
    return np.sort(np.argsort(lots, kind="stable")[:n])


@njit()
def _interpolate(
    x: Floats,
    base: NDArray[np.int64],
    neighbor: NDArray[np.int64],
    mix: NDArray[np.float64],
    half: float,
    out: Floats,
) -> None:
    step = 0 if mix.shape[1] == 1 else 1
    for s in range(base.shape[0]):
        a, b, o, u = x[base[s]], x[neighbor[s]], out[s], mix[s]
        for j in range(x.shape[1]):
            p, q = np.float64(a[j]) * half, np.float64(b[j]) * half
            low = p if p < q else q
            high = q if p < q else p
            v = p + u[j * step] * (q - p)
            v = low if v < low else v  # rounding may not leave the box of the parents
            o[j] = (high if v > high else v) / half


def interpolate(x: Floats, base: NDArray[np.int64], neighbor: NDArray[np.int64], mix: NDArray[np.float64]) -> Floats:
    r"""Points between pairs of rows, :math:`\tilde x = x_i + u (x_j - x_i)`, in float64 and cast once.

    Parameters
    ----------
    x : (T, d)
        Rows, float32 or float64.
    base, neighbor : (m,)
        Positions of the two parents in ``x``.
    mix : (m,) or (m, d)
        u in [0, 1], one per new row or one per feature [-].

    Returns
    -------
    (m, d)
        New rows of the dtype of ``x``; each value lies between those of its parents, bounds included.

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64: truncated integers would leave the segment.
    ValueError
        If the shapes do not fit, or a position is outside ``x``.

    Source
    ------
    Chawla et al. 2002, algorithm SMOTE, lines 19-21 (the sign is that of the text).
    """
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}; convert it first")
    weights = mix[:, None] if mix.ndim == 1 else mix
    if base.shape != neighbor.shape or weights.shape[0] != base.size or weights.shape[1] not in (1, x.shape[1]):
        raise ValueError(
            f"base, neighbor, mix: expected (m,), (m,), (m,) or (m, {x.shape[1]}),"
            f" got {base.shape}, {neighbor.shape}, {mix.shape}; draw them together"
        )
    for name, index in (("base", base), ("neighbor", neighbor)):
        if index.size and not (index.min() >= 0 and index.max() < len(x)):
            raise ValueError(f"{name}: expected positions 0 .. {len(x) - 1}, got others; index the rows of x")
    out = np.empty((base.size, x.shape[1]), x.dtype)
    # Halved where a step could overflow; exact, as such numbers are far from the smallest.
    half = 0.5 if x.size and max(x.max(), -x.min()) > np.finfo(np.float64).max / 4 else 1.0
    _interpolate(np.ascontiguousarray(x), base, neighbor, np.ascontiguousarray(weights, np.float64), half, out)
    return out


def smote(
    x: Floats,
    n_new: int,
    *,
    k: int = 5,
    seed: int = 0,
    base: Base = "even",
    gap: Gap = "segment",
    ids: NDArray[np.uint64] | None = None,
) -> tuple[Floats, dict[str, Any]]:
    """Synthetic rows of one class, in memory.

    Parameters
    ----------
    x : (T, d)
        Rows of the class, float32 or float64, finite; scale the features alike first.
    n_new
        Rows to make, >= 0 [rows].
    k
        Neighbours a new row may lean to, 1 .. T - 1.
    seed
        Seed, 0 .. 2^64 - 1.
    base
        ``even``: every row serves equally often, give or take one; ``iid``: drawn with replacement.
    gap
        ``segment``: one mixing factor per new row; ``box``: one per feature.
    ids : (T,)
        Distinct row ids; with them the result does not depend on the order of ``x``. Positions if not given.

    Returns
    -------
    new : (n_new, d)
        Synthetic rows of the dtype of ``x``.
    info
        ``parent_a``, ``parent_b`` (n_new,): positions of base and neighbour in ``x``; ``mix`` (n_new,) or
        (n_new, d); ``n_degenerate``: new rows whose two parents are equal, so that they are copies [rows].

    Raises
    ------
    TypeError, ValueError
        If ``x`` holds other than finite floats, has no more than ``k`` rows, or ``n_new`` is negative.

    Examples
    --------
    >>> new, info = smote(np.array([[0.0, 0.0], [1.0, 2.0]]), 3, k=1)
    >>> bool((new[:, 1] == 2 * new[:, 0]).all()), info["n_degenerate"]
    (True, 0)
    """
    if n_new < 0:
        raise ValueError(f"n_new: expected >= 0, got {n_new}; use sample to remove rows")
    if x.ndim != 2:
        raise ValueError(f"x: expected (T, d), got {x.shape}; pass one row per line")
    require_finite("x", x)
    usable_k(len(x), k, "error", label="x")
    ids = np.arange(len(x), dtype=np.uint64) if ids is None else ids
    near, distance = all_neighbors(x, k=k, ids=ids)
    width = x.shape[1] if gap == "box" else None
    key = stream_key(seed, "smote", "draws")
    first, slot, mix = smote_draws(key, 0, n_new, n_new=n_new, k=k, ids=ids, base=base, width=width)
    second = near[first, slot]
    n_degenerate = int((distance[first, slot] == 0).sum())
    info = {"parent_a": first, "parent_b": second, "mix": mix, "n_degenerate": n_degenerate}
    return interpolate(x, first, second, mix), info
