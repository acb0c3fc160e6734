"""The order of an evaluation: every row once, as it is stored."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.feed.plan import FeedError, check_rank


class Order(Protocol):
    """Which rows the batches of a training or an evaluation hold; a `Plan` is one."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the order."""
        ...

    @property
    def n_rows(self) -> int:
        """Rows of the stored table."""
        ...

    @property
    def n_steps(self) -> int:
        """Batches in all."""
        ...

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch."""
        ...

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch of a batch, and its number there."""
        ...

    def epoch_size(self, epoch: int) -> int:
        """Draws of an epoch; refuses one that does not exist."""
        ...

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Positions that one rank reads for one batch."""
        ...

    def batch_weights(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.float64]:
        """Weight of each of them."""
        ...

    def batch_keys(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.uint64]:
        """Key of each of them."""
        ...


class InOrder:
    """All rows once, in the order of the stored table: one epoch, no padding, no row twice.

    Parameters
    ----------
    n_rows
        Rows of the table, >= 0.
    batch_size
        Rows of a batch over all ranks, >= 1; the last one has what is left.
    name
        What the rows are, such as a build id: states of other rows are refused.

    Raises
    ------
    FeedError
        If ``batch_size`` is below 1.
    """

    def __init__(self, n_rows: int, batch_size: int, name: str) -> None:
        if batch_size < 1:
            raise FeedError(f"batch_size: expected >= 1, got {batch_size}; it counts the rows of all ranks")
        self.n_rows, self._batch_size = n_rows, batch_size
        self.fingerprint = f"evaluate/{name}/{batch_size}"

    @property
    def n_steps(self) -> int:
        """Batches."""
        return -(-self.n_rows // self._batch_size)

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch: 0, and behind the last one for epoch 1."""
        return epoch * self.n_steps

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch 0, and the batch itself."""
        return 0, step

    def epoch_size(self, epoch: int) -> int:
        """All rows, of epoch 0."""
        if epoch != 0:
            raise FeedError(f"epoch: expected 0, got {epoch}; an evaluation is one pass")
        return self.n_rows

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Positions of one rank's part of a batch; parts differ by at most one row, and may be empty in the last."""
        check_rank(rank, world_size)
        start = step * self._batch_size
        k = min(self._batch_size, self.n_rows - start)
        return np.arange(start + k * rank // world_size, start + k * (rank + 1) // world_size, dtype=np.int64)

    def batch_weights(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.float64]:
        """Weight of 1 for every row."""
        return np.ones(len(self.batch(step, rank, world_size)))

    def batch_keys(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.uint64]:
        """Positions: as good as any key where every row comes once."""
        return self.batch(step, rank, world_size).astype(np.uint64)
