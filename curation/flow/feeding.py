"""From the recipe's ``feed:`` to the options of a plan, and to what can be checked of them before any data is read."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pyarrow as pa

from curation.feed.misfits import misfits
from curation.feed.options import FeedOptions, Shares, mixture_record, notes_of
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature
from curation.recipe.model import FeedSpec, Mixture
from curation.stages.base import Fault
from curation.stages.columns import missing


def feed_options(spec: FeedSpec) -> FeedOptions:
    """Options of :func:`curation.feed.plan.write_plan` that a ``feed:`` asks for."""
    subset = None if spec.subset is None else RS2(**spec.subset.model_dump(exclude={"use"}))
    return FeedOptions(
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        groups=spec.groups,
        mixture=None if spec.mixture is None else _mixture(spec.mixture),
        subset=subset,
        drop_last=spec.drop_last,
        size=spec.size,
        max_repeats=spec.max_repeats,
        scalarize=spec.scalarize,
        sample_by=spec.sample_by,
        batches=spec.batches,
        group_batch_size=None if spec.group_batch_size is None else dict(spec.group_batch_size.items()),
    )


def feed_faults(spec: FeedSpec, schema: pa.Schema) -> Iterator[Fault]:
    """Find what is wrong with a ``feed:``, whatever the rows: options that do not fit, columns that cannot serve.

    Parameters
    ----------
    spec
        What the recipe says.
    schema
        Columns of the output.
    """
    for misfit in misfits(feed_options(spec)):
        yield Fault(misfit.key, misfit.message, misfit.hint)
    for key, column in (("size", spec.size), ("sample_by", spec.sample_by)):
        if column is None:
            continue
        fault = missing(schema, column, (key,))
        if fault is not None:
            yield fault
            continue
        kind = schema.field(column).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            yield Fault((key,), f"column {column!r} is {kind}, not a number", "derive a column of numbers")


def feed_notes(spec: FeedSpec | None) -> list[str]:
    """What a reader of a ``feed:`` should think over."""
    return [] if spec is None else notes_of(mixture_record(feed_options(spec).mixture))


def _mixture(mixture: Mixture) -> Temperature | Cooldown | Shares | None:
    if mixture.temperature is not None:
        return Temperature(tau=mixture.temperature)
    if mixture.alpha is not None:
        return Temperature(tau=1 / mixture.alpha if mixture.alpha else math.inf)
    if mixture.shares is not None:
        return Shares("shares", dict(mixture.shares.items()))
    if mixture.rows is not None:
        return Shares("rows", dict(mixture.rows.items()))
    if mixture.cooldown is not None:
        # only what was given: `steps` is refused beside the others, also beside their defaults
        return Cooldown(**mixture.cooldown.model_dump(exclude_unset=True))
    return None
