"""Finished work on disk: every result is a file named by its content key, counted only once its done-mark stands."""

from __future__ import annotations

import base64
import json
import mmap
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from curation.io.atomic import TEMPORARY, dump_json, void, write_atomic, write_json

OUTGOING = "outgoing"
"""Folder of the work directory in which results for a store are laid out until they are sent."""

Mark = dict[str, Any]
"""What a job leaves behind: small, JSON-able, equal for equal keys (arrays by :func:`encode`)."""


@dataclass(frozen=True)
class Store:
    """The work directory. Safe for any number of processes: a key has one content, whoever writes it."""

    root: str

    def _path(self, key: str, suffix: str) -> Path:
        return Path(self.root) / "objects" / key[:2] / f"{key}{suffix}"

    def mark(self, key: str) -> Mark | None:
        """Done-mark of a job, or ``None`` if it is not done or its data are gone or cut short."""
        try:
            mark: Mark = json.loads(self._path(key, ".json").read_text("utf-8"))
            if any(self.data(key, each["suffix"]).stat().st_size != each["bytes"] for each in _files(mark)):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return mark

    def finish(self, key: str, value: Mark) -> Mark:
        """Put the done-mark of a job whose data, if any, have been written; returns it as it will be read back."""
        write_json(self._path(key, ".json"), value, written="mark:written", named="mark:named")
        # A mark of this run and one of an earlier run must not differ, not even in the order of keys.
        mark: Mark = json.loads(dump_json(value))
        return mark

    def data(self, key: str, suffix: str = ".arrow") -> Path:
        """Where the data of a job are, or will be."""
        return self._path(key, suffix)

    def write(self, key: str, suffix: str, write: Callable[[Path], None]) -> Mark:
        """Write the data of a job; returns what its mark has to say of them (``{"data": {...}}``)."""
        digest = ""

        def fill(path: Path) -> None:
            nonlocal digest
            write(path)
            digest = digest_of(path)

        path = self.data(key, suffix)
        write_atomic(path, fill, written="object:written", named="object:named")
        return {"data": {"suffix": suffix, "bytes": path.stat().st_size, "xxh3": digest}}

    def write_table(self, key: str, table: pa.Table) -> Mark:
        """Write a table as one uncompressed Arrow IPC file, so that readers map slices of it without decoding."""

        def fill(path: Path) -> None:
            whole = table.combine_chunks()
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
                writer.write_table(whole)

        return self.write(key, ".arrow", fill)

    def table(self, key: str) -> pa.Table:
        """Map the table that a job has written."""
        with pa.memory_map(str(self.data(key))) as source:
            return pa.ipc.open_file(source).read_all()

    def intact(self, key: str, mark: Mark) -> bool:
        """Whether the data still have the hash that their mark states."""
        return all(digest_of(self.data(key, each["suffix"])) == str(each["xxh3"]) for each in _files(mark))

    def forget(self, key: str) -> None:
        """Take a done-mark back."""
        self._path(key, ".json").unlink(missing_ok=True)

    def rebooted(self) -> bool:
        """Whether the machine was started anew since the last build here; from now on, it was not.

        Intermediates are not forced to the disk, so a power cut may leave files of the right size without their bytes.
        """
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return True
        note = Path(self.root) / "boot"
        try:
            before = note.read_text("ascii")
        except OSError:
            before = ""
        if before != boot:
            write_atomic(
                note, lambda path: void(path.write_text(boot, "ascii")), written="object:written", named="object:named"
            )
        return before != boot

    def sweep(self, used: Iterable[str]) -> None:
        """Remove everything that is not named by ``used``: older builds' work and unfinished files."""
        for leftover in Path(self.root).glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        keep = set(used)
        for path in (Path(self.root) / "objects").glob("*/*"):
            if path.name.partition(".")[0] not in keep:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all finished work; whatever else lies in the folder is not ours."""
        for name in ("objects", OUTGOING):
            shutil.rmtree(Path(self.root) / name, ignore_errors=True)
        (Path(self.root) / "boot").unlink(missing_ok=True)


def _files(mark: Mark) -> list[Any]:
    """What a mark says of its files: the data, and a sidecar where there is one."""
    return [mark[name] for name in ("data", "sidecar") if mark.get(name) is not None]


def digest_of(path: Path) -> str:
    """xxh3-128 of a file, as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    if path.stat().st_size:
        # Mapped rather than read: just written pages are hashed where they lie, without a copy.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            digest.update(view)
    return str(digest.hexdigest())


def encode(value: Any) -> Any:
    """Make a state JSON-able: arrays become base64 with dtype and shape, tuples lists."""
    if isinstance(value, np.ndarray):
        raw = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": raw, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    return value


def decode(value: Any) -> Any:
    """Undo :func:`encode`."""
    if isinstance(value, dict):
        if "__array__" in value:
            flat = np.frombuffer(base64.b64decode(value["__array__"]), dtype=value["dtype"])
            return flat.reshape(value["shape"])
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return [decode(each) for each in value]
    return value


LARGE_STATE = 1 << 16
"""A partial state of more characters than this is a file of its own, so that the driver never holds all of them."""


def keep_part(store: Store, key: str, state: Any) -> Mark:
    """What a mark says of a partial state: the state itself, or the file that it was written to."""
    text = dump_json(encode(state))
    if len(text) <= LARGE_STATE:
        return {"state": json.loads(text)}
    return {"state": {}} | store.write(key, ".state", lambda path: void(path.write_text(text, "utf-8")))


def load_part(store: Store, key: str) -> Any:
    """Partial state of a job that is done."""
    mark = store.mark(key)
    if mark is None:
        raise FileNotFoundError(f"{store.root}: state {key} is gone; run the same command again")
    if "data" in mark:
        return decode(json.loads(store.data(key, ".state").read_text("utf-8")))
    return decode(mark["state"])


@lru_cache(maxsize=64)
def load_artifact(store: Store, key: str) -> dict[str, tuple[tuple[int, str], ...]] | None:
    """Keys of the tables that belong to a state, by step, for a stage that looks rows up in them; else None."""
    found = (store.mark(key) or {}).get("tables")
    return None if found is None else {step: tuple((n, k) for n, k in keys) for step, keys in found.items()}


@lru_cache(maxsize=64)
def load_state(store: Store, key: str) -> Any:
    """State of a stage, read once per process."""
    mark = store.mark(key)
    if mark is None:
        raise FileNotFoundError(f"{store.root}: state {key} is gone; run the same command again")
    return decode(mark["state"])
