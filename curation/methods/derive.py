"""Derive adds columns computed from the other columns of the same row."""

from __future__ import annotations

from pydantic import Field

from curation.methods.base import Params


class Derive(Params):
    """Options of ``use: derive``."""

    columns: dict[str, str] = Field(
        min_length=1,
        description="row-wise SQL by the name of the column it makes; all read the columns as they came in",
    )

    def expressions(self) -> dict[tuple[str, ...], str]:
        """Give the SQL texts by the place of their key."""
        return {("columns", name): text for name, text in self.columns.items()}
