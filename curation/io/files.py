"""Which files an input is made of, and how a file is recognised when it comes back."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

import xxhash

from curation.errors import InputError
from curation.io import remote
from curation.io.huggingface import DICT, STATE, hf_files
from curation.io.location import Location, RemotePath
from curation.io.manifest import NAME, ManifestError, read_manifest
from curation.io.records import record_suffix
from curation.io.spread import spread
from curation.keys import content_key
from curation.urls import protocol_of

PROBE_BYTES = 4 << 20
"""Bytes hashed at each end of a file; a file of up to twice that is recognised by its content alone."""

GLANCE_BYTES = 4 << 10
"""Bytes hashed at each end of an image: a folder of them is too much to read before every build."""

LISTED_FILES = 32
"""Files of a folder in a store that are looked at one by one; of more, the folder is listed."""

SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".lance": "lance",
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "images"),
}
RECORDS = ("jsonl", "csv", "webdataset", "images")
"""Formats that are read front to back, into parts."""
FORMATS = ("parquet", "arrow", "jsonl", "csv", "webdataset", "images", "lance")
"""Formats that a recipe may state."""
SHOWN = ".parquet .arrow .jsonl .csv .tsv .tar .lance, images, and the text formats with .gz or .zst"


@dataclass(frozen=True)
class FileRef:
    """One input file as it was found.

    ``path`` is absolute; ``relative`` is the path inside the input (POSIX separators), the name that row identity uses.
    Of a file in a store ``url`` is the whole URL, ``path`` the same without what may be secret, and ``version`` what
    the store says of the object (ETag, generation, time).
    """

    path: str
    relative: str
    format: str
    size: int
    key: str
    mtime_ns: int = 0
    version: str = ""
    url: str = ""

    @property
    def remote(self) -> bool:
        """Whether the file lies in a remote store."""
        return bool(self.url)

    def changed(self) -> bool:
        """Whether the file is gone or has been written to since it was looked at.

        Raises
        ------
        RemoteError
            If a store cannot be asked.
        """
        try:
            if self.url:
                return remote.version(self.url) != self.version
            stat = Path(self.path).stat()
        except remote.RemoteError as error:
            if error.failure != "missing":
                raise
            return True
        except OSError:
            return True
        return (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns)


def first_changed(files: Sequence[FileRef]) -> FileRef | None:
    """First file that is gone or has been written to since it was looked at.

    Raises
    ------
    RemoteError
        If a store cannot be asked.
    """
    folders = Counter(_folder(file) for file in files)
    many = [folder for folder, n in folders.items() if folder and n > LISTED_FILES]
    now = dict(zip(many, spread(remote.versions, many), strict=True))

    def changed(file: FileRef) -> bool:
        listed = now.get(_folder(file))
        return file.changed() if listed is None else listed.get(file.url.rpartition("/")[2]) != file.version

    return next((file for file, hit in zip(files, spread(changed, files), strict=True) if hit), None)


def _folder(file: FileRef) -> str:
    """Folder of a file in a store that can list it, else nothing."""
    return file.url.rpartition("/")[0] if protocol_of(file.url) in remote.S3 else ""


def suffix_format(name: str) -> str | None:
    """Format of a file by its suffix, or ``None``.

    >>> suffix_format("a/b.parquet"), suffix_format("c.jsonl.zst"), suffix_format("notes.md")
    ('parquet', 'jsonl', None)
    """
    return SUFFIXES.get(PurePath(name).suffix.lower()) or record_suffix(name)


def format_of(path: str | Path, stated: str | None = None) -> str:
    """Format of a file by what the recipe states, else by its suffix."""
    found = stated or suffix_format(str(path))
    if found is None:
        raise InputError(
            f"{path}: cannot tell the format from the suffix {PurePath(path).suffix!r}; "
            f"known are {SHOWN}; or set `format:` to one of {', '.join(FORMATS)}"
        )
    return found


def find_files(patterns: list[str], *, stated: str | None = None, verify: bool = False) -> list[FileRef]:
    """Find the files of an input, sorted by their path inside it.

    Parameters
    ----------
    patterns
        Absolute paths or URLs: a file, a folder (searched recursively for known suffixes; names that begin with ``.``
        or ``_`` are left out; an output of ours is read by its manifest) or a glob.
    stated
        Format given in the recipe, for files without a telling suffix.
    verify
        Recognise every file by a hash of all its bytes; one in a store by what that says of it, as always.

    Raises
    ------
    InputError
        If nothing is there, nothing matches, two files have one path inside the input, or one file has two.
    """
    found: dict[str, tuple[str, Callable[[], FileRef]]] = {}
    named: dict[str, str] = {}
    for pattern in patterns:
        for relative, path, look in _found(pattern, stated, verify):
            if relative in found and found[relative][0] != path:
                raise InputError(
                    f"{remote.redacted(path)}: has the same path {relative!r} inside the input as "
                    f"{remote.redacted(found[relative][0])}, and row "
                    "identity is made of that path; give the input a `key:` column or read the folders as two inputs"
                )
            if named.setdefault(path, relative) != relative:
                raise InputError(
                    f"{remote.redacted(path)}: expected once in the input, got it as {named[path]!r} and as "
                    f"{relative!r}; leave one of the two paths out, or its rows would come twice"
                )
            found[relative] = path, look
    return _of_one_kind(spread(lambda relative: found[relative][1](), sorted(found)))


def _found(pattern: str, stated: str | None, verify: bool) -> list[tuple[str, str, Callable[[], FileRef]]]:
    """Path inside the input, whole path, and how to look at it, of every file that a pattern names."""
    if remote.is_url(pattern):
        return [(f.relative, f.url, partial(_remote_ref, f, stated)) for f in _expand_url(pattern, stated)]
    return [
        (relative, str(path), partial(file_ref, path, relative, stated, verify=verify))
        for relative, path in _expand(pattern, stated)
    ]


def _of_one_kind(files: list[FileRef]) -> list[FileRef]:
    """Refuse images among other files: mostly they are what those others describe."""
    kinds = {file.format for file in files}
    if "images" in kinds and len(kinds) > 1:
        other = next(file for file in files if file.format != "images")
        raise InputError(
            f"{other.path}: lies among images; set `format: images` or `format: {other.format}` to choose, and read "
            "the other as an input of its own"
        )
    return files


def _remote_ref(file: remote.RemoteFile, stated: str | None) -> FileRef:
    path, kind = remote.redacted(file.url), format_of(file.relative, stated)
    if kind == "lance":
        raise InputError(
            f"{path}: Lance data sets are read from local folders only; copy it here, or store it as Parquet"
        )
    key = content_key("remote", file.size, file.token)
    return FileRef(path, file.relative, kind, file.size, key, version=file.token, url=file.url)


def _expand_url(url: str, stated: str | None) -> list[remote.RemoteFile]:
    files = remote.list_files(url, suffix_test=lambda name: stated is not None or bool(suffix_format(name)))
    if not files:
        raise InputError(f"{remote.redacted(url)}: no such file or folder, or no file of a known kind in it")
    folder = RemotePath(url.rstrip("/"))
    inside = {f.relative: f for f in files if f.url == (folder / f.relative).url}
    if NAME in inside:
        return [replace(f, relative=f.relative.rpartition("/")[2]) for f in _named(folder, _shards(folder), inside)]
    saved = hf_files(folder) if inside.keys() & {DICT, STATE} else None
    if saved is not None:
        return _named(folder, saved, inside)
    if inside and stated is not None:
        return [each for each in files if suffix_format(each.relative) == stated] or files
    return files


def _named(folder: RemotePath, names: list[str], inside: Mapping[str, remote.RemoteFile]) -> list[remote.RemoteFile]:
    """Files of a folder that something in it names."""
    for name in names:
        if name not in inside:
            raise InputError(f"{folder / name}: is missing, though the folder names it; copy the whole folder")
    return [inside[name] for name in names]


def _expand(pattern: str, stated: str | None) -> list[tuple[str, Path]]:
    path = Path(pattern)
    if path.is_file() or _is_lance(path):
        return [(path.name, path)]
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return [(shard.rpartition("/")[2], path / shard) for shard in _shards(path)]
        saved = hf_files(path)
        if saved is not None:
            return [(name, path / name) for name in saved]
        inside = [each for each in _walk(path) if stated is not None or suffix_format(each.name)]
        if stated is not None:
            inside = [each for each in inside if suffix_format(each.name) == stated] or inside
        if not inside:
            raise InputError(f"{path}: no file of a known kind in this folder ({SHOWN})")
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


def _is_lance(path: Path) -> bool:
    return path.suffix.lower() == ".lance" and path.is_dir()


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, without those that lie below or have a name that begins with a dot or an underscore."""
    for place, folders, names in os.walk(folder):
        lance = [name for name in folders if _is_lance(Path(place, name))]
        folders[:] = [name for name in folders if not name.startswith((".", "_")) and name not in lance]
        yield from (Path(place, name) for name in (*names, *lance) if not name.startswith((".", "_")))


def _shards(folder: Location) -> list[str]:
    """Shards of an output of ours, as its manifest names them."""
    try:
        return [shard.path for shard in read_manifest(folder).shards]
    except ManifestError as error:
        raise InputError(str(error)) from error


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
    kind = format_of(path, stated)
    try:
        stat = path.stat()
        if path.is_dir():
            return FileRef(str(path), relative, kind, *_folder_stamp(path))
        if kind == "images" and not verify:
            return FileRef(str(path), relative, kind, stat.st_size, _glance(path, stat), stat.st_mtime_ns)
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
    return FileRef(str(path), relative, kind, stat.st_size, key, stat.st_mtime_ns)


def _glance(path: Path, stat: os.stat_result) -> str:
    """Key of a file by size, time of change, inode and a little of both ends."""
    with path.open("rb") as file:
        head = file.read(GLANCE_BYTES)
        file.seek(max(0, stat.st_size - GLANCE_BYTES))
        digest = xxhash.xxh3_128(head + file.read(GLANCE_BYTES)).hexdigest()
    return content_key("file", stat.st_size, stat.st_mtime_ns, stat.st_ino, digest)


def _folder_stamp(folder: Path) -> tuple[int, str, int]:
    """Size, key and time of change of a data set that is a folder, by its files' sizes and times."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    stats = [(each.relative_to(folder).as_posix(), each.stat()) for each in files]
    key = content_key("folder", [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])
    # A folder's own time of change tells of files that come and go, which is what a data set's new version does.
    return sum(stat.st_size for _, stat in stats), key, folder.stat().st_mtime_ns
