"""What every method's options have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Shape = Literal["map", "fit", "artifact", "plan"]


class Params(BaseModel):
    """Options of one method: frozen, strict, unknown keys refused; every field has a ``description``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: ClassVar[int] = 1  # bump when the output of the method changes, not when its code is tidied
    shape: ClassVar[Shape] = "map"
    many: ClassVar[bool] = False  # whether `from` may be a list: the rows of all of them flow in

    def ports(self) -> tuple[str, ...]:
        """Names of the stage's outputs, read on as ``stage.port``; empty for a stage with one output.

        The port ``""`` is read on by the stage's name alone.
        """
        return ()

    def sides(self) -> dict[str, str]:
        """Tables in which the stage looks things up: the reference (input, stage or stage.port) by its option."""
        return {}
