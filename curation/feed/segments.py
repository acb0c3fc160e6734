"""From the options of a mixture and the groups of the data to stretches of constant shares."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import RecipeError
from curation.feed.options import GroupValue, Shares, name_text
from curation.methods.cooldown import MAX_SEGMENTS, Cooldown, Unit, cooldown_segments, step_segments
from curation.methods.temperature import Temperature, temperature_shares

_MAX_CELLS = 1 << 22  # segments x groups: 32 MiB of shares; with more groups a gradual schedule gets fewer segments


def groups_table(groups: Sequence[tuple[GroupValue, int]], sizes: NDArray[np.float64] | None = None) -> pa.Table:
    """Tabulate the groups: ``group`` (JSON text), ``offset`` and ``rows`` (int64), in layout order.

    With ``sizes`` also ``size`` (float64), the sum of the column that shares are meant in.
    """
    rows = np.array([n for _, n in groups], dtype=np.int64)
    columns = {
        "group": pa.array([name_text(name) for name, _ in groups], pa.string()),
        "offset": np.cumsum(rows) - rows,
        "rows": rows,
    }
    return pa.table(columns if sizes is None else columns | {"size": sizes})


@dataclass(frozen=True)
class Places:
    """How places in a training are counted: its draws, its batches, and the first draw of a batch."""

    n_draws: int
    n_steps: int
    first_draw: Callable[[int], int]

    def draw(self, place: float, unit: Unit, key: str) -> int:
        """Draw of a place, refused unless something is left after it."""
        total = {"share": 1, "steps": self.n_steps, "rows": self.n_draws}[unit]
        if not place < total:
            raise RecipeError(
                f"feed.mixture.cooldown.{key}: expected a place before the end of the training, {total} {unit}, got "
                f"{place:g}; lower it, or raise epochs"
            )
        if unit == "share":
            return math.floor(place * self.n_draws + 0.5)
        return int(place) if unit == "rows" else self.first_draw(int(place))


@dataclass(frozen=True)
class Segments:
    """Stretches of constant shares.

    Attributes
    ----------
    boundaries : (n_segments + 1,)
        Segment s is draws ``boundaries[s]`` to ``boundaries[s + 1]``.
    shares : (n_segments, n_groups)
        Share of each group in the rows that are drawn [-], each row with sum 1.
    """

    boundaries: NDArray[np.int64]
    shares: NDArray[np.float64]

    def table(self) -> pa.Table:
        """Tabulate: ``start`` (int64, first draw) and ``shares`` (fixed-size list of float64, by group)."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(self.shares.ravel()), self.shares.shape[1])
        return pa.table({"start": self.boundaries[:-1], "shares": column})


def segments(
    mixture: Temperature | Cooldown | Shares,
    groups: Sequence[tuple[GroupValue, int]],
    places: Places,
    sizes: NDArray[np.float64] | None = None,
) -> Segments:
    """Cut the training into stretches of constant shares.

    Parameters
    ----------
    mixture
        Rule of the shares.
    groups
        Name and rows of each group.
    places
        How long the training is.
    sizes : (n_groups,)
        Size of each group in the unit of the shares; None is rows.

    Returns
    -------
    Segments
        Shares of rows: where the unit is another, a share is divided by the mean size of the group's rows.

    Raises
    ------
    RecipeError
        If stated shares do not fit the groups, or the training is too short for a schedule.
    """
    rows = np.array([n for _, n in groups], dtype=np.int64)
    unit = rows if sizes is None else sizes
    boundaries = np.array([0, places.n_draws], dtype=np.int64)
    if isinstance(mixture, Shares):
        shares = _stated_shares(mixture, groups, unit)[None, :]
    elif isinstance(mixture, Temperature):
        shares = _shares_at(unit, mixture.tau)[None, :]
    else:
        boundaries, temperatures = _cooldown(mixture, places, max(2, min(MAX_SEGMENTS, _MAX_CELLS // len(groups))))
        shares = np.stack([_shares_at(unit, tau) for tau in temperatures.tolist()])
    if sizes is not None:
        per_row = np.divide(sizes, rows, out=np.ones(len(groups)), where=(rows > 0) & (sizes > 0))
        shares = shares / per_row
        shares = shares / shares.sum(axis=1, keepdims=True)
    return Segments(boundaries, shares)


def _cooldown(mixture: Cooldown, places: Places, max_segments: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    n_draws = places.n_draws
    if n_draws < 2:
        raise RecipeError(f"feed.mixture.cooldown: expected >= 2 draws, got {n_draws}; use temperature instead")
    if mixture.steps is not None:
        starts = [places.draw(place, mixture.unit, "steps") for place, _ in mixture.steps]
        return step_segments(n_draws, starts, [tau for _, tau in mixture.steps])
    at = mixture.at if mixture.unit == "share" else places.draw(mixture.at, mixture.unit, "at") / n_draws
    return cooldown_segments(
        n_draws,
        start=mixture.start,
        end=mixture.end,
        at=at,
        schedule=mixture.schedule,
        max_segments=max_segments,
    )


def stated_sizes(
    stated: Mapping[GroupValue, int], groups: Sequence[tuple[GroupValue, int]], otherwise: int
) -> NDArray[np.int64]:
    """Rows of a batch of each group: as stated, else ``otherwise``.

    Raises
    ------
    RecipeError
        If a size is stated for a group that the data do not have.
    """
    sizes = {name_text(name): size for name, size in stated.items()}
    texts = [name_text(name) for name, _ in groups]
    _refuse_strangers("feed.group_batch_size", sizes, texts)
    return np.array([sizes.get(text, otherwise) for text in texts], dtype=np.int64)


def _refuse_strangers(key: str, stated: Iterable[str], texts: list[str]) -> None:
    known = set(texts)
    for text in stated:
        if text not in known:
            near = difflib.get_close_matches(text, texts, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"groups: {', '.join(texts[:10])}"
            raise RecipeError(f"{key}: expected groups of the data, got {text}; {hint}")


def _shares_at(size: NDArray[np.int64] | NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    shares = np.zeros(size.shape[0])
    shares[size > 0] = temperature_shares(size[size > 0], tau)
    return shares


def _stated_shares(
    mixture: Shares, groups: Sequence[tuple[GroupValue, int]], size: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.float64]:
    key = f"feed.mixture.{mixture.unit}"
    stated = {name_text(name): float(value) for name, value in mixture.values.items()}
    texts = [name_text(name) for name, _ in groups]
    _refuse_strangers(key, stated, texts)
    missing = [text for text in texts if text not in stated]
    if missing:
        raise RecipeError(
            f"{key}: expected a value for every group, got none for {', '.join(missing[:10])}; state 0 to "
            "leave a group out"
        )
    for (_, rows), amount, text in zip(groups, size.tolist(), texts, strict=True):
        value = stated[text]
        if not 0 <= value < math.inf:
            raise RecipeError(f"{key}[{text}]: expected a number >= 0, got {value}; state 0 to leave a group out")
        if value > 0 and rows == 0:
            raise RecipeError(f"{key}[{text}]: expected 0 for a group without rows, got {value}")
        if value > 0 and not amount > 0:
            raise RecipeError(f"{key}[{text}]: expected 0 for a group whose feed.size sums to 0, got {value}")
    total = math.fsum(stated.values())
    if mixture.unit == "shares" and abs(total - 1) > 1e-6:
        raise RecipeError(f"{key}: expected a sum of 1, got {total:.9g}; use rows for parts that need not sum to 1")
    if not total > 0:
        raise RecipeError(f"{key}: expected a sum > 0, got {total:g}; give at least one group a value > 0")
    return np.array([stated[text] for text in texts]) / total
