"""Goes back to a generation that an output has kept; nothing is deleted."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from curation.engine.lock import held
from curation.errors import CurationError
from curation.io.location import Location
from curation.io.manifest import Manifest, history, make_current, read_manifest, run_of


@dataclass(frozen=True)
class Generation:
    """A generation that stands in an output: its build id, recipe, rows, and when its build ended (ISO 8601, UTC)."""

    build_id: str
    recipe: str
    rows: int
    finished: str
    current: bool


def generations_of(root: Location) -> list[Generation]:
    """Generations that stand in an output, the newest first.

    Raises
    ------
    CurationError
        If no build stands there.
    """
    line, at = history(root)
    return [_generation(read_manifest(root, build_id), i == at) for i, build_id in enumerate(line)]


def _generation(manifest: Manifest, current: bool) -> Generation:
    finished = str(run_of(manifest).get("finished", ""))
    return Generation(manifest.build_id, str(manifest.content["name"]), manifest.rows, finished, current)


def rollback(root: Location, to: str | None = None) -> tuple[Manifest, Manifest]:
    """Make another generation the current one, under the output's lock; a store has none.

    Parameters
    ----------
    root
        Directory of the output, or its place in a store.
    to
        Build id, or the beginning of one; None is the generation before the current one.

    Returns
    -------
    tuple
        Manifests of the generation that was the current one and of the one that is. The former stays, as newer, until
        a build makes something else and ``keep`` has no room for it.

    Raises
    ------
    CurationError
        If there is no such generation, or not all of it is there.
    LockedError
        If a build holds the output.
    """
    read_manifest(root)  # before the lock, which would make the folder
    with held(root) if isinstance(root, Path) else nullcontext():
        before = read_manifest(root)
        line, at = history(root)
        target = _before(root, line, at) if to is None else _named(root, line, to)
        now = read_manifest(root, line[target])
        if not now.complete():
            raise CurationError(
                f"{root}: generation {line[target]} is not whole, files are missing or cut short; nothing is changed"
            )
        if target != at:
            make_current(root, line, target)
    return before, read_manifest(root)


def _before(root: Location, line: list[str], at: int) -> int:
    if at + 1 == len(line):
        raise CurationError(
            f"{root}: no generation before {line[at]} stands; `keep` of the output says how many stay beside the "
            "current one"
        )
    return at + 1


def _named(root: Location, line: list[str], to: str) -> int:
    found = [i for i, build_id in enumerate(line) if build_id.startswith(to)]
    if len(found) != 1:
        raise CurationError(f"{root}: expected one of {', '.join(line)}, got {to!r}; name a generation that stands")
    return found[0]
