"""Where a result lies: a local folder, or a prefix in a store, with the few questions that both answer."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import xxhash

from curation.errors import CurationError, RecipeError
from curation.io import remote
from curation.io.atomic import TEMPORARY, explained
from curation.urls import is_url, local_text, redacted


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in a store; shows itself without secrets, ``url`` is the whole."""

    url: str

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        return RemotePath(f"{self.url}/{os.fspath(name)}")

    def __str__(self) -> str:
        return redacted(self.url)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    @property
    def name(self) -> str:
        """Last part."""
        return redacted(self.url).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of the name with its dot, or nothing."""
        return Path(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """Folder that it lies in."""
        return RemotePath(self.url.rpartition("/")[0])

    def read_bytes(self) -> bytes:
        """All bytes."""
        return remote.read_bytes(self.url)

    def read_text(self, encoding: str = "utf-8") -> str:
        """All bytes as text."""
        return self.read_bytes().decode(encoding)

    def exists(self) -> bool:
        """Whether a file, or anything below, is there."""
        return remote.exists(self.url)

    def is_file(self) -> bool:
        """Whether a file is there."""
        try:
            remote.version(self.url)
        except remote.RemoteError as error:
            if error.failure == "missing":
                return False
            raise
        return True

    def sizes(self) -> dict[str, int]:
        """Bytes of everything below, by path."""
        return remote.sizes(self.url)


Location: TypeAlias = Path | RemotePath


def location_of(text: str | os.PathLike[str] | RemotePath) -> Location:
    """Location that a text names; local paths become absolute."""
    if isinstance(text, RemotePath):
        return text
    name = os.fspath(text)
    return RemotePath(name.rstrip("/")) if is_url(name) else Path(local_text(name)).absolute()


def work_at(text: str | os.PathLike[str] | None) -> Path | None:
    """Work directory that was asked for, absolute.

    Raises
    ------
    RecipeError
        If it is in a store.
    """
    if text is None:
        return None
    place = location_of(text)
    if isinstance(place, RemotePath):
        raise RecipeError(f"--work: expected a local directory, got {place}; only results can lie in a store")
    return place


def local(place: Location, *, xxh3: str | None = None) -> Path:
    """Local file with the bytes of a place: itself, or a copy that lives as long as this process.

    Parameters
    ----------
    place
        A file.
    xxh3
        Hash that the copy must have.

    Raises
    ------
    CurationError
        If it cannot be fetched, is not what ``xxh3`` says, or would fill the disk.
    """
    if isinstance(place, Path):
        return place
    target = _copies() / hashlib.blake2b(place.parent.url.encode(), digest_size=8).hexdigest() / place.name
    with _fetching:
        if not target.is_file():
            _fetch(place, target, xxh3)
    return target


_fetching = threading.Lock()


@lru_cache(maxsize=1)
def _copies() -> Path:
    """Folder of the copies; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="curation-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


KEPT_FREE = 0.1
"""Share of the disk that copies leave free."""


def _fetch(place: RemotePath, target: Path, xxh3: str | None) -> None:
    digest = xxhash.xxh3_128()
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    with explained(target), remote.open_stream(place.url) as file:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as to:
            while block := file.read(remote.STREAM_BYTES):
                disk = shutil.disk_usage(target.parent)
                if disk.free - len(block) < KEPT_FREE * disk.total:
                    temporary.unlink()
                    raise CurationError(
                        f"{place}: its copy would leave less than {KEPT_FREE:.0%} of the disk of {_copies()} free; "
                        "set TMPDIR to a larger disk"
                    )
                to.write(block)
                digest.update(block)
    if xxh3 is not None and digest.hexdigest() != xxh3:
        temporary.unlink()
        raise CurationError(f"{place}: expected the xxh3 {xxh3}, got {digest.hexdigest()}; build again with --force")
    temporary.replace(target)
