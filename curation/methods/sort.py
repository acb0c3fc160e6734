"""Sort says in which order an output writes its rows."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curation.methods.base import Params


class SortColumn(BaseModel):
    """One column of ``by``, written out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    column: str = Field(min_length=1, description="column to sort by")
    descending: bool = Field(default=False, description="largest values first; NULL is last all the same")


OneColumn: TypeAlias = Annotated[str, Field(min_length=1)] | SortColumn


class Sort(Params):
    """Options of ``use: sort``."""

    by: list[OneColumn] = Field(
        min_length=1, description="columns, the first counts most: a, -a (descending) or {column:, descending:}"
    )

    @field_validator("by", mode="before", json_schema_input_type=OneColumn | list[OneColumn])
    @classmethod
    def _one_is_a_list(cls, by: Any) -> Any:
        return [by] if isinstance(by, str | dict) else by

    @field_validator("by")
    @classmethod
    def _columns_differ(cls, by: list[str | SortColumn]) -> list[str | SortColumn]:
        names = [name for name, _ in _pairs(by)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice")
        if not all(names):
            raise ValueError("expected a column, got '-'")
        return by

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Columns, and whether each is descending."""
        return _pairs(self.by)


def sort_column(text: str) -> tuple[str, bool]:
    """Column and whether it is descending, of ``column`` or ``-column``."""
    return (text[1:], True) if text.startswith("-") else (text, False)


def _pairs(by: list[str | SortColumn]) -> list[tuple[str, bool]]:
    return [sort_column(each) if isinstance(each, str) else (each.column, each.descending) for each in by]
