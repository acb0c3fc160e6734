"""Select keeps some columns, in the order they are named, or drops some."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from curation.methods.base import Params


class Select(Params):
    """Options of ``use: select``; exactly one of them is given."""

    columns: list[str] | None = Field(default=None, min_length=1, description="columns to keep, in this order")
    drop: list[str] | None = Field(default=None, min_length=1, description="columns to drop; the rest stay as they are")

    @model_validator(mode="after")
    def _one_of_them(self) -> Select:
        if (self.columns is None) == (self.drop is None):
            raise ValueError("expected exactly one of 'columns' and 'drop'")
        named = self.columns or self.drop or []
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice")
        return self


def selected_columns(names: Sequence[str], *, columns: list[str] | None, drop: list[str] | None) -> list[str]:
    """Columns that stay, in their new order.

    Parameters
    ----------
    names
        Columns of the table, in order.
    columns
        Columns to keep, in this order; None to drop instead.
    drop
        Columns to drop.

    Returns
    -------
    list of str
        ``columns`` as given, or ``names`` without ``drop``.

    Raises
    ------
    ValueError
        If a column to keep or to drop is not among ``names``.
    """
    wanted = columns if columns is not None else (drop or [])
    if missing := [name for name in wanted if name not in names]:
        key = "columns" if columns is not None else "drop"
        found = ", ".join(names) or "none"
        raise ValueError(f"{key}: expected names of columns, got '{missing[0]}'; the columns are {found}")
    return list(wanted) if columns is not None else [name for name in names if name not in wanted]
