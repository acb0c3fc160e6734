"""Errors that a user can mend; each knows the exit code of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CurationError(Exception):
    """A mistake in recipe, data or surroundings; shown without a traceback."""

    exit_code = 1


class BuildError(CurationError):
    """The build failed: unreadable data, a stage that cannot go on, a gate that is not met."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a recipe: where it stands, what it is, how to mend it."""

    file: str
    line: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.path}: {self.message}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class RecipeError(CurationError):
    """The recipe or the command line is wrong; ``problems`` holds every finding, in file order."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems: tuple[Problem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)))


class RefusedError(CurationError):
    """The plan does not fit the memory or the disk; nothing was computed."""

    exit_code = 3


class InputError(CurationError):
    """An input cannot be found or is not what the recipe says."""

    exit_code = 2


class LockedError(CurationError):
    """Another build holds the output."""

    exit_code = 4
