"""Shards of a store in a bounded folder: fetched before they are needed, removed when they are needed last.

Processes share the folder without locks. A file has its name only when all of it has arrived and its hash is right;
before that it is a temporary file of one process. Who sees that another process is fetching a file waits, as long as
that file grows; if it does not, its process is gone, and the file is fetched anew.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from curation.feed.columns import As
from curation.feed.plan import FeedError
from curation.feed.shards import Batch, Format, ShardSet, chosen_columns, runs
from curation.io.atomic import TEMPORARY, explained
from curation.io.location import RemotePath
from curation.io.remote import STREAM_BYTES, open_stream

Numbers = NDArray[np.int64]

HORIZON = 64
"""Batches that are looked ahead."""
FETCHERS = 4
"""Shards that one process fetches at a time."""
TRIES = 20
"""Times that a shard is fetched which other processes remove at once."""
STALE_S = 5.0
"""Time without growth after which a temporary file counts as left behind [s]."""
SWEPT_S = 600.0
"""Age at which a temporary file is removed [s]."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a store: where it is, and its bytes and xxh3-128 by the manifest."""

    place: RemotePath
    bytes: int
    xxh3: str

    @property
    def name(self) -> str:
        """Name in the folder."""
        return f"{self.xxh3}-{self.place.name}"


@dataclass(frozen=True)
class StoredShard:
    """A shard of a store, its rows, and its sidecar where it has one."""

    rows: int
    file: StoredFile
    sidecar: StoredFile | None

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The sidecar first: the shard is there when its own file is."""
        return (self.file,) if self.sidecar is None else (self.sidecar, self.file)

    @property
    def bytes(self) -> int:
        """Bytes of both."""
        return sum(file.bytes for file in self.files)


class CachedShards:
    """The rows of a build in a store, read at any positions, with at most ``max_bytes`` of them on the disk.

    If all shards fit they are fetched before the first batch, and then read as those of a local build are. If not,
    each is looked at once before the first batch (what was found is kept in the folder), and later ones are fetched
    while earlier batches are used.

    Parameters
    ----------
    shards
        Shards in the order of the stored table.
    schema
        Of the rows, by the manifest.
    format
        Of the shards.
    folder
        Folder of this build; other processes may use it, too.
    max_bytes
        Most bytes of shards in the folder, give or take what other processes are fetching; None is no limit.
    verify
        Check the hashes of files that are in the folder already.

    Raises
    ------
    FeedError
        If a shard does not fit by itself.
    """

    def __init__(
        self,
        shards: Sequence[StoredShard],
        schema: pa.Schema,
        format: Format,
        folder: Path,
        *,
        max_bytes: int | None = None,
        verify: bool = False,
    ) -> None:
        largest = max((shard.bytes for shard in shards), default=0)
        if max_bytes is not None and max_bytes < largest:
            raise FeedError(
                f"cache_bytes: expected room for the largest shard of {largest} bytes, got {max_bytes}; allow more, "
                "or build with fewer shard_rows"
            )
        self._shards, self._schema, self._format = list(shards), schema.remove_metadata(), format
        self._folder, self._verify = folder, verify
        self._starts = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])]).astype(np.int64)
        total = sum(shard.bytes for shard in shards)
        self._max_bytes = max_bytes if max_bytes is not None and max_bytes < total else None
        room = FETCHERS if self._max_bytes is None else self._max_bytes // max(largest, 1)
        self._fetchers = max(1, min(FETCHERS, room))
        self._checked: tuple[pa.Schema, frozenset[str]] | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[int, ShardSet] = {}
        self._flying: dict[int, Future[ShardSet]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._whole: ShardSet | None = None
        self._seen: set[str] = set()
        self._upcoming: Callable[[int], Numbers | None] = lambda _: None

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it shares the folder, not the threads."""
        own = ("_lock", "_open", "_flying", "_pool", "_whole", "_seen", "_upcoming")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def n_rows(self) -> int:
        """Rows of all shards."""
        return int(self._starts[-1])

    def expect(self, upcoming: Callable[[int], Numbers | None]) -> None:
        """Hear what will be read: ``upcoming(i)`` are the positions of the batch after the next ``i``, or None."""
        self._upcoming = upcoming

    def check_columns(self, columns: Sequence[str] | None) -> list[str]:
        """Wanted columns, or all; refuses those that do not exist."""
        return chosen_columns(columns, self._schema.names)

    def check(self) -> tuple[pa.Schema, frozenset[str]]:
        """Look at every shard once; see `ShardSet.check`.

        Raises
        ------
        FeedError
            If a shard is not what the manifest says.
        CurationError
            If the store does not give it.
        """
        with self._lock:
            if self._checked is None:
                sweep(self._folder)
                nullable = self._look_at_whole() if self._max_bytes is None else self._look_one_by_one()
                self._checked = (self._schema, frozenset(nullable))
            return self._checked

    def take(self, positions: Numbers, columns: Sequence[str] | None = None, as_: As = "numpy") -> Batch:
        """Rows at some positions; see `ShardSet.take`."""
        self.check()
        if self._max_bytes is None:
            return self._all().take(positions, columns, as_)
        names = self.check_columns(columns)
        as_ = "arrow" if as_ == "values" else as_  # a shard may go as soon as its rows are copied
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.n_rows):
            raise FeedError(
                f"positions: expected 0 <= position < {self.n_rows}, got {positions.min()} to {positions.max()}"
            )
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        parts = [
            self._rows_of(index, ordered[run] - self._starts[index], names, as_)
            for index, run in runs(ordered, self._starts)
        ]
        self._fetch_ahead()
        if not parts:
            return self._rows_of(0, positions, names, as_)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return {name: _joined([part[name] for part in parts], back) for name in names}

    # Looking at all shards

    def _look_at_whole(self) -> set[str]:
        return set(self._all().check()[1])

    def _all(self) -> ShardSet:
        """All shards, once they are here."""
        with self._lock:
            if self._whole is None:
                with ThreadPoolExecutor(self._fetchers, thread_name_prefix="curation-fetch") as pool:
                    list(pool.map(self._fetch, range(len(self._shards))))
                whole = self._set(range(len(self._shards)))
                if self._checked is not None:
                    whole.assume(self._checked)
                self._whole = whole
            return self._whole

    def _look_one_by_one(self) -> set[str]:
        nullable: set[str] = set()
        for index, shard in enumerate(self._shards):
            note = self._folder / f"{shard.file.name}.json"
            try:
                nullable |= set(json.loads(note.read_text("utf-8"))["nullable"])
            except (OSError, ValueError, KeyError, TypeError):
                found = self._look_at(index)
                _put(note, json.dumps({"nullable": sorted(found)}).encode())
                nullable |= found
        return nullable

    def _look_at(self, index: int) -> frozenset[str]:
        schema, nullable = self._held(index).check()
        if not schema.equals(self._schema):
            raise FeedError(f"{self._shards[index].file.place}: expected the schema of the manifest; build again")
        return nullable

    def _set(self, indices: Sequence[int]) -> ShardSet:
        chosen = [self._shards[i] for i in indices]
        sidecars = [None if each.sidecar is None else self._folder / each.sidecar.name for each in chosen]
        paths = [self._folder / each.file.name for each in chosen]
        return ShardSet(paths, [each.rows for each in chosen], self._format, sidecars=sidecars)

    # One shard at a time

    def _rows_of(self, index: int, rows: Numbers, names: list[str], as_: As) -> Batch:
        return self._shard(index).take(rows, names, as_)

    def _shard(self, index: int) -> ShardSet:
        with self._lock:
            if index in self._open:
                return self._open[index]
            flying = self._flying.get(index) or self._start(index)
        return flying.result()

    def _start(self, index: int) -> Future[ShardSet]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._fetchers, thread_name_prefix="curation-fetch")
        self._flying[index] = future = self._pool.submit(self._open_one, index)
        return future

    def _open_one(self, index: int) -> ShardSet:
        try:
            found = self._held(index)
            if self._checked is not None:
                found.assume(self._checked)
            with self._lock:
                self._open[index] = found
            return found
        finally:
            with self._lock:
                self._flying.pop(index, None)

    def _held(self, index: int) -> ShardSet:
        """One shard, by descriptors that are open: it stays readable when its files are removed."""
        for _ in range(TRIES):
            self._fetch(index)
            held: list[int] = []
            try:
                held += [os.open(self._folder / file.name, os.O_RDONLY) for file in self._shards[index].files]
            except FileNotFoundError:  # another process was short of room between our look and here
                _close(held)
                continue
            *sidecar, path = [Path(f"/proc/self/fd/{each}") for each in held]
            found = ShardSet([path], [self._shards[index].rows], self._format, sidecars=[*sidecar, None][:1])
            weakref.finalize(found, _close, held)
            return found
        raise FeedError(
            f"{self._folder}: its files are removed as fast as they come; give trainings with different cache_bytes "
            "folders of their own"
        )

    def _fetch_ahead(self) -> None:
        """Begin to fetch what is needed next, as long as that drives out nothing that is needed sooner."""
        with self._lock:
            if len(self._flying) >= self._fetchers:
                return
            uses = self._next_uses()
            here = self._here()
            free = (self._max_bytes or 0) - sum(self._shards[i].bytes for i in {*here, *self._flying})
            last = sorted(here, key=lambda i: uses.get(i, HORIZON))
            for index, use in sorted(uses.items(), key=lambda item: item[1]):
                if index in here or index in self._flying:
                    continue
                while free < self._shards[index].bytes and last and uses.get(last[-1], HORIZON) > use:
                    free += self._shards[last.pop()].bytes
                if free < self._shards[index].bytes or len(self._flying) >= self._fetchers:
                    return
                free -= self._shards[index].bytes
                self._start(index)

    def _next_uses(self) -> dict[int, int]:
        """Batches until each shard is needed, of those needed within the horizon."""
        uses: dict[int, int] = {}
        for i in range(HORIZON):
            positions = self._upcoming(i)
            if positions is None or len(uses) == len(self._shards):
                break
            for index in np.unique(np.searchsorted(self._starts, positions, side="right") - 1).tolist():
                uses.setdefault(index, i)
        return uses

    def _here(self) -> set[int]:
        return {i for i, shard in enumerate(self._shards) if (self._folder / shard.file.name).exists()}

    def _make_room(self, index: int) -> None:
        """Remove what is needed last until a shard fits."""
        if self._max_bytes is None:
            return
        with self._lock:
            here = self._here() - {index}
            kept = sum(self._shards[i].bytes for i in {*here, *self._flying, index})
            uses = self._next_uses() if kept > self._max_bytes else {}
            for i in sorted(here - set(self._flying), key=lambda i: (-uses.get(i, HORIZON), i)):
                if kept <= self._max_bytes:
                    return
                for file in reversed(self._shards[i].files):
                    (self._folder / file.name).unlink(missing_ok=True)
                self._open.pop(i, None)
                kept -= self._shards[i].bytes

    def _fetch(self, index: int) -> None:
        """Bring a shard into the folder, unless it is there."""
        for file in self._shards[index].files:
            path = self._folder / file.name
            while not self._stands(file, path):
                if not _being_fetched(path):
                    self._make_room(index)
                    _fetch_file(file, path)
                    self._seen.add(file.name)
                else:
                    time.sleep(0.05)

    def _stands(self, file: StoredFile, path: Path) -> bool:
        try:
            if path.stat().st_size != file.bytes:
                path.unlink(missing_ok=True)
                return False
            if self._verify and file.name not in self._seen:
                if file_hash(path) != file.xxh3:
                    path.unlink(missing_ok=True)
                    return False
                self._seen.add(file.name)
        except FileNotFoundError:
            return False
        return True


def _close(descriptors: list[int]) -> None:
    for each in descriptors:
        os.close(each)


def _joined(parts: list[Any], back: Numbers) -> Any:
    """Parts of a batch in the order of the batch."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[back]
    whole = pa.chunked_array(parts).unify_dictionaries()
    return pa.concat_arrays(whole.chunks).take(pa.array(back))


def _being_fetched(path: Path) -> bool:
    """Whether another process is at it: its temporary file grows."""
    now = time.time()
    for each in path.parent.glob(f"{TEMPORARY}*-{path.name}"):
        try:
            if now - each.stat().st_mtime < STALE_S:
                return True
        except FileNotFoundError:
            continue
    return False


def _fetch_file(file: StoredFile, path: Path) -> None:
    digest, size = xxhash.xxh3_128(), 0
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as to, open_stream(file.place.url) as source:
                while block := source.read(STREAM_BYTES):
                    to.write(block)
                    to.flush()
                    digest.update(block)
                    size += len(block)
            if (size, digest.hexdigest()) != (file.bytes, file.xxh3):
                raise FeedError(
                    f"{file.place}: expected {file.bytes} bytes with the xxh3 {file.xxh3}, got {size} with "
                    f"{digest.hexdigest()}; build again with --force"
                )
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _put(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")
    with explained(path):
        temporary.write_bytes(data)
        os.replace(temporary, path)


def sweep(folder: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for each in folder.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - each.stat().st_mtime > SWEPT_S:
                each.unlink(missing_ok=True)
        except FileNotFoundError:
            continue


def file_hash(path: Path) -> str:
    """xxh3-128 of a local file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
