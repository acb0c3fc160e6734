"""Tells what a trainer will see: lengths, shares over the training, repeats, and the rows of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from curation.feed.options import GroupValue
from curation.feed.plan import Plan


@dataclass(frozen=True)
class GroupPreview:
    """A group over the training.

    Attributes
    ----------
    name
        Name of the group.
    rows
        Rows that it has.
    shares
        Share of the rows drawn at each of the places [-].
    draws, row_share, size_share
        Draws in all, and what part of all draws and of all size (in the mean over its rows) that is [-].
    weights
        Weight of its rows at each of the places, with ``scalarize``; else None.
    least, mean, most
        How often a row of it is drawn; None is up to chance.
    """

    name: GroupValue
    rows: int
    shares: list[float]
    draws: float
    row_share: float
    size_share: float
    weights: list[float] | None
    least: int | None
    mean: float
    most: int | None


@dataclass(frozen=True)
class Drawn:
    """One row of a batch: its number among the draws of the training, where it stands, and what it weighs."""

    draw: int
    position: int
    group: GroupValue
    weight: float
    key: int


@dataclass(frozen=True)
class Preview:
    """What a trainer will see; ``places`` are batches: start, middle, end, and the first of every stretch."""

    facts: dict[str, Any]
    places: list[int]
    segments: list[dict[str, Any]]
    groups: list[GroupPreview]
    rows: list[Drawn]
    notes: list[str]


def preview(plan: Plan, step: int = 0, n_rows: int = 8) -> Preview:
    """Look at a plan.

    Parameters
    ----------
    plan
        The plan.
    step
        Batch whose first rows are wanted, counted over the training.
    n_rows
        How many of its rows, at most.

    Returns
    -------
    Preview
        Numbers of the plan alone; no row is read.

    Raises
    ------
    FeedError
        If there is no such batch.
    """
    epoch, number = plan.epoch_of(step)
    facts = {
        "rows": plan.n_rows,
        "batch_size": plan.batch_size,
        "epochs": plan.epochs,
        "draws_per_epoch": plan.epoch_draws,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.n_steps,
        "draws": plan.n_draws,
        "fingerprint": plan.fingerprint,
        "step": step,
        "epoch": epoch,
        "step_in_epoch": number,
        "step_rows": len(plan.batch(step)),
        "step_group": plan.group_of(step) if plan.unmixed else None,
    }
    places = sorted({0, (plan.n_steps - 1) // 2, plan.n_steps - 1, *plan.segment_steps()})
    segments = [
        {"first_step": first, "draws": segment.draws, "ess": segment.ess}
        for first, segment in zip(plan.segment_steps(), plan.segments, strict=True)
    ]
    return Preview(facts, places, segments, _groups(plan, places), _rows(plan, step, n_rows), plan.notes)


def remarks(plan: Plan) -> dict[str, list[str]]:
    """What the report of a build says of its plan, by topic."""
    found = {"notes": plan.notes}
    if plan.sized:
        found["drawn"] = [drawn_text(plan)]
    if plan.scalarize:
        worth = sum(segment.ess for segment in plan.segments)
        found["weights"] = [f"{plan.n_draws:,} weighted draws are worth {worth:,.0f} ({worth / plan.n_draws:.1%})"]
    return {topic: texts for topic, texts in found.items() if texts}


def drawn_text(plan: Plan, n_groups: int = 8) -> str:
    """Say which shares the whole training has of rows and of size, for the largest groups."""
    draws = plan.group_draws()
    total = sum(draws.values())
    in_size = plan.size_shares_of(draws)
    first = sorted(draws, key=lambda name: -draws[name])[:n_groups]
    parts = [f"{name} {draws[name] / total:.2%} of the rows, {in_size[name]:.2%} of the size" for name in first]
    return "; ".join(parts) + (f"; and {len(draws) - n_groups} more groups" if len(draws) > n_groups else "")


def _groups(plan: Plan, places: list[int]) -> list[GroupPreview]:
    shares = [plan.shares(place) for place in places]
    weights = [plan.weights(place) for place in places] if plan.scalarize else None
    draws, repeats, rows = plan.group_draws(), plan.repeats(), plan.group_rows()
    drawn = np.array(list(draws.values()))
    in_size = plan.size_shares_of(draws)
    found = []
    for name, of_all in zip(draws, (drawn / drawn.sum()).tolist(), strict=True):
        often = repeats.get(name)
        found.append(
            GroupPreview(
                name=name,
                rows=rows[name],
                shares=[share[name] for share in shares],
                draws=draws[name],
                row_share=of_all,
                size_share=in_size[name],
                weights=None if weights is None else [weight[name] for weight in weights],
                least=often.least if often else 0,
                mean=often.mean if often else 0.0,
                most=often.most if often else 0,
            )
        )
    return found


def _rows(plan: Plan, step: int, n_rows: int) -> list[Drawn]:
    positions = plan.batch(step)[:n_rows].tolist()
    weights, keys = plan.batch_weights(step).tolist(), plan.batch_keys(step).tolist()
    first = plan.first_draw(step)
    return [
        Drawn(first + i, position, plan.group_at(position), weights[i], keys[i]) for i, position in enumerate(positions)
    ]
