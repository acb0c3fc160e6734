"""What a recipe says under ``feed:``, checked against the groups of the data and turned into tables."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import RecipeError
from curation.methods.cooldown import MAX_SEGMENTS, Cooldown, cooldown_segments
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature, temperature_shares

GroupValue = str | int | float | bool | None

_MAX_CELLS = 1 << 22  # segments x groups: 32 MiB of shares; with more groups a gradual schedule gets fewer segments


@dataclass(frozen=True)
class Shares:
    """Options of ``mixture: {shares: ...}`` and ``mixture: {rows: ...}``.

    Attributes
    ----------
    unit
        ``shares``: parts of 1, with sum 1 within 1e-6. ``rows``: row counts whose ratios are the shares; the
        length of an epoch stays what it is.
    values
        Share or row count of every group in the data; a group that is to be left out must be named with 0.
    """

    unit: Literal["shares", "rows"]
    values: Mapping[GroupValue, float]


@dataclass(frozen=True)
class FeedOptions:
    """What the recipe says under ``feed:``.

    Attributes
    ----------
    batch_size
        Rows of the global batch, over all ranks, >= 1.
    epochs
        Epochs of the training, >= 1.
    groups
        Column that names the group of a row, or None.
    mixture
        Shares of the groups; None is proportional, all rows as one virtual group.
    subset
        Part of the rows that an epoch draws; None is all of them.
    drop_last
        Leave out the last batch of an epoch if it is not full.
    """

    batch_size: int
    epochs: int
    groups: str | None = None
    mixture: Temperature | Cooldown | Shares | None = None
    subset: RS2 | None = None
    drop_last: bool = False


def check_options(options: FeedOptions, groups: Sequence[tuple[GroupValue, int]]) -> None:
    """Refuse options that fit neither each other nor the groups.

    Parameters
    ----------
    options
        What the recipe says.
    groups
        Name and rows of each group.

    Raises
    ------
    RecipeError
        With the key, what was expected and what to do.
    """
    for key in ("batch_size", "epochs"):
        if getattr(options, key) < 1:
            raise RecipeError(f"feed.{key}: expected >= 1, got {getattr(options, key)}")
    texts = [_text(name) for name, _ in groups]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise RecipeError(
            f"feed.groups: expected each group once, got {twice} twice; write the table group after group"
        )
    for text, (_, rows) in zip(texts, groups, strict=True):
        if rows < 0:
            raise RecipeError(f"feed.groups: expected rows >= 0, got {rows} in group {text}")
    if sum(rows for _, rows in groups) < 1:
        raise RecipeError("feed: expected at least 1 row, got an empty table; loosen the filters before it")
    if options.mixture is not None:
        _check_mixture_fits(options)


def _check_mixture_fits(options: FeedOptions) -> None:
    if options.groups is None:
        raise RecipeError("feed.mixture: expected groups, got none; set feed.groups to the column that names the group")
    if options.subset is not None and options.subset.replacement:
        raise RecipeError("feed.subset.replacement: expected false with a mixture, got true; drop one of the two")
    if options.subset is not None and options.subset.tail != "carry":
        raise RecipeError(
            f"feed.subset.tail: expected carry with a mixture, got {options.subset.tail}; the cursors of a "
            "mixture go on "
            "from epoch to epoch, so that no rows are left over"
        )


def mixture_record(mixture: Temperature | Cooldown | Shares | None) -> dict[str, Any] | None:
    """Write down a mixture as the plan file holds it: ``use`` and its options, infinity as ``"inf"``."""
    if mixture is None:
        return None
    if isinstance(mixture, Shares):
        values = sorted((_text(name), _number(value)) for name, value in mixture.values.items())
        return {"use": mixture.unit, "values": values}
    use = "temperature" if isinstance(mixture, Temperature) else "cooldown"
    return {"use": use} | {key: _number(value) for key, value in mixture.model_dump(by_alias=True).items()}


def _number(value: Any) -> Any:
    """JSON has no infinity; everything else goes as it is (floats print exactly)."""
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def groups_table(groups: Sequence[tuple[GroupValue, int]]) -> pa.Table:
    """Tabulate the groups: ``group`` (JSON text), ``offset`` and ``rows`` (int64), in layout order."""
    rows = np.array([n for _, n in groups], dtype=np.int64)
    return pa.table(
        {
            "group": pa.array([_text(name) for name, _ in groups], pa.string()),
            "offset": np.cumsum(rows) - rows,
            "rows": rows,
        }
    )


def segments_table(
    mixture: Temperature | Cooldown | Shares, groups: Sequence[tuple[GroupValue, int]], n_draws: int
) -> pa.Table:
    """Tabulate the stretches of constant shares.

    Parameters
    ----------
    mixture
        Rule of the shares.
    groups
        Name and rows of each group.
    n_draws
        Draws of the whole training.

    Returns
    -------
    pa.Table
        ``start`` (int64, first draw) and ``shares`` (fixed-size list of float64, in the order of ``groups``).

    Raises
    ------
    RecipeError
        If stated shares do not fit the groups, or the training is too short for a schedule.
    """
    rows = np.array([n for _, n in groups], dtype=np.int64)
    starts = np.zeros(1, dtype=np.int64)
    if isinstance(mixture, Shares):
        shares = _stated_shares(mixture, groups)[None, :]
    elif isinstance(mixture, Temperature):
        shares = _shares_at(rows, mixture.tau)[None, :]
    else:
        if n_draws < 2:
            raise RecipeError(f"feed.mixture.cooldown: expected >= 2 draws, got {n_draws}; use temperature instead")
        boundaries, temperatures = cooldown_segments(
            n_draws,
            start=mixture.start,
            end=mixture.end,
            at=mixture.at,
            schedule=mixture.schedule,
            max_segments=max(2, min(MAX_SEGMENTS, _MAX_CELLS // len(groups))),
        )
        starts = boundaries[:-1]
        shares = np.stack([_shares_at(rows, tau) for tau in temperatures.tolist()])
    column = pa.FixedSizeListArray.from_arrays(pa.array(shares.ravel()), len(groups))
    return pa.table({"start": starts, "shares": column})


def _shares_at(rows: NDArray[np.int64], tau: float) -> NDArray[np.float64]:
    shares = np.zeros(rows.shape[0])
    shares[rows > 0] = temperature_shares(rows[rows > 0], tau)
    return shares


def _stated_shares(mixture: Shares, groups: Sequence[tuple[GroupValue, int]]) -> NDArray[np.float64]:
    key = f"feed.mixture.{mixture.unit}"
    stated = {_text(name): float(value) for name, value in mixture.values.items()}
    texts = [_text(name) for name, _ in groups]
    known = set(texts)
    for text in stated:
        if text not in known:
            near = difflib.get_close_matches(text, texts, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"groups: {', '.join(texts[:10])}"
            raise RecipeError(f"{key}: expected groups of the data, got {text}; {hint}")
    missing = [text for text in texts if text not in stated]
    if missing:
        raise RecipeError(
            f"{key}: expected a value for every group, got none for {', '.join(missing[:10])}; state 0 to "
            "leave a group out"
        )
    for (_, rows), text in zip(groups, texts, strict=True):
        value = stated[text]
        if not 0 <= value < math.inf:
            raise RecipeError(f"{key}[{text}]: expected a number >= 0, got {value}; state 0 to leave a group out")
        if value > 0 and rows == 0:
            raise RecipeError(f"{key}[{text}]: expected 0 for a group without rows, got {value}")
    total = math.fsum(stated.values())
    if mixture.unit == "shares" and abs(total - 1) > 1e-6:
        raise RecipeError(f"{key}: expected a sum of 1, got {total:.9g}; use rows for parts that need not sum to 1")
    if not total > 0:
        raise RecipeError(f"{key}: expected a sum > 0, got {total:g}; give at least one group a value > 0")
    return np.array([stated[text] for text in texts]) / total


def _text(name: GroupValue) -> str:
    return json.dumps(name, ensure_ascii=False)
