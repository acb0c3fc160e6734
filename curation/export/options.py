"""What is asked of an export, checked against the build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from curation.errors import CurationError, RecipeError
from curation.feed.plan import Plan
from curation.io.manifest import Manifest

FORMATS = ("webdataset", "mds", "parquet", "arrow")

Order = Literal["plan", "stored"]


class ExportError(CurationError):
    """The rows cannot be exported as asked."""


@dataclass(frozen=True)
class ExportOptions:
    """What is exported.

    Attributes
    ----------
    format
        One of ``FORMATS``.
    epochs
        Epochs of the plan, start <= epoch < stop; None is all of them if there are ``steps``.
    steps
        Steps counted over the whole training, start <= step < stop; with ``epochs`` those of them that lie in both.
    order
        ``plan``, or ``stored``: every row once, in the order of the shards. None is ``plan`` with ``epochs`` or
        ``steps``, and ``stored`` for a build without a plan.
    columns
        Columns, in this order; None is all.
    shard_rows
        Rows of a shard, the last one has the rest; None is about ``SHARD_BYTES``, at most ``SHARD_ROWS``.
    mark
        Add ``_epoch`` and ``_step`` (int64).
    """

    format: str
    epochs: tuple[int, int] | None = None
    steps: tuple[int, int] | None = None
    order: Order | None = None
    columns: Sequence[str] | None = None
    shard_rows: int | None = None
    mark: bool = False


def order_of(manifest: Manifest, plan: Plan | None, options: ExportOptions) -> Order:
    """Order that is asked for; refuses one that there is not, and a whole training that nobody asked for."""
    if options.format not in FORMATS:
        raise RecipeError(f"format: expected one of {', '.join(FORMATS)}, got {options.format!r}")
    if options.shard_rows is not None and options.shard_rows < 1:
        raise RecipeError(f"shard_rows: expected >= 1, got {options.shard_rows}")
    asked = options.epochs is not None or options.steps is not None
    order: Order = options.order or ("plan" if asked or plan is not None else "stored")
    if order == "stored":
        if asked or options.mark:
            raise RecipeError("order: expected plan with epochs, steps or marks, got stored; leave them out")
    elif plan is None:
        raise RecipeError(
            f"{manifest.root}: no plan to take the order from; add a `feed:` and build again, or say stored"
        )
    elif not asked:
        raise RecipeError(
            f"epochs: expected some of the {plan.epochs} epochs ({plan.n_draws:,} rows in all), such as 0:1, got none; "
            "for each row once, in the order of the shards, say stored"
        )
    return order


def schema_of(manifest: Manifest, options: ExportOptions) -> pa.Schema:
    """Columns of the build that are asked for, in that order."""
    schema = manifest.schema.remove_metadata()
    names = schema.names if options.columns is None else list(options.columns)
    for name in names:
        if name not in schema.names:
            raise RecipeError(
                f"columns: expected columns of the build, got {name!r}; there are {', '.join(schema.names)}"
            )
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"columns: expected at least one, each once, got {', '.join(names) or 'none'}")
    return pa.schema([schema.field(name) for name in names])


def steps_of(plan: Plan, options: ExportOptions) -> tuple[int, int]:
    """Steps that are asked for, counted over the training: start <= step < stop."""
    first, last = options.epochs or (0, plan.epochs)
    if not 0 <= first < last <= plan.epochs:
        raise RecipeError(f"epochs: expected 0 <= start < stop <= {plan.epochs}, got {first}:{last}")
    start, stop = options.steps or (0, plan.n_steps)
    if not 0 <= start < stop <= plan.n_steps:
        raise RecipeError(f"steps: expected 0 <= start < stop <= {plan.n_steps}, got {start}:{stop}")
    both = max(start, plan.first_step(first)), min(stop, plan.first_step(last))
    if both[0] >= both[1]:
        within = f"{plan.first_step(first)}:{plan.first_step(last)}"
        raise RecipeError(f"steps: expected some of {within}, the steps of epochs {first}:{last}, got {start}:{stop}")
    return both
