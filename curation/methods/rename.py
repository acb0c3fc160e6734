"""Rename gives columns new names and leaves their order and values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from curation.methods.base import Params


class Rename(Params):
    """Options of ``use: rename``."""

    columns: dict[str, str] = Field(min_length=1, description="new name of a column by its old name")

    @model_validator(mode="after")
    def _new_names_differ(self) -> Rename:
        new = list(self.columns.values())
        if twice := sorted({name for name in new if new.count(name) > 1}):
            raise ValueError(f"two columns would be named '{twice[0]}'")
        return self


def renamed_columns(names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """List the new names of all columns, in order.

    Parameters
    ----------
    names
        Columns of the table, in order.
    columns
        New name by old name; two columns may swap their names.

    Returns
    -------
    list of str
        As long as ``names``.

    Raises
    ------
    ValueError
        If an old name is not among ``names`` or if two columns would end with one name.
    """
    if missing := [name for name in columns if name not in names]:
        found = ", ".join(names) or "none"
        raise ValueError(f"columns: expected names of columns, got '{missing[0]}'; the columns are {found}")
    new = [columns.get(name, name) for name in names]
    if twice := [name for name in new if new.count(name) > 1]:
        raise ValueError(f"columns: expected new names that differ, got '{twice[0]}' twice; rename the other one too")
    return new
