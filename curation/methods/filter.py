"""Filter keeps the rows that meet a condition."""

from __future__ import annotations

from pydantic import Field

from curation.methods.base import Params


class Filter(Params):
    """Options of ``use: filter``."""

    where: str = Field(min_length=1, description="row-wise SQL condition; rows where it is true are kept")

    def expressions(self) -> dict[tuple[str, ...], str]:
        """Give the SQL texts by the place of their key; each must be a condition if its key is ``where``."""
        return {("where",): self.where}
