"""What the verbs share: how errors, sizes, paths and tables are shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curation.errors import RecipeError

if TYPE_CHECKING:
    from curation.io.location import Location


class Session:
    """One call of ``curate``; ``json`` makes standard output a stream of JSON lines."""

    def __init__(self) -> None:
        self.json = False
        self.partial = ""  # what an interrupted build leaves

    def emit(self, event: str, **content: Any) -> None:
        """Write one JSON line."""
        sys.stdout.write(json.dumps({"event": event, **content}, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def fail(self, error: Exception, code: int, advice: str = "") -> None:
        """Show an error with its notes."""
        notes = [*getattr(error, "__notes__", ())]
        if self.json:
            problems = error.problems if isinstance(error, RecipeError) else ()
            self.emit(
                "error",
                exit_code=code,
                message=str(error),
                notes=notes,
                problems=[vars(problem) for problem in problems],
            )
        if not advice:
            for line in (str(error), *(f"  {note}" for note in notes)):
                click.echo(line if line.startswith("  ") else click.style(line, fg="red"), err=True)
        else:
            click.echo(advice, err=True)

    def interrupted(self, code: int) -> int:
        """Say that the call was interrupted."""
        text = "interrupted" + (f"; {self.partial}" if self.partial else "")
        if self.json:
            self.emit("error", exit_code=code, message=text, notes=[], problems=[])
        click.echo(text, err=True)
        return code


def count(n: int, one: str, many: str = "") -> str:
    """Write ``1 row`` or ``1,234 rows``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def size(n: int) -> str:
    """Write bytes for people."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def shown(path: Location) -> str:
    """Path as a person would type it: relative where it lies below the current directory; a URL without secrets."""
    if not isinstance(path, Path):
        return str(path)
    absolute, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(absolute, here) if absolute.startswith(here + os.sep) else absolute


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print an aligned table; ``right`` are the columns of numbers."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    click.secho(line(header), bold=True)
    for row in rows:
        click.echo(line(row))
