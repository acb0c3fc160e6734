"""One build per output at a time, with the owner's name for whoever comes second."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from curation.errors import LockedError
from curation.io.atomic import explained


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    LockedError
        If another process holds it; the message says who, where and since when.
    """
    path = folder / ".lock"
    while True:
        with explained(path):
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner_text = file.read()
            file.close()
            raise LockedError(f"{folder}: held by another build ({_owner(owner_text)}); wait until it ends") from None
        # The owner before may have removed the file between our open and our lock: then nobody else would see ours.
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            break
        file.close()
    with file:
        file.truncate(0)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])[:80],  # options may hold secrets
        }
        file.write(json.dumps(owner))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}: {owner['command']}"
    except (ValueError, KeyError, TypeError):
        return "its name could not be read"
