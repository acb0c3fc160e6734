"""Writes a plan: options and groups, checked against each other, become a small file and its tables."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import RecipeError
from curation.feed.capped import capped_shares
from curation.feed.misfits import check_options
from curation.feed.mixture import WINDOW, Mixture
from curation.feed.options import FeedOptions, GroupValue, mixture_record, name_text
from curation.feed.permutation import ALGORITHM, N_MAX, derive_key
from curation.feed.planfile import FORMAT, fingerprint_of, table_digest
from curation.feed.segments import Places, Segments, groups_table, segments, stated_sizes
from curation.feed.weighted import write_weights
from curation.methods.rs2 import RS2, stratum_sizes, subset_size

_CAP_TRIES = 64


def write_plan(
    path: Path,
    *,
    options: FeedOptions,
    groups: Sequence[tuple[GroupValue, int]],
    seed: int,
    name: str,
    sizes: Sequence[float] | None = None,
    weights: Sequence[NDArray[np.float64]] | None = None,
) -> dict[str, Any]:
    """Write a plan file and the tables that it names.

    Parameters
    ----------
    path
        The JSON file to write, such as ``meta/<build id>/plan.json``; ``plan-groups.arrow`` and, with a
        mixture, ``plan-segments.arrow`` go beside it.
    options
        What the recipe says.
    groups
        Name and number of rows of each group, in the order of the stored table; one entry ``(None, rows)`` if
        ``options.groups`` is None.
    seed
        Seed of the recipe, in [0, 2**64).
    name
        Name of the feed; part of every key, so that two outputs of one recipe have unrelated orders.
    sizes : (n_groups,)
        Sum of the column ``options.size`` in each group, >= 0; needed if that is given.
    weights
        Column ``options.sample_by``, >= 0, in the order of the stored table, in parts; needed if that is given.

    Returns
    -------
    dict
        The content of the JSON file.

    Raises
    ------
    RecipeError
        If the options do not fit each other or the groups.
    """
    check_options(options, groups)
    derive_key(seed, name)  # refuses what cannot be a key before anything is written
    n_rows = sum(rows for _, rows in groups)
    subset = options.subset or RS2(fraction=1.0)
    epoch_draws = subset_size(n_rows, subset.fraction)
    _refuse_lengths(options, n_rows, epoch_draws)
    amounts = None if options.size is None else _amounts(options.size, groups, sizes)
    body: dict[str, Any] = {
        "plan": FORMAT,
        "algorithm": ALGORITHM,
        "name": name,
        "seed": seed,
        "n_rows": n_rows,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "epoch_draws": epoch_draws,
        "drop_last": options.drop_last,
        "groups": options.groups,
        "mixture": mixture_record(options.mixture),
        "subset": {"use": "rs2"} | subset.model_dump(exclude=None if options.stratified else {"stratify"}),
        "window": WINDOW,
        "tables": {},
    }
    tables = {"groups": groups_table(groups, amounts)}
    if options.mixture is not None or options.unmixed:
        body |= _schedule(options, groups, epoch_draws, amounts, tables)
    elif options.max_repeats is not None:
        body |= {"max_repeats": options.max_repeats, "capped": []}
        _refuse_repeats(options, epoch_draws, np.array([n_rows]))
    # new options enter the body, and so the fingerprint, only where they are used
    for key in ("size", "sample_by"):
        if getattr(options, key) is not None:
            body[key] = getattr(options, key)
    if options.scalarize:
        body["scalarize"] = True
    if options.stratified:
        _check_strata(groups, subset.fraction)
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.sample_by is not None:
        body["tables"] |= _weights_tables(path, options.sample_by, weights, n_rows, epoch_draws)
    for kind, table in tables.items():
        file = path.with_name(f"{path.stem}-{kind}.arrow")
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        body["tables"][kind] = {"file": file.name, "digest": table_digest(table)}
    body["fingerprint"] = fingerprint_of(body)
    # last and in one step: a plan is there when its JSON file is
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return body


def _refuse_lengths(options: FeedOptions, n_rows: int, epoch_draws: int) -> None:
    if options.drop_last and epoch_draws < options.batch_size and not options.unmixed:
        raise RecipeError(
            f"feed.drop_last: expected epochs of at least one batch, got {epoch_draws} draws with batch_size "
            f"{options.batch_size}; lower batch_size, or set drop_last: false"
        )
    if options.epochs * n_rows >= N_MAX:
        raise RecipeError(f"feed.epochs: expected epochs * rows < 2**62, got {options.epochs} * {n_rows}; lower epochs")


def _amounts(
    column: str, groups: Sequence[tuple[GroupValue, int]], sizes: Sequence[float] | None
) -> NDArray[np.float64]:
    if sizes is None or len(sizes) != len(groups):
        raise ValueError(f"sizes: expected one sum of {column} per group, got {sizes}")
    for (name, _), size in zip(groups, sizes, strict=True):
        if not 0 <= size < math.inf:
            raise RecipeError(
                f"feed.size: expected sizes >= 0, got {size} in group {name_text(name)}; filter such rows"
            )
    if not math.fsum(sizes) > 0:
        raise RecipeError(f"feed.size: expected a sum > 0 of column {column}, got 0; name another column")
    return np.array(sizes, dtype=np.float64)


def _weights_tables(
    path: Path, column: str, weights: Sequence[NDArray[np.float64]] | None, n_rows: int, epoch_draws: int
) -> dict[str, Any]:
    if weights is None or sum(map(len, weights)) != n_rows:
        raise ValueError(f"weights: expected the column {column} of {n_rows} rows, got other rows")
    names = {kind: f"{path.stem}-{kind}.arrow" for kind in ("weights", "buckets")}
    try:
        digests = write_weights(path.parent, names, weights, epoch_draws)
    except ValueError as error:
        raise RecipeError(
            f"feed.sample_by: expected a finite sum > 0 of column {column}, but {error}; name another column"
        ) from error
    return {kind: {"file": names[kind], "digest": digests[kind]} for kind in names}


def _schedule(
    options: FeedOptions,
    groups: Sequence[tuple[GroupValue, int]],
    epoch_draws: int,
    amounts: NDArray[np.float64] | None,
    tables: dict[str, pa.Table],
) -> dict[str, Any]:
    """Segments of a mixture or of unmixed batches, capped; returns what the body says of them."""
    rows = np.array([n for _, n in groups], dtype=np.int64)
    n_draws = options.epochs * epoch_draws
    per_epoch = epoch_draws // options.batch_size if options.drop_last else -(-epoch_draws // options.batch_size)

    def first_draw(step: int) -> int:
        epoch, number = divmod(step, per_epoch)
        return epoch * epoch_draws + number * options.batch_size

    places = Places(n_draws, options.epochs * per_epoch, first_draw)
    if options.unmixed:
        places = Places(
            n_draws, options.epochs * per_epoch, lambda step: step * n_draws // (options.epochs * per_epoch)
        )
    found = Segments(np.array([0, n_draws], dtype=np.int64), (rows / rows.sum())[None, :])
    if options.mixture is not None:
        found = segments(options.mixture, groups, places, amounts)
    body: dict[str, Any] = {}
    units = np.ones(len(groups), dtype=np.int64)
    if options.unmixed:
        units = stated_sizes(options.group_batch_size or {}, groups, options.batch_size)
        found, steps_per_epoch = _in_batches(found, units, options.epochs, drop_last=options.drop_last)
        body |= {"batches": "unmixed", "steps_per_epoch": steps_per_epoch}
        if options.group_batch_size is not None:
            given = sorted((name_text(name), size) for name, size in options.group_batch_size.items())
            body["group_batch_size"] = [[text, size] for text, size in given]
    if options.max_repeats is not None:
        body |= {"max_repeats": options.max_repeats, "capped": []}
        _refuse_repeats(options, epoch_draws, rows[(found.shares > 0).any(axis=0)])
        if not options.scalarize:
            asked, found = found, _cap(found, options.max_repeats, rows, units)
            body["capped"] = _bitten(asked, found, groups, units)
    tables["segments"] = found.table()
    return body


def _in_batches(found: Segments, units: NDArray[np.int64], epochs: int, *, drop_last: bool) -> tuple[Segments, int]:
    """Count segments and shares in batches; an epoch has the number of batches that come nearest to its draws."""
    per_draw = (found.shares / units).sum(axis=1)  # batches
    ends = np.concatenate([[0.0], np.cumsum(np.diff(found.boundaries) * per_draw)])
    exact = ends[-1] / epochs
    near = round(exact)
    if abs(exact - near) < 1e-9 * max(1, near):
        per_epoch = near
    else:
        per_epoch = math.floor(exact) if drop_last else math.ceil(exact)
    if per_epoch < 1:
        raise RecipeError(
            f"feed.drop_last: expected epochs of at least one batch, got {exact:.3g} batches; lower batch_size, or set "
            "drop_last: false"
        )
    boundaries = np.floor(ends * (epochs * per_epoch / ends[-1]) + 0.5).astype(np.int64)
    shares = found.shares if np.ptp(units) == 0 else found.shares / units / per_draw[:, None]
    kept = np.diff(boundaries) > 0  # in a short training a stretch may hold no batch
    return Segments(np.append(boundaries[:-1][kept], boundaries[-1]), shares[kept]), per_epoch


def _refuse_repeats(options: FeedOptions, epoch_draws: int, rows: NDArray[np.int64]) -> None:
    """Refuse a cap that the rows with a share cannot keep."""
    cap = options.max_repeats or 0.0
    demand, capacity = options.epochs * epoch_draws, int(np.floor(cap * rows).sum())
    if capacity < demand:
        raise RecipeError(
            f"feed.max_repeats: expected room for {demand} draws, got {capacity} ({cap:g} times each of {rows.sum()} "
            "rows that are drawn at all); raise it, or lower epochs or the fraction"
        )


def _cap(found: Segments, max_repeats: float, rows: NDArray[np.int64], units: NDArray[np.int64]) -> Segments:
    """Cut the shares until the counts of the plan keep the cap to the row."""
    draws = np.diff(found.boundaries)
    most = np.floor(np.floor(max_repeats * rows) / units)
    caps, shares = most.copy(), found.shares
    for _ in range(_CAP_TRIES):
        try:
            shares = capped_shares(found.shares, draws, caps)
        except ValueError as error:
            unit = "batches" if units.max() > 1 else "draws"
            raise RecipeError(
                f"feed.max_repeats: expected room for {draws.sum()} {unit}, got {most.sum():.0f} ({max_repeats:g} "
                f"times each row): {error}; raise max_repeats, or lower epochs or the fraction"
            ) from error
        over = Mixture.from_shares(found.boundaries, shares).base[-1] - most
        if (over <= 0).all():
            return Segments(found.boundaries, shares)
        # rounding gave a row too much; aim that much lower
        caps = np.where(over > 0, caps - over, caps)
    raise RecipeError(
        f"feed.max_repeats: expected shares that keep {max_repeats:g} to the row, got one too many in group "
        f"{int(over.argmax())}; raise max_repeats a little"
    )


def _bitten(
    asked: Segments, given: Segments, groups: Sequence[tuple[GroupValue, int]], units: NDArray[np.int64]
) -> list[list[Any]]:
    """Name, draws asked for and draws given of each group that the cap bites."""
    if given.shares is asked.shares:
        return []
    draws = np.diff(asked.boundaries)
    before = draws @ asked.shares * units
    after = Mixture.from_shares(given.boundaries, given.shares).base[-1] * units
    less = (draws @ given.shares * units) < before * (1 - 1e-9)
    return [[name_text(groups[g][0]), float(before[g]), int(after[g])] for g in np.flatnonzero(less).tolist()]


def _check_strata(groups: Sequence[tuple[GroupValue, int]], fraction: float) -> None:
    rows = np.array([n for _, n in groups], dtype=np.int64)
    empty = np.flatnonzero((stratum_sizes(rows, fraction) == 0) & (rows > 0)).tolist()
    if empty:
        shown = ", ".join(f"{name_text(groups[g][0])} ({rows[g]} rows)" for g in empty[:10])
        raise RecipeError(
            f"feed.subset.stratify: expected at least 1 row of every group in an epoch, got none of {shown}; raise "
            "fraction, or use mixture: {temperature: 1}, which draws small groups every few epochs"
        )
