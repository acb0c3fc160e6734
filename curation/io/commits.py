"""Commit points: every moment at which a file becomes a result, named, so that tests can stop the process there."""

from __future__ import annotations

from collections.abc import Callable

POINTS: tuple[str, ...] = (
    "object:written",  # an intermediate is complete under its temporary name
    "object:named",  # ... and has its final name, but no done-mark yet
    "mark:written",  # a done-mark is complete under its temporary name
    "mark:named",  # ... and counts from now on
    "shard:published",  # a shard stands in the output, no manifest names it yet
    "meta:published",  # plan, ledger, report or quarantine stand in the output
    "manifest:written",  # the new manifest is complete under its temporary name
    "manifest:named",  # the new generation is what readers see
    "cleanup:done",  # generations and intermediates that nothing refers to are gone
)

REMOTE_POINTS: tuple[str, ...] = (
    "upload:object",  # a file of the new generation is whole in the store, no manifest names it yet
    "upload:generation",  # ... and so is the manifest that is kept with the generation
    "upload:manifest",  # the new generation is what readers of the store see
    "upload:cleaned",  # generations that nothing refers to are gone from the store
)
"""Commit points of an output in a store, in addition."""

hook: Callable[[str], None] | None = None
"""Called with the name of each point as it is reached; ``None`` in normal runs."""


def reached(point: str) -> None:
    """Tell the hook, if there is one, that ``point`` is reached."""
    if hook is not None:
        hook(point)
