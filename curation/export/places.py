"""Where exports grow: a folder that appears whole, or a prefix in a store whose ``export.json`` comes last."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import xxhash

from curation.engine.lock import held
from curation.export.options import ExportError
from curation.io import remote
from curation.io.atomic import TEMPORARY, dump_json, explained, flush, void
from curation.io.location import Location, RemotePath

NAME = "export.json"


def standing(out: Location, head: dict[str, Any]) -> dict[str, Any] | None:
    """Content of the export that stands there, if it is just this one; refuses a place that holds anything else."""
    content = _content(out)
    if content is None:
        return None
    if {key: content.get(key) for key in head} != head:
        differs = next(key for key in head if content.get(key) != head[key])
        raise ExportError(
            f"{out}: expected no export, got one with {differs} {content.get(differs)!r} instead of {head[differs]!r}; "
            "remove it, or name another place"
        )
    sizes = out.sizes() if isinstance(out, RemotePath) else {f.name: f.stat().st_size for f in out.iterdir()}
    if any(sizes.get(each["path"]) != each["bytes"] for each in content["shards"]):
        raise ExportError(f"{out}: expected whole shards, got some missing or cut short; remove it and export again")
    return content


def _content(out: Location) -> dict[str, Any] | None:
    path = out / NAME
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ExportError(f"{path}: expected an export, got {error}; remove it and export again") from error
    return found


class Place(Protocol):
    """Where an export grows."""

    def put(self, name: str, write: Callable[[Path], None]) -> dict[str, Any]:
        """Let ``write`` fill a file; returns its ``path``, ``bytes`` and ``xxh3``."""
        ...

    def finish(self, content: dict[str, Any]) -> None:
        """Write ``export.json``; the export stands from then on."""
        ...


@contextmanager
def placed(out: Location, head: dict[str, Any]) -> Iterator[Place]:
    """Hold the place of an export that is to be written; what is not finished is gone, or marked in a store."""
    if isinstance(out, RemotePath):
        with tempfile.TemporaryDirectory(prefix="curation-") as scratch:
            yield _InStore(out, head, Path(scratch))
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: expected no such folder, or an empty one, got one with files; name another place")
    temporary = out.with_name(f"{TEMPORARY}{out.name}")
    with held(temporary):
        _empty(temporary)
        try:
            yield _Folder(temporary, out)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)


def _empty(folder: Path) -> None:
    """Remove what an export that was killed has left."""
    for path in folder.iterdir():
        if path.name != ".lock":
            path.unlink()


@dataclass(frozen=True)
class _Folder:
    """A folder that grows under another name."""

    temporary: Path
    out: Path

    def put(self, name: str, write: Callable[[Path], None]) -> dict[str, Any]:
        path = self.temporary / name
        with explained(self.out):
            write(path)
            flush(path)
        return _entry(path)

    def finish(self, content: dict[str, Any]) -> None:
        self.put(NAME, lambda path: void(path.write_text(dump_json(content, sort=False) + "\n", "utf-8")))
        (self.temporary / ".lock").unlink()
        with explained(self.out):
            flush(self.temporary)
            self.temporary.rename(self.out)
            flush(self.out.parent)


class _InStore:
    """A prefix in a store; a mark with what is being written tells a part of an export from somebody's files."""

    def __init__(self, out: RemotePath, head: dict[str, Any], scratch: Path) -> None:
        self._out, self._scratch = out, scratch
        mark = f"{TEMPORARY}{NAME}"
        found = out.sizes()
        if found and mark not in found:
            raise ExportError(f"{out}: expected nothing below it, got {next(iter(found))!r}; name another place")
        self._mark = out / mark
        remote.put_bytes(dump_json(head).encode(), self._mark.url)  # first, so that it is there as long as a part is
        for name in found:
            if name != mark:
                remote.delete((out / name).url)

    def put(self, name: str, write: Callable[[Path], None]) -> dict[str, Any]:
        path = self._scratch / name
        with explained(path):
            write(path)
        remote.put_file(path, (self._out / name).url)
        entry = _entry(path)
        path.unlink()
        return entry

    def finish(self, content: dict[str, Any]) -> None:
        remote.put_bytes((dump_json(content, sort=False) + "\n").encode(), (self._out / NAME).url)
        remote.delete(self._mark.url)


def _entry(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"path": path.name, "bytes": path.stat().st_size, "xxh3": digest.hexdigest()}
