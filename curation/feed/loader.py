"""The loader: turns the positions of a plan into batches, read from the shards, ahead of the trainer if asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from curation.feed.columns import As
from curation.feed.evaluate import Order
from curation.feed.images import check_decode, decoded
from curation.feed.plan import FeedError, check_rank
from curation.feed.shards import Batch, RowSource, ShardSet

__all__ = ["DRAW_KEY", "WEIGHT", "BatchReader", "Loader", "ShardSet"]

WEIGHT = "_weight_factor"
"""Column of a batch by which the loss of each row is to be multiplied: float64."""
DRAW_KEY = "_draw_key"
"""Column of a batch that seeds random augmentation: uint64, of each draw of a training another."""


class BatchReader:
    """Reads any batch of a plan for one rank; holds no position, so that any number of threads may read.

    Parameters
    ----------
    order
        What to read when: a plan, or all rows in order.
    shards
        Where the rows are.
    rank, world_size
        This rank and the number of ranks, 0 <= rank < world_size.
    columns
        Columns of a batch; None is all of them.
    as_
        ``numpy``: objects (bytes, texts, arrays) where numbers do not fit a numpy array; ``arrow``: Arrow arrays there.
    weights, keys
        Add the columns ``_weight_factor`` and ``_draw_key``.
    decode
        Column of encoded pictures -> ``pillow``: such a column comes as a list of arrays (height, width, 3).

    Raises
    ------
    FeedError
        If rank or a column does not exist, a shard is missing or not as the manifest says, or order and shards
        belong to different builds.
    """

    def __init__(
        self,
        order: Order,
        shards: RowSource,
        *,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
        as_: As = "numpy",
        weights: bool = False,
        keys: bool = False,
        decode: Mapping[str, str] | None = None,
    ) -> None:
        check_rank(rank, world_size)
        if as_ not in get_args(As):
            raise FeedError(f"as_: expected numpy or arrow, got {as_!r}")
        schema, _ = shards.check()
        if order.n_rows != shards.n_rows:
            raise FeedError(
                f"plan: expected {shards.n_rows} rows as in the shards, got {order.n_rows}; take both of one build"
            )
        self.order, self.shards = order, shards
        self.rank, self.world_size = rank, world_size
        self._columns = shards.check_columns(columns)
        self._as: As = as_
        self._weights, self._keys = weights, keys
        self._decode = dict(decode or {})
        check_decode(self._decode, schema, self._columns)

    def read(self, step: int) -> Batch:
        """Rows that this rank has of a batch, counted over the training."""
        return self.read_for(step, self.rank, self.world_size)

    def read_for(self, step: int, rank: int, world_size: int) -> Batch:
        """Rows that any rank has of a batch."""
        batch = self.rows(self.order.batch(step, rank, world_size))
        if self._weights:
            batch[WEIGHT] = self.order.batch_weights(step, rank, world_size)
        if self._keys:
            batch[DRAW_KEY] = self.order.batch_keys(step, rank, world_size)
        return batch

    def rows(self, positions: NDArray[np.int64]) -> Batch:
        """Rows at positions of the stored table, without weights and keys, which belong to draws."""
        plain = [name for name in self._columns if name not in self._decode]
        batch = self.shards.take(positions, plain, self._as)
        if self._decode:
            encoded = self.shards.take(positions, list(self._decode))
            batch |= {name: decoded(values, name, positions) for name, values in encoded.items()}
        return {name: batch[name] for name in self._columns}


def steps_of(order: Order, epoch: int | None) -> tuple[int, int]:
    """First batch of an epoch and of the next one; None is the whole training; refuses one that does not exist."""
    if epoch is None:
        return 0, order.n_steps
    order.epoch_size(epoch)
    return order.first_step(epoch), order.first_step(epoch + 1)


def state_of(order: Order, step: int) -> dict[str, Any]:
    """State of a training whose next batch is ``step``."""
    return {"plan": order.fingerprint, "step": step}


def step_of(order: Order, state: Mapping[str, Any], begin: int, end: int) -> int:
    """Step of a state; refuses that of another plan, and one outside [begin, end]."""
    if state.get("plan") != order.fingerprint:
        raise FeedError(
            f"state: expected the state of plan {order.fingerprint}, got one of {state.get('plan')}; open the build "
            "that the training began with, or begin anew"
        )
    step = state.get("step")
    if not isinstance(step, int) or not begin <= step <= end:
        raise FeedError(f"state: expected {begin} <= step <= {end}, got {step}; set another epoch, or none")
    return step


class Loader:
    """Batches of a plan, for one rank.

    Iterating yields ``dict[str, numpy array]`` from the current batch to the last one of the training (or of
    one epoch), and goes on where it stopped when iterated again. All ranks make the same number of steps; the
    last batch of an epoch may be empty on some ranks if it has fewer rows than there are ranks. Threads may share a
    loader: each batch goes to one of them.

    Parameters
    ----------
    order
        What to read when: a plan, or all rows in order.
    shards
        Where the rows are.
    epoch
        Only this epoch; None is the whole training.
    prefetch
        Batches that are read ahead, each by a thread of its own; 0 reads when asked. The state counts what was handed
        out, not what was read ahead. What goes wrong ahead is raised at its own batch, and that batch is tried again
        by the next call.
    **options
        As for `BatchReader`: rank, world_size, columns, as_, weights, keys, decode.

    Raises
    ------
    FeedError
        If rank, epoch or a column does not exist, a shard is missing or not as the manifest says, or plan and
        shards belong to different builds.
    """

    def __init__(
        self, order: Order, shards: RowSource, *, epoch: int | None = None, prefetch: int = 0, **options: Any
    ) -> None:
        if prefetch < 0:
            raise FeedError(f"prefetch: expected a number of batches >= 0, got {prefetch}; 0 reads none ahead")
        self._reader = BatchReader(order, shards, **options)
        self._begin, self._end = steps_of(order, epoch)
        self._step, self._prefetch = self._begin, prefetch
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._ahead: deque[Future[Batch]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._reader.shards.expect(self._upcoming)

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_ahead", "_pool")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        """Batches from the first to the last, whatever the current one."""
        return self._end - self._begin

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            if self._step >= self._end:
                raise StopIteration
            batch = self._next_read() if self._prefetch else self._reader.read(self._step)
            self._step += 1  # only now: a batch that could not be read is not passed over
            return batch

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """Epoch of the next batch; at the end of the training the number of epochs."""
        last = self._reader.order.n_steps
        return self._reader.order.epoch_of(self._step)[0] if self._step < last else self._last_epoch() + 1

    def set_epoch(self, epoch: int) -> None:
        """Give the batches of one epoch from now on: from its first one, or from the current one if that is inside.

        So a training that was resumed in the middle of an epoch goes on there.

        Raises
        ------
        FeedError
            If there is no such epoch.
        """
        begin, end = steps_of(self._reader.order, epoch)
        with self._lock:
            self._begin, self._end = begin, end
            self._go(self._step if begin <= self._step < end else begin)

    def state_dict(self) -> dict[str, Any]:
        """State of the training: the same on all ranks, and for any number of them.

        Returns
        -------
        dict
            ``plan``: fingerprint of the plan; ``step``: the next batch, counted over the training.
        """
        with self._lock:
            return state_of(self._reader.order, self._step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the batch of a state, exactly, whatever the number of ranks that saved it.

        Parameters
        ----------
        state
            From `state_dict`.

        Raises
        ------
        FeedError
            If the state belongs to another plan, or its step to another epoch than that of this loader.
        """
        with self._lock:
            self._go(step_of(self._reader.order, state, self._begin, self._end))

    def close(self) -> None:
        """End the threads that read ahead; a later batch starts them anew."""
        with self._lock:
            self._drop()
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _last_epoch(self) -> int:
        last = self._reader.order.n_steps - 1
        return self._reader.order.epoch_of(last)[0] if last >= 0 else -1

    def _upcoming(self, i: int) -> NDArray[np.int64] | None:
        step = self._step + i
        return self._reader.order.batch(step) if step < self._end else None

    def _go(self, step: int) -> None:
        if step != self._step:
            self._drop()
        self._step = step

    def _next_read(self) -> Batch:
        """Batch of the current step, out of those that are being read ahead."""
        self._read_ahead(self._prefetch)
        first = self._ahead.popleft()
        self._read_ahead(self._prefetch, passed=1)
        try:
            return first.result()
        except BaseException:
            self._drop()  # the step stays, and so all of them are read again
            raise

    def _read_ahead(self, wanted: int, passed: int = 0) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._prefetch, thread_name_prefix="curation-feed")
        while len(self._ahead) < wanted and (step := self._step + passed + len(self._ahead)) < self._end:
            self._ahead.append(self._pool.submit(self._reader.read, step))

    def _drop(self) -> None:
        while self._ahead:
            self._ahead.pop().cancel()
