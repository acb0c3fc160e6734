"""The manifest: the one file that says what a build directory holds, and the order in which it changes."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from curation.errors import CurationError
from curation.io import commits, remote
from curation.io.atomic import TEMPORARY, dump_json, explained, write_json
from curation.io.location import Location, RemotePath

FORMAT = 1
NAME = "manifest.json"
PARTS = ("shards", "meta", "quarantine")


class ManifestError(CurationError):
    """A directory is no build of ours, or of a version that cannot be read here."""


@dataclass(frozen=True)
class Sidecar:
    """A file beside a shard that says where its values lie: path below the build directory, bytes and xxh3-128."""

    path: str
    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Shard:
    """One shard file: path below the build directory, rows, bytes and xxh3-128, and its sidecar where it has one."""

    path: str
    rows: int
    bytes: int
    xxh3: str
    sidecar: Sidecar | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Shard:
        """Read an entry of a manifest; keys that a later version has added are not looked at."""
        beside = content.get("sidecar")
        sidecar = None if beside is None else Sidecar(beside["path"], beside["bytes"], beside["xxh3"])
        return cls(content["path"], content["rows"], content["bytes"], content["xxh3"], sidecar)


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says; ``content`` is the whole of it."""

    root: Location
    content: Mapping[str, Any]

    @property
    def build_id(self) -> str:
        """Generation that the manifest names."""
        return str(self.content["build_id"])

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return int(self.content["rows"])

    @property
    def shards(self) -> list[Shard]:
        """Shards in order."""
        return [Shard.of(each) for each in self.content["shards"]]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards."""
        return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(self.content["schema_ipc"])))

    def path(self, name: str) -> Location | None:
        """File of the result by its role (``plan``, ``ledger``, ``report``, ``run``), if the build has it."""
        found = self.content["files"].get(name)
        return None if found is None else self.root / found

    def complete(self) -> bool:
        """Whether shards and sidecars are there with the size that the manifest states, and plan, ledger and report."""
        if isinstance(self.root, RemotePath):
            return self._complete_in(self.root)
        try:
            whole = all((self.root / file.path).stat().st_size == file.bytes for file in self._files())
        except OSError:
            return False
        return whole and all((self.root / path).exists() for path in self.content["files"].values())

    def _files(self) -> Iterator[Shard | Sidecar]:
        for shard in self.shards:
            yield from (shard,) if shard.sidecar is None else (shard, shard.sidecar)

    def _complete_in(self, root: RemotePath) -> bool:
        """Ask a store by one listing a part, not file by file."""
        found = standing(root, self.build_id)
        whole = all(found.get(file.path) == file.bytes for file in self._files())
        names = self.content["files"].values()
        return whole and all(any(path == name or path.startswith(f"{name}/") for path in found) for name in names)


_NOTHING = f"no build here (no {NAME}); name the output directory of a build"


def read_manifest(root: Location, build_id: str | None = None) -> Manifest:
    """Read the manifest of a build directory.

    Parameters
    ----------
    root
        The directory.
    build_id
        A generation that is kept there; None is the current one.

    Raises
    ------
    ManifestError
        If there is none, it is damaged, or written by a later version.
    RemoteError
        If a store cannot be asked.
    """
    if build_id is not None and not _stands(root, build_id):
        raise ManifestError(
            f"{root}: no generation {build_id!r} stands here; `curate rollback --list` shows those that do"
        )
    path = root / NAME if build_id is None else root / "meta" / build_id / NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        version = int(content["format"])
    except FileNotFoundError:
        raise ManifestError(f"{root}: {_NOTHING}") from None
    except remote.RemoteError as error:
        if error.failure != "missing":
            raise
        raise ManifestError(f"{root}: {_NOTHING}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest: {error}") from error
    _check(path, version, content)
    return Manifest(root, content)


def _check(path: Location, version: int, content: Mapping[str, Any]) -> None:
    """Refuse what a manifest of ours never says."""
    if version > FORMAT:
        raise ManifestError(f"{path}: format {version}, this version reads up to {FORMAT}; upgrade curation")
    lacking = [name for name in ("build_id", "rows", "shards", "files", "schema_ipc") if name not in content]
    if lacking:
        raise ManifestError(f"{path}: cannot be read as a manifest: {lacking[0]!r} is missing")
    try:
        named = [*(shard["path"] for shard in content["shards"]), *content["files"].values()]
        named += [shard["sidecar"]["path"] for shard in content["shards"] if shard.get("sidecar") is not None]
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest: {error}") from error
    for each in named:
        # A manifest may come from anybody: it names files of its own build and no others.
        place = PurePosixPath(str(each))
        if place.is_absolute() or ".." in place.parts:
            raise ManifestError(f"{path}: names {each!r}, which lies outside the build; do not trust this manifest")


def standing(root: RemotePath, build_id: str) -> dict[str, int]:
    """Bytes of all files of a generation in a store, by path below the build."""
    parts = [f"{part}/{build_id}" for part in PARTS]
    return {f"{part}/{path}": size for part in parts for path, size in (root / part).sizes().items()}


def generations(root: Location) -> list[str]:
    """Build ids of the generations that stand in the directory: the current one first, then as they are to be kept."""
    line, at = history(root)
    return [line[at], *line[:at], *line[at + 1 :]]


def history(root: Location) -> tuple[list[str], int]:
    """Build ids of the generations that stand in the directory, the newest first, and which is the current one.

    The run record of the current one tells what came before it and, after a rollback, what came later.
    """
    current = read_manifest(root)
    run = run_of(current)
    newer, older = (
        [each for each in run.get(name, ()) if each != current.build_id and _stands(root, each)]
        for name in ("newer", "previous")
    )
    return [*newer, current.build_id, *(each for each in older if each not in newer)], len(newer)


def run_of(manifest: Manifest) -> dict[str, Any]:
    """What ``run.json`` says of the build; nothing if it is gone or damaged."""
    path = manifest.path("run")
    try:
        found = json.loads(path.read_text("utf-8")) if path is not None else {}
    except (OSError, ValueError, remote.RemoteError):
        return {}
    return found if isinstance(found, dict) else {}


def make_current(root: Location, line: list[str], at: int) -> None:
    """Make generation ``line[at]`` the current one again; ``line`` is the whole history, the newest first.

    Its run record learns what is older and what newer; readers notice the last step alone.
    """
    manifest = read_manifest(root, line[at])
    run = run_of(manifest) | {"newer": line[:at], "previous": line[at + 1 :]}
    place = root / "meta" / line[at] / "run.json"
    if isinstance(place, RemotePath):
        remote.put_bytes((dump_json(run, sort=True) + "\n").encode(), place.url)
    else:
        write_json(place, run, **_META, durable=True, sort=True)
    put_manifest(root, manifest.content)


def _stands(root: Location, build_id: Any) -> bool:
    return isinstance(build_id, str) and _is_id(build_id) and (root / "meta" / build_id / NAME).is_file()


def _is_id(text: str) -> bool:
    """Whether text may be a build id, and so is no path to elsewhere."""
    return re.fullmatch("[0-9a-z]{1,32}", text) is not None


def put_manifest(root: Location, content: Mapping[str, Any]) -> None:
    """Make a generation the current one: the only step that readers notice."""
    if isinstance(root, RemotePath):
        data = (dump_json(content, sort=False) + "\n").encode()
        remote.put_bytes(data, (root / "meta" / str(content["build_id"]) / NAME).url)
        commits.reached("upload:generation")
        remote.put_bytes(data, (root / NAME).url)
        commits.reached("upload:manifest")
        return
    write_json(root / "meta" / str(content["build_id"]) / NAME, content, **_META, durable=True, sort=False)
    write_json(root / NAME, content, written="manifest:written", named="manifest:named", durable=True, sort=False)


_META = {"written": "meta:published", "named": "meta:published"}


def clean_up(root: Location, keep: list[str]) -> None:
    """Remove generations that are not in ``keep``, and unfinished files; what is not ours stays."""
    if isinstance(root, RemotePath):
        _clean_up_in(root, keep)
        return
    with explained(root):
        for leftover in root.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        for each in (each for part in PARTS for each in (root / part).glob("*")):
            if not each.is_dir() or not _is_build_id(each.name):
                continue  # not ours
            if each.name not in keep:
                shutil.rmtree(each, ignore_errors=True)
            for leftover in each.glob(f"{TEMPORARY}*"):
                leftover.unlink(missing_ok=True)
    commits.reached("cleanup:done")


def _is_build_id(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{16}", name) is not None


UNFINISHED_S = 24 * 3600
"""Age at which a generation in a store that no manifest ever named counts as given up, not as being uploaded [s]."""


def _clean_up_in(root: RemotePath, keep: list[str]) -> None:
    """Remove old generations of a store; nothing holds a lock there, so one that is being uploaded must stay."""
    newest: dict[str, float] = {}
    named = set()
    now = time.time()
    for part in PARTS:
        for path, (_, written) in remote.walked((root / part).url).items():
            build_id = path.partition("/")[0]
            if path.rpartition("/")[2].startswith(TEMPORARY) and now - written > UNFINISHED_S:
                remote.delete((root / part / path).url)
            if _is_build_id(build_id):
                newest[build_id] = max(newest.get(build_id, 0.0), written)
                named |= {build_id} if (part, path) == ("meta", f"{build_id}/{NAME}") else set()
    for build_id, written in newest.items():
        if build_id not in keep and (build_id in named or now - written > UNFINISHED_S):
            # Its own manifest goes last: until then, an interrupted removal is taken up again.
            for part in ("shards", "quarantine", "meta"):
                remote.delete_tree((root / part / build_id).url)
    commits.reached("upload:cleaned")


def schema_text(schema: pa.Schema) -> dict[str, Any]:
    """Schema for the manifest: readable, and exact."""
    return {
        "schema": [{"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in schema],
        "schema_ipc": base64.b64encode(schema.serialize().to_pybytes()).decode(),
    }
