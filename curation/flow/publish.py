"""Sends a result to a store: laid out in the work directory, uploaded file by file, seen when its manifest follows."""

from __future__ import annotations

import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from curation.engine.events import Events
from curation.engine.store import OUTGOING
from curation.io import commits, remote
from curation.io.atomic import TEMPORARY
from curation.io.location import Location, RemotePath
from curation.io.manifest import standing

UPLOADS = 4
"""Files that are sent at a time. Each takes up to ten parts of memory, see ``remote.PART_BYTES``."""


def lay_out_folder(root: Location, work: Path, name: str) -> Path:
    """Folder in which the new generation is laid out: the output itself, or an empty one if that is in a store."""
    if isinstance(root, Path):
        return root
    folder = work / OUTGOING / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def release_folders(work: Path) -> None:
    """Remove what was laid out, now that it is sent."""
    shutil.rmtree(work / OUTGOING, ignore_errors=True)


def check_writable(root: Location) -> None:
    """Write and remove a small object, so that a build does not end for want of a permission when it is done.

    Raises
    ------
    RemoteError
        If the store cannot be reached or does not allow it.
    """
    if isinstance(root, RemotePath):
        probe = (root / f"meta/{TEMPORARY}{secrets.token_hex(6)}-probe").url
        remote.put_bytes(b"", probe)
        remote.delete(probe)


def upload(folder: Path, root: RemotePath, build_id: str, *, name: str, anew: bool, events: Events) -> None:
    """Send every file of a generation that the store does not have yet.

    Parameters
    ----------
    folder
        The generation as it is to be, without its manifest.
    root
        Prefix of the result.
    build_id
        The generation. It names the content, so a file that stands there under its name and size is the same one.
    name
        Output, for the progress.
    anew
        Send all of them.
    events
        Receives the progress.

    Raises
    ------
    RemoteError
        If a file could not be sent; what is sent stays for the next try, and readers see the old result.
    """
    there = {} if anew else standing(root, build_id)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    lacking = {relative: path for relative, path in files.items() if not _stands(relative, path, root, there)}
    phase, started = f"{name}: upload", time.perf_counter()
    events.started(phase, jobs=len(files), done=len(files) - len(lacking), rows=0)

    def send(relative: str) -> None:
        remote.put_file(lacking[relative], (root / relative).url)
        commits.reached("upload:object")

    pool = ThreadPoolExecutor(UPLOADS)
    try:
        for _ in pool.map(send, lacking):
            events.advanced(phase, jobs=1, rows=0)
    finally:
        pool.shutdown(cancel_futures=True)
    events.finished(phase, seconds=time.perf_counter() - started)


def _stands(relative: str, path: Path, root: RemotePath, there: dict[str, int]) -> bool:
    if path.name == "run.json":  # says how this run went
        return False
    return there.get(relative) == path.stat().st_size and remote.same_content(path, (root / relative).url)
