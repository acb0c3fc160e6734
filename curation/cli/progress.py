"""Shows a build while it runs: live on a terminal, a line a phase elsewhere, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from curation.cli.session import Session, count, duration
from curation.engine.events import Events

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task, TaskID
    from rich.text import Text


@contextmanager
def progress(session: Session) -> Iterator[Events]:
    """Events to give to a build, drawn in the way that fits where the output goes."""
    if session.json:
        yield JsonLines(session)
    elif sys.stderr.isatty():
        with _live() as bars:
            yield Live(bars)
    else:
        yield Lines()


@dataclass
class _Phase:
    jobs: int
    reused: int
    rows: int
    done_jobs: int = 0
    done_rows: int = 0


def summary(phase: str, state: _Phase, seconds: float) -> str:
    """One line about a finished phase."""
    if state.jobs and state.reused == state.jobs:
        return f"  {phase}: done before"
    rate = f", {state.rows / seconds:,.0f} rows/s" if state.rows and seconds > 0.05 else ""
    reused = f", {state.reused:,} of {count(state.jobs, 'job')} done before" if state.reused else ""
    rows = count(state.rows, "row") if state.rows else count(state.jobs, "job")
    return f"  {phase}: {rows} in {duration(seconds)}{rate}{reused}"


class Lines:
    """One line for every finished phase, on standard error."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}

    def started(self, phase: str, *, jobs: int, done: int, rows: int) -> None:
        """Remember the phase."""
        self._phases[phase] = _Phase(jobs, done, rows)

    def advanced(self, phase: str, *, jobs: int, rows: int) -> None:
        """Say nothing: logs should stay short."""

    def finished(self, phase: str, *, seconds: float) -> None:
        """Write the line."""
        click.echo(summary(phase, self._phases.pop(phase), seconds), err=True)

    def note(self, text: str) -> None:
        """Write the sentence."""
        click.echo(f"  note: {text}", err=True)


class JsonLines:
    """Every event as one JSON line on standard output; advances at most once a second."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._phases: dict[str, _Phase] = {}
        self._last = 0.0

    def started(self, phase: str, *, jobs: int, done: int, rows: int) -> None:
        """Write ``phase`` with status ``started``."""
        self._phases[phase] = _Phase(jobs, done, rows)
        self._session.emit("phase", phase=phase, status="started", jobs=jobs, reused=done, rows=rows)

    def advanced(self, phase: str, *, jobs: int, rows: int) -> None:
        """Write ``advance`` with what is through so far, at most once a second."""
        state = self._phases[phase]
        state.done_jobs += jobs
        state.done_rows += rows
        if time.monotonic() - self._last >= 1.0:
            self._last = time.monotonic()
            self._session.emit(
                "advance", phase=phase, jobs=state.done_jobs + state.reused, rows=state.done_rows, of=state.rows
            )

    def finished(self, phase: str, *, seconds: float) -> None:
        """Write ``phase`` with status ``finished``."""
        self._phases.pop(phase)
        self._session.emit("phase", phase=phase, status="finished", seconds=round(seconds, 3))

    def note(self, text: str) -> None:
        """Write ``note``."""
        self._session.emit("note", text=text)


class Live:
    """A bar for the running phase with rate and time left; a line above it for every finished one."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._phases: dict[str, tuple[TaskID, _Phase]] = {}

    def started(self, phase: str, *, jobs: int, done: int, rows: int) -> None:
        """Draw a bar."""
        task = self._bars.add_task(phase, total=max(1, rows or jobs - done), by_rows=bool(rows))
        self._phases[phase] = (task, _Phase(jobs, done, rows))

    def advanced(self, phase: str, *, jobs: int, rows: int) -> None:
        """Move the bar."""
        task, state = self._phases[phase]
        self._bars.advance(task, rows if state.rows else jobs)

    def finished(self, phase: str, *, seconds: float) -> None:
        """Put a line in the place of the bar."""
        task, state = self._phases.pop(phase)
        self._bars.remove_task(task)
        self._bars.console.print(summary(phase, state, seconds), highlight=False, markup=False)

    def note(self, text: str) -> None:
        """Write the sentence above the bar."""
        self._bars.console.print(f"  note: {text}", highlight=False, markup=False, style="yellow")


def _live() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn(" "),
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        _rate_column(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=False),
        console=Console(stderr=True),
        transient=True,
    )


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Rows per second."""

        def render(self, task: Task) -> Text:
            """Rate of the task."""
            unit = "rows/s" if task.fields.get("by_rows") else "jobs/s"
            return Text(f"{task.speed:,.0f} {unit}" if task.speed else "", style="dim")

    return Rate()
