"""Join looks every row up by key in another table, and takes columns over or keeps rows by what it finds."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from curation.methods.base import Params, Shape


class Join(Params):
    """Options of ``use: join``."""

    shape: ClassVar[Shape] = "artifact"

    right: str = Field(description="table to look up in: an input, a stage or stage.port")
    on: str | list[str] | None = Field(default=None, description="key columns of the same name on both sides")
    left_on: str | list[str] | None = Field(default=None, description="key columns of the rows that flow in")
    right_on: str | list[str] | None = Field(default=None, description="key columns of `right`, in the same order")
    how: Literal["inner", "left", "semi", "anti"] = Field(
        default="inner", description="inner, left | semi, anti: rows with or without a match, no columns"
    )
    columns: list[str] | None = Field(
        default=None, min_length=1, description="columns of `right` to add; default: all but keys and our own"
    )
    suffix: str = Field(default="_right", min_length=1, description="added to names that are there already")
    matches: Literal["one", "all"] = Field(
        default="one", description="one: a key that stands twice in `right` is an error; all: a row for each of them"
    )

    @model_validator(mode="after")
    def _keys_pair_up(self) -> Join:
        if (self.on is None) == (self.left_on is None and self.right_on is None):
            raise ValueError("expected either `on` or both of `left_on` and `right_on`")
        left, right = self.left_keys, self.right_keys
        if not left or len(left) != len(right):
            raise ValueError(f"expected as many keys on the left as on the right, got {len(left)} and {len(right)}")
        for names in (left, right):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"key '{twice[0]}' is named twice")
        return self

    @model_validator(mode="after")
    def _columns_are_added(self) -> Join:
        if self.how in ("semi", "anti") and (self.columns is not None or self.matches == "all"):
            raise ValueError(f"how: {self.how} adds no columns and no rows; leave `columns` and `matches` out")
        if twice := sorted({name for name in self.columns or [] if (self.columns or []).count(name) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice")
        return self

    @property
    def left_keys(self) -> list[str]:
        """Key columns of the rows that flow in."""
        return _names(self.left_on if self.on is None else self.on)

    @property
    def right_keys(self) -> list[str]:
        """Key columns of the table looked up in."""
        return _names(self.right_on if self.on is None else self.on)

    def sides(self) -> dict[str, str]:
        """The table looked up in."""
        return {"right": self.right}


def _names(keys: str | list[str] | None) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys or [])
