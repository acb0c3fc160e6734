"""Erase removes the rows whose key is on a list, and accounts for every key of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from curation.methods.base import Params, Shape


class Erase(Params):
    """Options of ``use: erase``."""

    shape: ClassVar[Shape] = "artifact"

    keys: str = Field(description="table with the keys to remove: an input, a stage or stage.port")
    on: str = Field(description="column of the key, of the same name on both sides")
    not_found: Literal["note", "error"] = Field(
        default="note", description="a key that no row has: counted in the manifest, or an error"
    )

    def sides(self) -> dict[str, str]:
        """The list of keys."""
        return {"keys": self.keys}
