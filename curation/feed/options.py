"""What a recipe says under ``feed:``, and how a plan file writes it down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature

GroupValue = str | int | float | bool | None


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
    size
        Column in whose unit the shares of the mixture are meant; None is rows.
    max_repeats
        How often the rows of a group may be drawn over the training, at most; None is no limit.
    scalarize
        Draw in proportion to the rows, and weigh them so that the shares of the mixture hold.
    sample_by
        Column of weights in proportion to which rows are drawn; None is every row alike.
    batches
        ``unmixed``: every batch holds rows of one group.
    group_batch_size
        Rows of a batch of some groups, in the place of ``batch_size``; with unmixed batches.
    """

    batch_size: int
    epochs: int
    groups: str | None = None
    mixture: Temperature | Cooldown | Shares | None = None
    subset: RS2 | None = None
    drop_last: bool = False
    size: str | None = None
    max_repeats: float | None = None
    scalarize: bool = False
    sample_by: str | None = None
    batches: Literal["mixed", "unmixed"] = "mixed"
    group_batch_size: Mapping[GroupValue, int] | None = None

    @property
    def unmixed(self) -> bool:
        """Whether every batch holds rows of one group."""
        return self.batches == "unmixed"

    @property
    def stratified(self) -> bool:
        """Whether every epoch has the same number of rows of each group."""
        return self.subset is not None and self.subset.stratify not in (None, False)


def mixture_record(mixture: Temperature | Cooldown | Shares | None) -> dict[str, Any] | None:
    """Write down a mixture as the plan file holds it: ``use`` and its options, infinity as ``"inf"``."""
    if mixture is None:
        return None
    if isinstance(mixture, Shares):
        values = sorted((name_text(name), _number(value)) for name, value in mixture.values.items())
        return {"use": mixture.unit, "values": values}
    if isinstance(mixture, Temperature):
        return {"use": "temperature", "tau": _number(mixture.tau)}
    content = mixture.model_dump(by_alias=True, exclude=None if mixture.steps else {"steps", "unit"})
    if mixture.steps is not None:
        content = {"steps": [[place, _number(tau)] for place, tau in mixture.steps], "unit": mixture.unit}
    elif mixture.unit != "share":
        content["unit"] = mixture.unit
    return {"use": "cooldown"} | {key: _number(value) for key, value in content.items()}


def _number(value: Any) -> Any:
    """JSON has no infinity; everything else goes as it is (floats print exactly)."""
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def notes_of(record: Mapping[str, Any] | None) -> list[str]:
    """Say what a reader of the recipe should think over.

    Parameters
    ----------
    record
        From `mixture_record`.
    """
    if record is None or record["use"] != "cooldown":
        return []
    numbers = {key: [[place, float(tau)] for place, tau in v] if key == "steps" else v for key, v in record.items()}
    numbers |= {key: float(record[key]) for key in ("start", "end") if key in record}
    mixture = Cooldown.model_validate({key: value for key, value in numbers.items() if key != "use"})
    notes = []
    if mixture.gradual:
        notes.append(
            f"mixture.cooldown.shape {mixture.schedule} cools little by little; in the paper one switch (shape: step) "
            "did better than every gradual decay"
        )
    if mixture.heats:
        notes.append("mixture.cooldown heats: its temperature rises on the way; in the paper falling ones did better")
    return notes


def name_text(name: GroupValue) -> str:
    """Write the name of a group as JSON, as tables and keys have it."""
    return json.dumps(name, ensure_ascii=False)
