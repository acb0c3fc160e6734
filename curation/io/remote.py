"""Stores that are named by URLs: everything that knows fsspec, with bounded waits and one message a failure class."""

from __future__ import annotations

import glob
import hashlib
import io
import math
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

from curation.errors import CurationError
from curation.io.atomic import TEMPORARY
from curation.urls import is_url, protocol_of, redacted

__all__ = [
    "RemoteError",
    "RemoteFile",
    "delete",
    "delete_tree",
    "exists",
    "filesystem",
    "is_url",
    "list_files",
    "open_read",
    "open_stream",
    "put_bytes",
    "put_file",
    "read_bytes",
    "redacted",
    "same_content",
    "sizes",
    "version",
    "versions",
    "walked",
]

T = TypeVar("T")

ATTEMPTS = 4
"""Tries of a request that fails for a reason that may pass."""
WAITS = (0.3, 1.0, 3.0)
"""Pauses between the tries, each up to a quarter longer by chance [s]."""
CONNECT_S = 5
"""Longest wait for a connection [s]; with all tries and pauses, an endpoint that is not there costs less than 30 s."""
READ_S = 60
"""Longest wait for the next bytes of an answer [s]."""
SLOWEST = 128 << 10
"""Rate below which an upload counts as stuck [bytes/s]."""

RANGE_BYTES = 128 << 10
"""Bytes read ahead where a reader jumps, such as from the footer of a Parquet file to its columns."""
STREAM_BYTES = 8 << 20
"""Bytes read at a time where a reader goes from front to back."""
PART_BYTES = 8 << 20
"""Part of a large upload. A file below twice this size is one request."""

READ_ONLY = frozenset({"http", "https"})
WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "r2"})
"""Stores that show an object only when all of it has arrived; elsewhere files get a temporary name first."""
S3 = frozenset({"s3", "s3a"})
EXTRAS = dict.fromkeys([*S3, *READ_ONLY], "s3")
"""Extra of this package that brings the client of a protocol; that of S3 is made of that of HTTP."""

Failure = Literal["bucket", "credentials", "denied", "missing", "changed", "unreachable", "busy", "other"]

TRANSIENT = frozenset[Failure]({"unreachable", "busy"})

_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
    "NoAuthTokenError",
    "ProfileNotFound",
    "DefaultCredentialsError",
}
_DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
_DENIED |= {"InvalidToken", "RequestTimeTooSkewed", "401", "403"}
_UNREACHABLE = {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ProxyConnectionError"}
_UNREACHABLE |= {"ClientConnectorError", "ServerDisconnectedError", "ServerTimeoutError", "SSLError", "gaierror"}
_NO_ANSWER = (ConnectionError, TimeoutError)
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"}
_BUSY |= {"FSTimeoutError", "ReadTimeoutError", "IncompleteRead", "ClientPayloadError", "HTTPClientError", "429"}

_MENDS: dict[Failure, str] = {
    "bucket": "there is no such bucket; make it, or correct its name",
    "credentials": "no credentials were found; set them in the environment (for S3 AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE) or in the configuration of fsspec",
    "denied": "access denied; check that the credentials in use are valid and allowed to do this",
    "missing": "no such object; it was never there or has been removed, name another or put it back",
    "changed": "was replaced while it was read; run the same command again when it is complete",
    "unreachable": f"the store did not answer, tried {ATTEMPTS} times; check the network and the endpoint (for S3 "
    "FSSPEC_S3_ENDPOINT_URL)",
    "busy": f"the store refused for now, tried {ATTEMPTS} times; run the same command again later",
    "other": "the store could not do this",
}


class RemoteError(CurationError):
    """A store did not do what it was asked; ``failure`` says why."""

    def __init__(self, message: str, failure: Failure = "other") -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True)
class RemoteFile:
    """One file of a store as it was found.

    ``relative`` is the path inside the input, ``token`` changes when the file is written to (ETag, generation,
    checksum or time of change, whatever the store has).
    """

    url: str
    relative: str
    size: int
    token: str


def filesystem(url: str) -> Any:
    """File system of fsspec that serves a URL, configured by the environment and fsspec alone.

    Raises
    ------
    RemoteError
        If the protocol is unknown or its client is not installed.
    """
    return _located(url)[0]


def _located(url: str) -> tuple[Any, str]:
    """File system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    protocol = protocol_of(url)
    try:
        found, path = url_to_fs(url, **_options(protocol))
    except ImportError as error:
        raise RemoteError(f"{redacted(url)}: the client for {protocol}:// is missing; {_install(protocol)}") from error
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise RemoteError(f"{redacted(url)}: is no URL of {protocol}:// that can be read; correct it") from error
        raise RemoteError(f"{redacted(url)}: expected a protocol that fsspec knows, got {protocol}://") from error
    if protocol in S3:
        found.retries = 1  # tries are counted in one place, here
    return found, path


def _install(protocol: str) -> str:
    if protocol in EXTRAS:
        return f"install the extra: pip install 'curation[{EXTRAS[protocol]}]'"
    from fsspec.registry import known_implementations

    return str(known_implementations.get(protocol, {}).get("err", "install the package that brings it"))


def _options(protocol: str) -> dict[str, Any]:
    """Waits that end, beneath what the user has configured: an option given by hand would hide the user's own."""
    from fsspec.config import conf

    if protocol in S3:
        waits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 1}}
        for name in sorted(S3):
            waits |= conf.get(name, {}).get("config_kwargs", {})
        return {"config_kwargs": waits, "use_listings_cache": False}
    if protocol in READ_ONLY:
        import aiohttp

        wait = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        return {"client_kwargs": {"timeout": wait} | conf.get(protocol, {}).get("client_kwargs", {})}
    return {}


def _tried(url: str, call: Callable[[], T]) -> T:
    """Result of a request; tried again where waiting may help, and explained where not."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if isinstance(error, CurationError):
                raise
            failure, detail = _why(error)
            if failure not in TRANSIENT or attempt == ATTEMPTS - 1:
                raise RemoteError(f"{redacted(url)}: {_MENDS[failure]}{detail}", failure) from error
            time.sleep(WAITS[attempt] * random.uniform(1.0, 1.25))
    raise AssertionError("unreachable")


def _asked(url: str, store: Any, method: str, *args: Any, sent: int = 0, **options: Any) -> Any:
    """Result of a method of a file system, within a time that follows from the bytes that are sent.

    The waits of clients do not cover all: none ends when a server takes a connection and then never asks for the body.
    """
    if store.async_impl:
        options["timeout"] = READ_S + sent / SLOWEST
    return _tried(url, lambda: getattr(store, method)(*args, **options))


def _why(error: BaseException) -> tuple[Failure, str]:
    """Class of a failure, and what the store called it; texts of clients may hold secrets and are not passed on."""
    chain = list(_causes(error))
    names = {type(each).__name__ for each in chain}
    codes = {code for each in chain for code in _codes(each)}
    tests: list[tuple[Failure, bool]] = [
        ("bucket", "NoSuchBucket" in codes),
        ("credentials", bool(names & _CREDENTIALS)),
        ("denied", bool(codes & _DENIED) or any(isinstance(each, PermissionError) for each in chain)),
        ("changed", "FileExpired" in names or bool(codes & {"PreconditionFailed", "412"})),
        ("busy", bool((codes | names) & _BUSY) or any(re.fullmatch("5..", code) for code in codes)),
        (
            "unreachable",
            bool(names & _UNREACHABLE) or any(isinstance(each, _NO_ANSWER) for each in chain),
        ),
        # Last, since a client may take every failure of a look-up for a missing object.
        ("missing", any(isinstance(each, FileNotFoundError) for each in chain) or "404" in codes),
    ]
    found = next((failure for failure, holds in tests if holds), None)
    if found is not None:
        return found, ""
    return "other", f" ({', '.join(sorted(codes)) or type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__, seen + 1


def _codes(error: BaseException) -> Iterator[str]:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        yield str(response.get("Error", {}).get("Code", ""))
        yield str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    status = getattr(error, "status", None)
    if isinstance(status, int):
        yield str(status)


# Reading


class _Reader(io.RawIOBase):
    """A file of a store whose reads are tried again."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file, self._at = url, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = self._at + offset, io.SEEK_SET
        self._at = int(self._file.seek(offset, whence))
        return self._at

    def read(self, size: int = -1) -> bytes:
        def once() -> bytes:
            self._file.seek(self._at)
            data: bytes = self._file.read(size)
            return data

        data = _tried(self._url, once)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_read(url: str, *, version: str = "") -> BinaryIO:
    """Open for reading here and there: seekable, and with little read ahead.

    Parameters
    ----------
    url
        The file.
    version
        Its token as it was found; nothing is whatever stands there now.

    Raises
    ------
    RemoteError
        If it cannot be opened, or is another one meanwhile; later reads raise it, too.
    """
    return _opened(url, RANGE_BYTES, version)


def open_stream(url: str, *, version: str = "") -> BinaryIO:
    """Open as :func:`open_read` does, to read from front to back in large blocks: jumps cost a block each."""
    return _opened(url, STREAM_BYTES, version)


def _opened(url: str, block: int, version: str) -> BinaryIO:
    store, path = _located(url)
    if protocol_of(url) == "memory":  # all who open a file there share one position
        _same(url, version, _token(store, _info(url)))
        return io.BytesIO(_asked(url, store, "cat_file", path))
    store.invalidate_cache()
    file = _tried(url, lambda: store.open(path, "rb", block_size=block, cache_type="readahead"))
    if protocol_of(url) in S3:  # it was looked at to open it, and reads are bound to that version
        _same(url, version, _token(store, file.details))
    return cast("BinaryIO", _Reader(url, file))


def _same(url: str, version: str, now: str) -> None:
    if version not in ("", now):
        raise RemoteError(f"{redacted(url)}: {_MENDS['changed']}", "changed")


def read_bytes(url: str) -> bytes:
    """All bytes of a small file."""
    store, path = _located(url)
    data: bytes = _asked(url, store, "cat_file", path)
    return data


# Looking


def _info(url: str) -> dict[str, Any]:
    store, path = _located(url)
    store.invalidate_cache()
    found: dict[str, Any] = _asked(url, store, "info", path)
    return found


def exists(url: str) -> bool:
    """Whether a file, or anything below a prefix, is there."""
    try:
        _info(url)
    except RemoteError as error:
        if error.failure == "missing":
            return False
        raise
    return True


def version(url: str) -> str:
    """Token of a file as it is now, to compare with :attr:`RemoteFile.token`.

    Raises
    ------
    RemoteError
        If it is gone, with failure ``missing``, or cannot be looked at.
    """
    return _token(_located(url)[0], _info(url))


def versions(folder: str) -> dict[str, str]:
    """Tokens of the files that lie directly in a folder, by name; empty if nothing is there."""
    store, path = _located(folder)
    store.invalidate_cache()
    try:
        found = _asked(folder, store, "ls", path, detail=True)
    except RemoteError as error:
        if error.failure != "missing":
            raise
        return {}
    return {info["name"].rpartition("/")[2]: _token(store, info) for info in found if info["type"] == "file"}


_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created", "Last-Modified")
_TOKENS = ("ETag", "etag", "md5Hash", "generation", "checksum", "content_md5", "Content-MD5", "Digest", *_TIMES)


def _token(store: Any, info: Mapping[str, Any]) -> str:
    """What changes when a file is written to; listings and single look-ups of a store say the same."""
    for name in _TOKENS:
        value = info.get(name)
        if value not in (None, "", b""):
            text = str(value.timestamp()) if isinstance(value, datetime) else str(value).strip('"')
            return f"{info.get('size')}-{text}"
    return str(store.ukey(info["name"]))


def list_files(pattern_url: str, *, suffix_test: Callable[[str], bool]) -> list[RemoteFile]:
    """Files that a URL names, sorted by their path inside it.

    Parameters
    ----------
    pattern_url
        A file, a folder (searched recursively; names that begin with ``.`` or ``_`` are left out) or a glob.
    suffix_test
        Whether a file of a folder is taken, by its name.

    Returns
    -------
    list of RemoteFile
        Empty if nothing is there or matches.

    Raises
    ------
    RemoteError
        If the store cannot be asked.
    """
    store, path = _located(pattern_url)
    store.invalidate_cache()
    try:
        info = _info(pattern_url)
    except RemoteError as error:
        if error.failure != "missing":
            raise
        return _globbed(pattern_url, store, path)
    if info["type"] == "file":
        name = redacted(pattern_url).rpartition("/")[2]
        return [RemoteFile(pattern_url, name, int(info["size"]), _token(store, info))]
    root, url = path.rstrip("/"), pattern_url.rstrip("/")
    found = _asked(pattern_url, store, "find", root, detail=True)
    files = _below(root, url, store, found)
    return [
        each
        for each in files
        if suffix_test(each.relative.rpartition("/")[2])
        and not any(part.startswith((".", "_")) for part in each.relative.split("/"))
    ]


def _globbed(url: str, store: Any, path: str) -> list[RemoteFile]:
    if not glob.has_magic(redacted(url) if protocol_of(url) in READ_ONLY else path):
        return []
    fixed = re.split(r"[*?\[]", path, maxsplit=1)[0].rpartition("/")[0]
    rest = path[len(fixed) + 1 :]
    base = url[: len(url) - len(rest)].rstrip("/")
    found = _asked(url, store, "glob", path, detail=True)
    hidden = any(part.startswith(".") for part in rest.split("/"))
    files = _below(fixed, base, store, found)
    return [each for each in files if hidden or not any(part.startswith(".") for part in each.relative.split("/"))]


def _below(root: str, url: str, store: Any, found: Mapping[str, Mapping[str, Any]]) -> list[RemoteFile]:
    files = [
        RemoteFile(f"{url}/{name[len(root) + 1 :]}", name[len(root) + 1 :], int(info["size"]), _token(store, info))
        for name, info in found.items()
        if info["type"] == "file" and len(name) > len(root)
    ]
    return sorted(files, key=lambda each: each.relative)


def walked(url: str) -> dict[str, tuple[int, float]]:
    """Everything below a folder, by path inside it: bytes, and when it was written; empty if nothing is there.

    The time is in seconds since 1970, and infinite in a store that knows none.
    """
    store, path = _located(url)
    store.invalidate_cache()
    root = path.rstrip("/")
    try:
        found = _asked(url, store, "find", root, detail=True)
    except RemoteError as error:
        if error.failure != "missing":
            raise
        return {}
    return {
        name[len(root) + 1 :]: (int(info["size"]), _written(info))
        for name, info in sorted(found.items())
        if info["type"] == "file" and len(name) > len(root)
    }


def sizes(url: str) -> dict[str, int]:
    """Bytes of everything below a folder, by path inside it; empty if nothing is there."""
    return {path: size for path, (size, _) in walked(url).items()}


def _written(info: Mapping[str, Any]) -> float:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return float(value.timestamp())
        if isinstance(value, int | float):
            return float(value)
    return math.inf


# Writing


def put_file(local: Path, url: str) -> None:
    """Upload a file; it shows under its name only when all of it has arrived.

    Raises
    ------
    RemoteError
        If it could not be sent, or has another size there.
    """
    size = local.stat().st_size
    store, path = _writable(url)
    parts = {"chunksize": PART_BYTES} if protocol_of(url) in S3 else {}
    _put(url, store, path, size, lambda to: _asked(url, store, "put_file", str(local), to, sent=size, **parts))


def put_bytes(data: bytes, url: str) -> None:
    """Upload a small file from memory, as :func:`put_file` does."""
    store, path = _writable(url)
    _put(url, store, path, len(data), lambda to: _asked(url, store, "pipe_file", to, data, sent=len(data)))


def _writable(url: str) -> tuple[Any, str]:
    if protocol_of(url) in READ_ONLY:
        raise RemoteError(f"{redacted(url)}: {protocol_of(url)}:// can only be read; name a store such as s3://")
    return _located(url)


def _put(url: str, store: Any, path: str, size: int, send: Callable[[str], Any]) -> None:
    whole = protocol_of(url) in WHOLE_PUTS
    folder, _, name = path.rpartition("/")
    target = path if whole else f"{folder}/{TEMPORARY}{secrets.token_hex(6)}-{name}"
    if not whole:
        _tried(url, lambda: store.makedirs(folder, exist_ok=True))
    send(target)
    store.invalidate_cache()
    arrived = int(_asked(url, store, "info", target)["size"])
    if arrived != size:
        raise RemoteError(f"{redacted(url)}: expected {size} bytes in the store, got {arrived}; run the command again")
    if not whole:
        _tried(url, lambda: store.mv(target, path))


def same_content(local: Path, url: str) -> bool:
    """Whether the store has this very file, as far as it can be told without reading it.

    Sizes must agree, and where the store has an S3 ETag, that too. Stores that encrypt with keys of their own have
    other ETags: the file then counts as another one.
    """
    try:
        info = _info(url)
    except RemoteError as error:
        if error.failure == "missing":
            return False
        raise
    if info["type"] != "file" or int(info["size"]) != local.stat().st_size:
        return False
    tag = str(info.get("ETag") or "").strip('"')
    return protocol_of(url) not in S3 or not tag or tag == _etag(local)


def _etag(local: Path) -> str:
    """ETag that S3 gives to what :func:`put_file` sends."""
    size = local.stat().st_size
    with local.open("rb") as file:
        if size < 2 * PART_BYTES:
            return hashlib.file_digest(file, _md5).hexdigest()
        parts = [_md5(part).digest() for part in iter(lambda: file.read(PART_BYTES), b"")]
    return f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def delete(url: str) -> None:
    """Remove a file, if it is there."""
    store, path = _writable(url)
    _removed(url, store, "rm_file", path)


def delete_tree(url: str) -> None:
    """Remove everything below a folder, if it is there."""
    store, path = _writable(url)
    store.invalidate_cache()
    _removed(url, store, "rm", path.rstrip("/"), recursive=True)


def _removed(url: str, store: Any, method: str, path: str, **options: Any) -> None:
    try:
        _asked(url, store, method, path, **options)
    except RemoteError as error:
        if error.failure != "missing":
            raise
