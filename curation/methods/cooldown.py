"""Cooldown heats the mixture first, so that small groups are seen early, and cools it later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from curation.methods.base import Params, Shape

MAX_SEGMENTS = 256
"""Stretches of constant shares that a gradual schedule is cut into, at most."""

Schedule = Literal["step", "linear", "cosine", "exponential"]
Unit = Literal["share", "steps", "rows"]


class Cooldown(Params):
    """Options of ``mixture: {cooldown: ...}``."""

    model_config = ConfigDict(populate_by_name=True)
    shape: ClassVar[Shape] = "plan"

    start: float = Field(default=5.0, gt=0.0, description="temperature at first; the paper uses 5")
    end: float = Field(default=1.0, gt=0.0, description="temperature at last; 1 is the shares of the data")
    at: float = Field(default=0.5, gt=0.0, description="place in the training, in `unit`, from which on `end` holds")
    # `shape` in the recipe; another name here, since every Params has the shape of its stage under that one
    schedule: Schedule = Field(
        default="step",
        alias="shape",
        description="how the temperature falls: step (one switch) | linear | cosine | exponential",
    )

    steps: list[list[float]] | None = Field(
        default=None,
        min_length=1,
        description="instead of the others: [place, temperature] of every switch, the first at 0",
    )
    unit: Unit = Field(
        default="share", description="of `at` and of the places of `steps`: share of the training | steps | rows"
    )

    @model_validator(mode="after")
    def _fits(self) -> Cooldown:
        if fault := cooldown_fault(self.start, self.end, self.at, self.schedule, self.steps, self.unit):
            raise ValueError(fault)
        if self.steps is not None and (given := sorted(self.model_fields_set - {"steps", "unit"})):
            raise ValueError(f"expected steps alone, got {', '.join(given)} as well; leave them out")
        return self

    @property
    def gradual(self) -> bool:
        """Whether the temperature changes little by little."""
        return self.steps is None and self.schedule != "step"

    @property
    def heats(self) -> bool:
        """Whether the temperature ever rises."""
        temperatures = [self.start, self.end] if self.steps is None else [tau for _, tau in self.steps]
        return any(a < b for a, b in pairwise(temperatures))


def cooldown_fault(
    start: float, end: float, at: float, schedule: Schedule, steps: Sequence[Sequence[float]] | None, unit: Unit
) -> str:
    """Say what is wrong with the options of a cooldown, as far as that needs no data.

    Parameters
    ----------
    start, end, at, schedule, steps, unit
        As in `Cooldown`.

    Returns
    -------
    str
        What was expected, what was found and what to do; empty if nothing is wrong.
    """
    if schedule != "step" and not (math.isfinite(start) and math.isfinite(end)):
        return (
            f"start, end: expected finite temperatures with shape {schedule}, got {start}, {end}; use shape: step, or "
            "a large number such as 100"
        )
    places = [at] if steps is None else [step[0] for step in steps if len(step) == 2]
    if steps is not None:
        if len(places) < len(steps):
            return f"steps: expected [place, temperature] each, got {next(list(s) for s in steps if len(s) != 2)}"
        if places[0] != 0:
            return f"steps: expected the first at 0, got {places[0]:g}; say which temperature the training begins with"
        if not all(a < b for a, b in pairwise(places)):
            return f"steps: expected places that ascend, got {', '.join(f'{place:g}' for place in places)}"
        if wrong := [tau for _, tau in steps if not tau > 0]:
            return f"steps: expected temperatures > 0, got {wrong[0]:g}; use 1 for the shares of the data"
    if unit == "share" and not max(places) < 1:
        return f"expected shares of the training < 1, got {max(places):g}; say unit: steps or unit: rows for numbers"
    if unit != "share" and (wrong := [place for place in places if place != int(place)]):
        return f"expected whole numbers with unit: {unit}, got {wrong[0]:g}; leave unit out for shares of the training"
    return ""


def cooldown_temperature(
    progress: NDArray[np.float64], *, start: float, end: float, at: float, schedule: Schedule
) -> NDArray[np.float64]:
    r"""Temperature at some shares of the training.

    With :math:`x = \min(progress / at, 1)`: ``step`` is ``start`` while :math:`x < 1` and ``end`` from then
    on; ``linear`` is :math:`start + (end - start) x`, ``cosine`` :math:`end + (start - end)(1 + \cos \pi x) /
    2`, ``exponential`` :math:`start (end / start)^x`. So every schedule reaches ``end`` at ``at`` and keeps
    it.

    Parameters
    ----------
    progress : (k,)
        Share of the training that is over, in [0, 1] [-].
    start, end
        Temperatures, > 0 [-]; finite unless the schedule is ``step``.
    at
        Share of the training at which ``end`` is reached, in (0, 1) [-].
    schedule
        The way from ``start`` to ``end``.

    Returns
    -------
    (k,)
        Temperatures between ``start`` and ``end`` [-].

    Raises
    ------
    ValueError
        If a temperature is not > 0, or infinite in a gradual schedule, or ``at`` is not inside (0, 1).

    Source
    ------
    Li et al., Upsample or Upweight? (NAACL 2025), section 4: ``step``. The gradual schedules are drawn there
    in a figure only; the formulas are ours.

    Examples
    --------
    >>> cooldown_temperature(np.array([0.0, 0.25, 0.5]), start=5, end=1, at=0.5, schedule="linear").tolist()
    [5.0, 3.0, 1.0]
    """
    _check(start, end, at, schedule)
    x = np.minimum(np.asarray(progress, dtype=np.float64) / at, 1.0)
    if schedule == "step":
        tau = np.where(x < 1.0, start, end)
    elif schedule == "linear":
        tau = start + (end - start) * x
    elif schedule == "cosine":
        tau = end + (start - end) * 0.5 * (1.0 + np.cos(np.pi * x))
    else:
        tau = start * np.exp(x * math.log(end / start))
    # rounding must not leave [end, start]: a temperature just below 1 would sharpen where 1 was asked for
    clipped: NDArray[np.float64] = np.where(x < 1.0, np.clip(tau, min(start, end), max(start, end)), end)
    return clipped


def cooldown_segments(
    n_draws: int,
    *,
    start: float,
    end: float,
    at: float,
    schedule: Schedule,
    max_segments: int = MAX_SEGMENTS,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Stretches of constant temperature that stand for a schedule over a training of ``n_draws`` draws.

    ``step`` gives two. A gradual schedule gives equal stretches up to ``at``, each with the temperature at
    its middle, and one more for the rest.

    Parameters
    ----------
    n_draws
        Draws of the whole training, >= 2 [draws].
    start, end, at, schedule
        As in `cooldown_temperature`.
    max_segments
        Upper bound of the number of stretches, >= 2.

    Returns
    -------
    boundaries : (n_segments + 1,)
        Segment i is draws ``boundaries[i]`` to ``boundaries[i + 1]``; strictly increasing, from 0 to
        ``n_draws``.
    temperatures : (n_segments,)
        Temperature of each segment [-].

    Raises
    ------
    ValueError
        As `cooldown_temperature`, and if ``n_draws`` or ``max_segments`` is below 2.

    Source
    ------
    See `cooldown_temperature`.

    Examples
    --------
    >>> boundaries, temperatures = cooldown_segments(60_000, start=5, end=1, at=0.5, schedule="step")
    >>> boundaries.tolist(), temperatures.tolist()
    ([0, 30000, 60000], [5.0, 1.0])
    """
    _check(start, end, at, schedule)
    if n_draws < 2:
        raise ValueError(f"n_draws: expected >= 2, got {n_draws}; a schedule needs one draw on each side of its switch")
    if max_segments < 2:
        raise ValueError(f"max_segments: expected >= 2, got {max_segments}; use temperature instead of cooldown")
    switch = min(max(math.floor(at * n_draws + 0.5), 1), n_draws - 1)
    if schedule == "step":
        return np.array([0, switch, n_draws], dtype=np.int64), np.array([start, end], dtype=np.float64)
    n_ramp = min(max_segments - 1, switch)
    # Python integers: i * switch passes 2**63 for long trainings
    edges = [i * switch // n_ramp for i in range(n_ramp + 1)]
    boundaries = np.array([*edges, n_draws], dtype=np.int64)
    middle = (boundaries[:-2] + 0.5 * (boundaries[1:-1] - boundaries[:-2])) / switch * at
    tau = cooldown_temperature(middle, start=start, end=end, at=at, schedule=schedule)
    return boundaries, np.append(tau, np.float64(end))


def step_segments(
    n_draws: int, starts: Sequence[int], temperatures: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Stretches of constant temperature between switches at given draws.

    Parameters
    ----------
    n_draws
        Draws of the whole training, >= 1 [draws].
    starts : (n,)
        First draw of each temperature, not descending, the first 0.
    temperatures : (n,)
        Temperatures, > 0 [-].

    Returns
    -------
    boundaries : (n_segments + 1,)
        As `cooldown_segments`. Of switches that fall on one draw, in a short training, the last holds.
    temperatures : (n_segments,)
        Temperature of each segment [-].

    Raises
    ------
    ValueError
        If the starts do not ascend from 0.

    Source
    ------
    See `cooldown_temperature`; the paper switches once.

    Examples
    --------
    >>> boundaries, temperatures = step_segments(100, [0, 50, 80], [5, 2, 1])
    >>> boundaries.tolist(), temperatures.tolist()
    ([0, 50, 80, 100], [5.0, 2.0, 1.0])
    """
    if not starts or starts[0] != 0 or any(a > b for a, b in pairwise(starts)):
        raise ValueError(f"starts: expected draws that ascend from 0, got {list(starts)}")
    last = {start: tau for start, tau in zip(starts, temperatures, strict=True) if start < n_draws}
    return np.array([*last, n_draws], dtype=np.int64), np.array(list(last.values()), dtype=np.float64)


def _check(start: float, end: float, at: float, schedule: Schedule) -> None:
    for name, tau in (("start", start), ("end", end)):
        if not tau > 0:
            raise ValueError(f"{name}: expected > 0, got {tau}; use 1 for the shares of the data")
        if schedule != "step" and math.isinf(tau):
            raise ValueError(f"{name}: expected a finite temperature with {schedule}, got {tau}; use step, or 100")
    if not 0 < at < 1:
        raise ValueError(f"at: expected 0 < at < 1, got {at}; give the share of the training, such as 0.5")
