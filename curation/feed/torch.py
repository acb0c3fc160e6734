"""Adapters for torch: a map-style data set with its batch sampler, and an iterable one; both give the plan's order.

With workers of a ``DataLoader`` a batch travels as one buffer: in the message if it is small, in anonymous shared
memory if it is large. A tensor of its own for each column would cost a round trip between the processes for each.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_longlong
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from curation.feed.evaluate import Order
from curation.feed.gather import Values, gathers, item_bytes
from curation.feed.loader import BatchReader, state_of, step_of, steps_of
from curation.feed.plan import FeedError, check_rank
from curation.feed.ring import Ring, Ticket, received

if TYPE_CHECKING:
    from curation.api import Build

__all__ = ["PlanBatchSampler", "Ragged", "TorchDataset", "TorchIterable", "collate", "plan_state"]

RING_BYTES = 16 << 10
"""Bytes from which a batch travels in the ring of its worker; a pipe holds 64 KiB at a time."""
SHARED_BYTES = 512 << 10
"""Bytes from which it travels in fresh shared memory where the ring is full, which takes about a millisecond more."""
_ALIGNED = 64


class Ragged:
    """Values of different length of one column: texts, bytes, or lists of numbers.

    ``values[i]`` is a ``str``, ``bytes`` or tensor, or None for null; ``list(values)`` has all. Nothing is copied
    until then: ``data`` holds the values one behind the other, ``offsets`` (n + 1,) where each begins and ends.

    Parameters
    ----------
    data
        uint8 for texts and bytes, else numbers.
    offsets
        (n + 1,) int64, in items of ``data``.
    kind
        ``text``, ``bytes`` or ``list``.
    known
        (n,) bool, false for null; None is no null.
    """

    def __init__(self, data: torch.Tensor, offsets: torch.Tensor, kind: str, known: torch.Tensor | None = None) -> None:
        self.data, self.offsets, self.kind, self.known = data, offsets, kind, known

    @classmethod
    def copied(cls, values: Values) -> Ragged:
        """Copy of gathered values."""
        data, ends = values.packed()
        return cls(torch.from_numpy(data).view(_item(values.type)), *_places(values, ends))

    @classmethod
    def of(cls, array: pa.Array) -> Ragged:
        """Values of an Arrow array of texts, bytes or lists of numbers, over the same memory."""
        known = None if not array.null_count else torch.from_numpy(array.is_valid().to_numpy(zero_copy_only=False))
        kind = _kind(array)
        wide = np.int64 if array.type in (pa.large_string(), pa.large_binary()) or _is_large_list(array) else np.int32
        places, last = array.buffers()[1], array.buffers()[-1]
        offsets = np.zeros(1, wide) if places is None else np.frombuffer(places, wide)
        offsets = offsets[array.offset :][: len(array) + 1].astype(np.int64)
        if kind == "list":
            data = array.values.to_numpy()
        else:
            data = np.empty(0, np.uint8) if last is None else np.frombuffer(last, np.uint8)
        return cls(_tensor(data), torch.from_numpy(offsets), kind, known)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str | bytes | torch.Tensor | None:
        at = range(len(self))[i]
        if self.known is not None and not self.known[at]:
            return None
        value = self.data[int(self.offsets[at]) : int(self.offsets[at + 1])]
        if self.kind == "list":
            return value
        raw = value.numpy().tobytes()
        return raw.decode() if self.kind == "text" else raw

    def __iter__(self) -> Iterator[str | bytes | torch.Tensor | None]:
        if self.kind == "list":
            yield from (self[i] for i in range(len(self)))
            return
        # At once for all: torch takes microseconds for each number that is looked at alone.
        memory, ends = self.data.cpu().numpy().data, self.offsets.tolist()
        known = [True] * len(self) if self.known is None else self.known.tolist()
        for i, there in enumerate(known):
            raw = memory[ends[i] : ends[i + 1]].tobytes() if there else None
            yield raw.decode() if raw is not None and self.kind == "text" else raw

    def pin_memory(self) -> Ragged:
        """Copy in page-locked memory."""
        known = None if self.known is None else self.known.pin_memory()
        return Ragged(self.data.pin_memory(), self.offsets.pin_memory(), self.kind, known)

    def to(self, device: Any, non_blocking: bool = False) -> Ragged:
        """Copy on a device."""
        known = None if self.known is None else self.known.to(device, non_blocking=non_blocking)
        data, offsets = (part.to(device, non_blocking=non_blocking) for part in (self.data, self.offsets))
        return Ragged(data, offsets, self.kind, known)

    def __repr__(self) -> str:
        return f"Ragged({len(self)} values, {self.kind}, {self.data.nbytes} bytes)"


@dataclass(frozen=True)
class PlanBatch:
    """Name of a batch of the plan, as it goes from a sampler to a data set."""

    step: int
    rank: int
    world_size: int


class _Range:
    """Steps of one pass over the plan, and where a training is in it."""

    def __init__(self, order: Order, epoch: int | None) -> None:
        self._order = order
        self.begin, self.end = steps_of(order, epoch)
        self.start, self._resumed = self.begin, False

    def set_epoch(self, epoch: int) -> None:
        self.begin, self.end = steps_of(self._order, epoch)
        self.start = self.start if self._resumed and self.begin <= self.start < self.end else self.begin
        self._resumed = False

    def load(self, state: Mapping[str, Any]) -> None:
        self.start = step_of(self._order, plan_state(state), self.begin, self.end)
        self._resumed = True


class TorchDataset(Dataset[Any]):
    """Rows of a build by position, as tensors: a map-style data set.

    With `PlanBatchSampler` and `collate` a ``DataLoader`` reads a batch at once:
    ``DataLoader(data, batch_sampler=PlanBatchSampler(build), collate_fn=collate, num_workers=2)``.
    Row ``data[i]`` is row i of ``build.table()``; another sampler may name rows as it likes.

    Parameters
    ----------
    build
        A result, from `curation.open`.
    **options
        As for ``build.loader``: columns, weights, keys, decode, evaluate, batch_size, verify, cache_dir, cache_bytes.
        Weights and keys come with batches of the plan only.

    Raises
    ------
    CurationError
        As ``build.loader``.
    """

    def __init__(self, build: Build, **options: Any) -> None:
        self._reader = _reader(build, 0, 1, options)

    def __len__(self) -> int:
        return int(self._reader.order.n_rows)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Row at a position; or a batch, of positions or of the plan."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"row: expected 0 <= row < {len(self)}, got {index}")
            return _row(_tensors(self._reader.rows(np.array([index % len(self)]))), 0)
        return _tensors(self._read(index))

    def __getitems__(self, indices: Any) -> _Rows:
        """Batch of rows, as whoever collates them likes: by columns at once, or row by row."""
        return _Rows(self._read(indices))

    def _read(self, index: Any) -> dict[str, Any]:
        if isinstance(index, PlanBatch):
            return self._reader.read_for(index.step, index.rank, index.world_size)
        return self._reader.rows(np.asarray(index, np.int64))


class PlanBatchSampler(Sampler[Any]):
    """Batches of the plan for one rank, in order: goes with `TorchDataset`.

    An iteration is the whole training, or one epoch after ``set_epoch``. It begins where ``load_state_dict`` or
    ``set_epoch`` says.

    Parameters
    ----------
    build
        The same result as that of the data set.
    rank, world_size
        This rank and the number of ranks; default those of ``torch.distributed`` if it is initialised, else 0 of 1.
    epoch
        Only this epoch; None is the whole training.
    evaluate, batch_size
        As for ``build.loader``.
    positions
        Give lists of positions in the stored table, for a data set of your own, instead of names of batches.

    Raises
    ------
    CurationError
        If there is no plan, or no such rank or epoch.
    """

    def __init__(
        self,
        build: Build,
        rank: int | None = None,
        world_size: int | None = None,
        epoch: int | None = None,
        *,
        evaluate: bool = False,
        batch_size: int | None = None,
        positions: bool = False,
    ) -> None:
        self._rank, self._world_size = _rank_of(rank, world_size)
        self._order = build.order(evaluate=evaluate, batch_size=batch_size)
        self._range = _Range(self._order, epoch)
        self._positions = positions
        self._next = self._range.start

    def __len__(self) -> int:
        """Batches of a full iteration."""
        return self._range.end - self._range.begin

    def __iter__(self) -> Iterator[Any]:
        self._next = self._range.start
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        while self._next < self._range.end:
            batch = PlanBatch(self._next, self._rank, self._world_size)
            self._next += 1
            yield self._order.batch(*astuple(batch)).tolist() if self._positions else batch

    def set_epoch(self, epoch: int) -> None:
        """Give one epoch from now on: from its first batch, or from the one that ``load_state_dict`` went to."""
        self._range.set_epoch(epoch)

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """State of a training: the same on all ranks, and for any number of them and of workers.

        Parameters
        ----------
        step
            The next batch, counted over the training. None is the next one that is named, which is ahead of the trainer
            where a ``DataLoader`` has workers: ``StatefulDataLoader`` knows how far, a plain one does not.
        """
        return {"plan": self._order.fingerprint, "step": self._next if step is None else step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at a state, of this sampler or of a ``StatefulDataLoader``."""
        self._range.load(state)


class TorchIterable(IterableDataset[Any]):
    """Batches of the plan for one rank: an iterable data set, for ``DataLoader(data, batch_size=None)``.

    Workers share the batches of the rank in turn, so that a ``DataLoader`` gives them in the order of the plan, for any
    number of workers. An iteration is the whole training, or one epoch after ``set_epoch``, which also reaches workers
    that persist. It begins where ``load_state_dict`` or ``set_epoch`` says.

    Parameters
    ----------
    build
        A result, from `curation.open`.
    rank, world_size
        This rank and the number of ranks; default those of ``torch.distributed`` if it is initialised, else 0 of 1.
    epoch
        Only this epoch; None is the whole training.
    **options
        As for ``build.loader``: columns, weights, keys, decode, evaluate, batch_size, verify, cache_dir, cache_bytes.

    Raises
    ------
    CurationError
        As ``build.loader``.
    """

    def __init__(
        self,
        build: Build,
        rank: int | None = None,
        world_size: int | None = None,
        epoch: int | None = None,
        **options: Any,
    ) -> None:
        self._reader = _reader(build, *_rank_of(rank, world_size), options)
        self._range = _Range(self._reader.order, epoch)
        self._shared: Any = None
        self._loaded: int | None = None  # in a worker: where StatefulDataLoader says that this one goes on
        self._next: int | None = None  # in a worker, or without workers: the next batch of this process
        self._share()

    def _share(self) -> None:
        """Begin, start and end where workers that persist see them: anonymous memory that they inherit."""
        self._shared = multiprocessing.RawArray(c_longlong, 3)
        self._publish()

    def _publish(self) -> None:
        self._shared[:] = [self._range.begin, self._range.start, self._range.end]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if get_spawning_popen() is None:  # a copy, not a worker
            state["_shared"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._shared is None:
            self._share()

    def __len__(self) -> int:
        """Batches of a full iteration."""
        return int(self._shared[2] - self._shared[0])

    def __iter__(self) -> Iterator[Any]:
        _, start, end = self._shared[:]
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self._next = start + first if self._loaded is None else self._loaded
        self._loaded = None
        self._reader.shards.expect(partial(self._upcoming, end, stride))
        return self._batches(end, stride, travels=worker is not None)

    def _batches(self, end: int, stride: int, travels: bool) -> Iterator[Any]:
        while self._next is not None and self._next < end:
            batch = self._reader.read(self._next)
            self._next += stride
            yield _Parcel(batch) if travels else _tensors(batch)

    def _upcoming(self, end: int, stride: int, i: int) -> NDArray[np.int64] | None:
        step = (self._next or 0) + i * stride
        return self._reader.order.batch(step) if step < end else None

    def set_epoch(self, epoch: int) -> None:
        """Give one epoch from now on: from its first batch, or from the one that ``load_state_dict`` went to."""
        self._range.set_epoch(epoch)
        self._publish()

    def state_dict(self) -> dict[str, Any]:
        """State of this process: ``StatefulDataLoader`` asks each worker for its own; see `plan_state`."""
        worker = get_worker_info()
        start = int(self._shared[1]) + (0 if worker is None else worker.id)
        return state_of(self._reader.order, start if self._next is None else self._next)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next iteration at a state: of a loader, of a sampler, or of a ``StatefulDataLoader``."""
        worker = get_worker_info()
        if worker is not None:  # its own state, which may be behind the last batch by a turn of the workers
            last = int(self._shared[2]) + worker.num_workers
            self._loaded = step_of(self._reader.order, state, 0, last)
            return
        self._range.load(state)
        self._publish()


def collate(rows: Any) -> Any:
    """``collate_fn`` for `TorchDataset`: the batch as it was read, by columns."""
    return _Parcel(rows.read) if get_worker_info() is not None else rows.columns


def plan_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """State of the plan within that of a ``StatefulDataLoader``, to go on with any number of workers and ranks.

    Parameters
    ----------
    state
        What ``StatefulDataLoader.state_dict()`` gave for a `TorchIterable`, or a `TorchDataset` with its sampler; or a
        state of the plan itself.

    Returns
    -------
    dict
        ``plan``: fingerprint; ``step``: the next batch.

    Raises
    ------
    FeedError
        If there is none in it.
    """
    if "plan" in state:
        return dict(state)
    found = _worker_states(state) or [each for each in _main_states(state) if each]
    if not found:
        raise FeedError("state: expected that of a plan or of a StatefulDataLoader over one, got neither")
    return {"plan": found[0]["plan"], "step": min(int(each["step"]) for each in found)}


def _worker_states(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    snapshot = state.get("_snapshot", {})
    workers = snapshot.get("_worker_snapshots", {}).values()
    found = [
        each.get("dataset_state") or (each.get("fetcher_state") or {}).get("dataset_iter_state") for each in workers
    ]
    return [each for each in found if each and "plan" in each]


def _main_states(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    main = state.get("_snapshot", {}).get("_main_snapshot", state)
    skipped = int(state.get("_steps_since_snapshot", 0))
    found = [main.get("_index_sampler_state"), main.get("_sampler_iter_state"), state.get("dataset_state")]
    return [dict(each) | {"step": each["step"] + skipped} for each in found if each and "plan" in each]


class _Rows(Sequence[dict[str, Any]]):
    """A batch that is read by columns, and looks like a list of rows to a collate function that wants one."""

    def __init__(self, read: dict[str, Any]) -> None:
        self.read = read

    @cached_property
    def columns(self) -> dict[str, Any]:
        """Tensors of the columns."""
        return _tensors(self.read)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, i: Any) -> Any:
        return _row(self.columns, range(len(self))[i])


def _row(columns: Mapping[str, Any], i: int) -> dict[str, Any]:
    return {name: column[i] for name, column in columns.items()}


class _Parcel:
    """A batch on its way out of a worker: one buffer, and a dict of tensors again where it arrives."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self._batch = batch

    def __reduce__(self) -> Any:
        parts: list[torch.Tensor | Values] = []
        plan = {name: _packed(value, parts) for name, value in self._batch.items()}
        sizes = [int(part.ends()[-1]) if isinstance(part, Values) else part.nbytes for part in parts]
        edges = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]).tolist()
        whole, target = _outgoing(edges[-1])
        shapes: list[tuple[torch.dtype, tuple[int, ...], int]] = []
        for part, at, size in zip(parts, edges[:-1], sizes, strict=True):
            to = target[at : at + size]
            if isinstance(part, Values):
                part.write(to)
                kind = _item(part.type)
                shapes.append((kind, (size // kind.itemsize,), at))
            else:
                to[:] = part.contiguous().reshape(-1).view(torch.uint8).numpy()
                shapes.append((part.dtype, tuple(part.shape), at))
        return _unpacked, (whole, shapes, plan)


_ring: Ring | None = None


def _outgoing(size: int) -> tuple[Any, NDArray[np.uint8]]:
    """What is sent in the place of ``size`` bytes, and where to write them."""
    global _ring  # of this worker; only the thread that sends comes here
    if size >= RING_BYTES:
        if _ring is None or _ring.process != os.getpid():
            _ring = Ring(size + size // 2)
        claimed = _ring.claim(size)
        if claimed is not None:
            return claimed
    if size >= SHARED_BYTES:
        shared = torch.UntypedStorage._new_shared(size)  # `share_memory_` would copy what is still empty
        whole = torch.empty(0, dtype=torch.uint8).set_(shared)
        return whole, whole.numpy()
    message = bytearray(size)
    return message, np.frombuffer(message, np.uint8)


def _incoming(whole: Any) -> torch.Tensor:
    if isinstance(whole, Ticket):
        return torch.from_numpy(received(whole))
    return whole if isinstance(whole, torch.Tensor) else _tensor(np.frombuffer(whole, np.uint8))


def _packed(value: Any, parts: list[torch.Tensor | Values]) -> Any:
    """Numbers of what a column is made of in ``parts``; what is no tensor travels as it is."""
    at = len(parts)
    if isinstance(value, Values):
        offsets, kind, known = _places(value, value.ends())
        parts += [value, offsets] if known is None else [value, offsets, known]
        return ("ragged", at, kind, known is not None)
    value = _converted(value)
    if isinstance(value, torch.Tensor):
        parts.append(value)
        return ("tensor", at)
    if isinstance(value, Ragged):
        parts += [value.data, value.offsets] if value.known is None else [value.data, value.offsets, value.known]
        return ("ragged", at, value.kind, value.known is not None)
    if value and all(isinstance(each, torch.Tensor) for each in value):
        parts += value
        return ("list", at, len(parts))
    return ("other", value)


def _unpacked(
    whole: Any, shapes: list[tuple[torch.dtype, tuple[int, ...], int]], plan: dict[str, Any]
) -> dict[str, Any]:
    memory = _incoming(whole)
    parts = []
    for dtype, shape, at in shapes:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        parts.append(memory[at : at + size].view(dtype).reshape(shape))
    return {name: _restored(entry, parts) for name, entry in plan.items()}


def _restored(entry: Any, parts: list[torch.Tensor]) -> Any:
    if entry[0] == "tensor":
        return parts[entry[1]]
    if entry[0] == "ragged":
        _, at, kind, known = entry
        return Ragged(parts[at], parts[at + 1], kind, parts[at + 2] if known else None)
    return parts[entry[1] : entry[2]] if entry[0] == "list" else entry[1]


def _reader(build: Build, rank: int, world_size: int, options: dict[str, Any]) -> BatchReader:
    evaluate = options.pop("evaluate", False)
    order = build.order(evaluate=evaluate, batch_size=options.pop("batch_size", None))
    kept = {name: options.pop(name) for name in ("verify", "cache_dir", "cache_bytes") if name in options}
    shards = build.shards(**kept, plan=not evaluate)
    return BatchReader(order, shards, rank=rank, world_size=world_size, as_="values", **options)


def _rank_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and number of ranks, those of ``torch.distributed`` where they are not given."""
    here = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = rank if rank is not None else torch.distributed.get_rank() if here else 0
    world_size = world_size if world_size is not None else torch.distributed.get_world_size() if here else 1
    check_rank(rank, world_size)
    return rank, world_size


def _tensors(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of what has numbers, `Ragged` of texts, bytes and lists, lists of the rest."""
    return {name: _converted(value) for name, value in batch.items()}


def _converted(value: Any) -> Any:
    if isinstance(value, Values):
        return Ragged.copied(value)
    if isinstance(value, np.ndarray):
        # torch has no dates: they are counted in the unit of the column.
        return _tensor(value.view(np.int64) if value.dtype.kind in "mM" else value)
    if isinstance(value, pa.Array):
        return Ragged.of(value) if _kind(value) else value.to_pylist()
    return [torch.from_numpy(each) if isinstance(each, np.ndarray) else each for each in value]


def _places(values: Values, ends: NDArray[np.int64]) -> tuple[torch.Tensor, str, torch.Tensor | None]:
    """Offsets in items, kind, and which values are not null."""
    null = values.length < 0
    known = torch.from_numpy(~null) if null.any() else None
    return torch.from_numpy(ends // item_bytes(values.type)), _kind_of(values.type), known


def _item(kind: pa.DataType) -> torch.dtype:
    """Type of what texts, bytes and lists of numbers are made of."""
    if _kind_of(kind) != "list":
        return torch.uint8
    return torch.from_numpy(np.empty(0, kind.value_type.to_pandas_dtype())).dtype


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _kind(array: pa.Array) -> str:
    """Kind of a `Ragged` that can hold an array, or nothing."""
    return _kind_of(array.type) if gathers(array) else ""


def _kind_of(kind: pa.DataType) -> str:
    if kind in (pa.string(), pa.large_string()):
        return "text"
    return "bytes" if kind in (pa.binary(), pa.large_binary()) else "list"


def _is_large_list(array: pa.Array) -> bool:
    return bool(pa.types.is_large_list(array.type))
