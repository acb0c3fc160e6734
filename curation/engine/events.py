"""What a build tells while it runs; the command line draws it, notebooks may ignore it."""

from __future__ import annotations

from typing import Protocol


class Events(Protocol):
    """Receives the progress of a build."""

    def started(self, phase: str, *, jobs: int, done: int, rows: int) -> None:
        """Announce a phase: ``jobs`` in all, ``done`` of them from earlier work, ``rows`` left to go through."""

    def advanced(self, phase: str, *, jobs: int, rows: int) -> None:
        """Report that so many more jobs and rows are through."""

    def finished(self, phase: str, *, seconds: float) -> None:
        """Report the end of a phase."""

    def note(self, text: str) -> None:
        """Say a sentence to the user."""


class Silent:
    """Says nothing."""

    def started(self, phase: str, *, jobs: int, done: int, rows: int) -> None:
        """Ignore."""

    def advanced(self, phase: str, *, jobs: int, rows: int) -> None:
        """Ignore."""

    def finished(self, phase: str, *, seconds: float) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
