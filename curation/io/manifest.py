"""The manifest: the one file that says what a build directory holds, and the order in which it changes."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from collections.abc import Mapping
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
class Shard:
    """One shard file: path below the build directory, rows, bytes and xxh3-128."""

    path: str
    rows: int
    bytes: int
    xxh3: str


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
        return [Shard(**each) for each in self.content["shards"]]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards."""
        return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(self.content["schema_ipc"])))

    def path(self, name: str) -> Location | None:
        """File of the result by its role (``plan``, ``ledger``, ``report``, ``run``), if the build has it."""
        found = self.content["files"].get(name)
        return None if found is None else self.root / found

    def complete(self) -> bool:
        """Whether all shards are there with the size that the manifest states, and plan, ledger and report, too."""
        if isinstance(self.root, RemotePath):
            return self._complete_in(self.root)
        try:
            whole = all((self.root / s.path).stat().st_size == s.bytes for s in self.shards)
        except OSError:
            return False
        return whole and all((self.root / path).exists() for path in self.content["files"].values())

    def _complete_in(self, root: RemotePath) -> bool:
        """Ask a store by one listing a part, not file by file."""
        found = standing(root, self.build_id)
        whole = all(found.get(shard.path) == shard.bytes for shard in self.shards)
        names = self.content["files"].values()
        return whole and all(any(path == name or path.startswith(f"{name}/") for path in found) for name in names)


_NOTHING = f"no build here (no {NAME}); name the output directory of a build"


def read_manifest(root: Location) -> Manifest:
    """Read the manifest of a build directory.

    Raises
    ------
    ManifestError
        If there is none, it is damaged, or written by a later version.
    RemoteError
        If a store cannot be asked.
    """
    path = root / NAME
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
    if version > FORMAT:
        raise ManifestError(f"{path}: format {version}, this version reads up to {FORMAT}; upgrade curation")
    lacking = [name for name in ("build_id", "rows", "shards", "files", "schema_ipc") if name not in content]
    if lacking:
        raise ManifestError(f"{path}: cannot be read as a manifest: {lacking[0]!r} is missing")
    try:
        named = [*(shard["path"] for shard in content["shards"]), *content["files"].values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: cannot be read as a manifest: {error}") from error
    for each in named:
        # A manifest may come from anybody: it names files of its own build and no others.
        place = PurePosixPath(str(each))
        if place.is_absolute() or ".." in place.parts:
            raise ManifestError(f"{path}: names {each!r}, which lies outside the build; do not trust this manifest")
    return Manifest(root, content)


def standing(root: RemotePath, build_id: str) -> dict[str, int]:
    """Bytes of all files of a generation in a store, by path below the build."""
    parts = [f"{part}/{build_id}" for part in PARTS]
    return {f"{part}/{path}": size for part in parts for path, size in (root / part).sizes().items()}


def generations(root: Location) -> list[str]:
    """Build ids of the generations that stand in the directory, the current one first, older ones after."""
    current = read_manifest(root)
    run = current.path("run")
    history: list[str] = []
    if run is not None and run.is_file():
        history = json.loads(run.read_text("utf-8")).get("previous", [])
    return [current.build_id, *(each for each in history if (root / "meta" / each / NAME).is_file())]


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
