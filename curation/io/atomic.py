"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curation.errors import BuildError
from curation.io import commits

TEMPORARY = ".tmp-"
"""Prefix of every unfinished file; nothing with this prefix is ever read."""


def dump_json(value: Any, *, sort: bool = True) -> str:
    """Write JSON that is the same for the same value: keys sorted, no spaces to spare, floats exact."""
    return json.dumps(value, sort_keys=sort, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_atomic(path: Path, write: Callable[[Path], None], *, written: str, named: str, durable: bool = False) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then give it its name.

    Parameters
    ----------
    path
        Final name; its folder is made if needed. An existing file is replaced.
    write
        Called with the temporary path.
    written, named
        Commit points (``curation.io.commits``) reached before and after the rename.
    durable
        Also flush file and folder to the disk, so that a power cut cannot undo the rename.

    Raises
    ------
    BuildError
        If the disk is full or the folder cannot be written; the temporary file is gone then.
    """
    temporary = _temporary(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            if durable:
                flush(temporary)
            commits.reached(written)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            flush(path.parent)
    commits.reached(named)


def write_json(path: Path, value: Any, *, written: str, named: str, durable: bool = False, sort: bool = True) -> None:
    """Write a small JSON file by :func:`write_atomic`; without ``sort``, keys stay in their order."""
    text = dump_json(value, sort=sort) + "\n"
    write_atomic(path, lambda to: void(to.write_text(text, "utf-8")), written=written, named=named, durable=durable)


def _temporary(path: Path) -> Path:
    """Give a name that no other process takes, on whatever machine that shares the folder."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")


def void(_: object) -> None:
    """Drop a value, so that a lambda returns nothing."""


def flush(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name, by a hard link where the file system has them."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        flush(temporary)
        os.replace(temporary, target)
        # Renaming one hard link onto another of the same file is a no-op that leaves both names.
        temporary.unlink(missing_ok=True)


MENDS = {
    errno.ENOSPC: "the disk is full; free space or name another place, then run the same command again",
    errno.EDQUOT: "the quota is used up; free space or name another place, then run the same command again",
    errno.EROFS: "the file system is read-only; name another output or work directory",
    errno.EACCES: "no permission to write; name another output or work directory",
    errno.EPERM: "no permission to write; name another output or work directory",
    errno.EMFILE: "too many open files; raise `ulimit -n`",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that says what to do."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None and "No space left" in str(error):
            number = errno.ENOSPC
        if number not in MENDS:
            raise
        raise BuildError(f"{path}: cannot be written: {MENDS[number]}") from error
