"""Which files an input is made of, and how a file is recognised when it comes back."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import xxhash

from curation.errors import CurationError
from curation.io.manifest import ManifestError, read_manifest
from curation.keys import content_key

PROBE_BYTES = 4 << 20
"""Bytes hashed at each end of a file; a file of up to twice that is recognised by its content alone."""

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".ipc": "arrow", ".feather": "arrow"}


class InputError(CurationError):
    """An input cannot be found or is not what the recipe says."""

    exit_code = 2


@dataclass(frozen=True)
class FileRef:
    """One input file as it was found.

    ``relative`` is the path inside the input (POSIX separators), the name that row identity uses.
    """

    path: str
    relative: str
    format: str
    size: int
    key: str
    mtime_ns: int = 0

    def changed(self) -> bool:
        """Whether the file is gone or has been written to since it was looked at."""
        try:
            stat = Path(self.path).stat()
        except OSError:
            return True
        return (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns)


def format_of(path: Path, stated: str | None = None) -> str:
    """Format of a file by what the recipe states, else by its suffix."""
    found = stated or SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"{path}: cannot tell the format from the suffix {path.suffix!r}; "
            f"known are {', '.join(sorted(SUFFIXES))}, or set `format: parquet` or `format: arrow`"
        )
    return found


def find_files(patterns: list[str], *, stated: str | None = None, verify: bool = False) -> list[FileRef]:
    """Find the files of an input, sorted by their path inside it.

    Parameters
    ----------
    patterns
        Absolute paths: a file, a folder (searched recursively for known suffixes; names that begin with ``.`` or
        ``_`` are left out; an output of ours is read by its manifest) or a glob.
    stated
        Format given in the recipe, for files without a telling suffix.
    verify
        Recognise every file by a hash of all its bytes.

    Raises
    ------
    InputError
        If nothing is there, nothing matches, or two files have one path inside the input.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        if "://" in pattern:
            raise InputError(f"{pattern}: URLs cannot be read yet; copy the files here, or mount the store")
        for relative, path in _expand(pattern, stated):
            if relative in found and found[relative] != path:
                raise InputError(
                    f"{path}: has the same path {relative!r} inside the input as {found[relative]}, and row identity "
                    "is made of that path; give the input a `key:` column or read the folders as two inputs"
                )
            found[relative] = path
    return [file_ref(found[relative], relative, stated, verify=verify) for relative in sorted(found)]


def _expand(pattern: str, stated: str | None) -> list[tuple[str, Path]]:
    path = Path(pattern)
    if path.is_file():
        return [(path.name, path)]
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return _own_output(path)
        inside = [
            each
            for each in path.rglob("*")
            if each.is_file()
            and (each.suffix.lower() in SUFFIXES or stated is not None)
            and not any(part.startswith((".", "_")) for part in each.relative_to(path).parts)
        ]
        if not inside:
            raise InputError(f"{path}: no file with a suffix of {', '.join(sorted(SUFFIXES))} in this folder")
        return [(each.relative_to(path).as_posix(), each) for each in inside]
    if glob.has_magic(pattern):
        root = _fixed_root(pattern)
        inner = Path(pattern).relative_to(root).as_posix()
        matches = [
            each for each in map(root.joinpath, glob.glob(inner, root_dir=root, recursive=True)) if each.is_file()
        ]
        if not matches:
            raise InputError(f"{pattern}: no file matches")
        return [(each.relative_to(root).as_posix(), each) for each in matches]
    raise InputError(f"{pattern}: no such file or folder")


def _own_output(path: Path) -> list[tuple[str, Path]]:
    try:
        shards = read_manifest(path).shards
    except ManifestError as error:
        raise InputError(str(error)) from error
    return [(shard.path.rpartition("/")[2], path / shard.path) for shard in shards]


def _fixed_root(pattern: str) -> Path:
    """Longest part of a pattern that is there as it is written: a folder may be called ``v[1]``."""
    path = Path(pattern).parent
    while not path.is_dir():
        path = path.parent
    return path


def file_ref(path: Path, relative: str, stated: str | None = None, *, verify: bool = False) -> FileRef:
    """Look at a file and make the key by which it is recognised.

    Small files, and all with ``verify``, are recognised by content; large ones by size, time of change, inode and
    a hash of head and tail.
    """
    try:
        stat = path.stat()
        with path.open("rb") as file:
            digest = xxhash.xxh3_128()
            if verify or stat.st_size <= 2 * PROBE_BYTES:
                while block := file.read(1 << 20):
                    digest.update(block)
                key = content_key("file", stat.st_size, digest.hexdigest())
            else:
                digest.update(file.read(PROBE_BYTES))
                file.seek(stat.st_size - PROBE_BYTES)
                digest.update(file.read(PROBE_BYTES))
                key = content_key("file", stat.st_size, stat.st_mtime_ns, stat.st_ino, digest.hexdigest())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return FileRef(str(path), relative, format_of(path, stated), stat.st_size, key, stat.st_mtime_ns)
