"""Where batches and epochs begin and end, counted in draws: known for any place of a training at once."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curation.feed.mixture import Mixture
from curation.methods.rs2 import Tail, round_size, rounds_per_cycle


class Steps(Protocol):
    """Batches and epochs of a training. Draws and batches are counted over the training, epochs from 0."""

    @property
    def epochs(self) -> int:
        """Epochs of the training."""
        ...

    @property
    def epoch_draws(self) -> int:
        """Draws of a full epoch."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a full epoch."""
        ...

    def epoch_size(self, epoch: int) -> int:
        """Draws of an epoch."""
        ...

    def epoch_start(self, epoch: int) -> int:
        """First draw of an epoch in [0, ``epochs``]."""
        ...

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch in [0, ``epochs``]."""
        ...

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch of a batch, and its number in it."""
        ...

    def epoch_at(self, draw: int) -> int:
        """Epoch of a draw."""
        ...

    def span(self, step: int) -> tuple[int, int, int]:
        """Epoch of a batch, and the draws of the epoch that it holds."""
        ...


@dataclass(frozen=True)
class RoundSteps:
    """Epochs are rounds of RS2 that are cut into batches of one size."""

    n_rows: int
    epochs: int
    epoch_draws: int
    batch_size: int
    drop_last: bool
    tail: Tail
    replacement: bool

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a full epoch."""
        return self._n_batches(self.epoch_draws)

    def epoch_size(self, epoch: int) -> int:
        """Draws of an epoch; fewer only at the end of a cycle with ``tail: short``."""
        return round_size(
            epoch, n_rows=self.n_rows, n_subset=self.epoch_draws, tail=self.tail, replacement=self.replacement
        )

    def epoch_start(self, epoch: int) -> int:
        """First draw of an epoch in [0, ``epochs``]."""
        cycle, index = divmod(epoch, self._rounds)
        return cycle * self._draws_per_cycle + index * self.epoch_draws

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch in [0, ``epochs``]."""
        cycle, index = divmod(epoch, self._rounds)
        return cycle * self._steps_per_cycle + index * self.steps_per_epoch

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch of a batch, and its number in it."""
        cycle, rest = divmod(step, self._steps_per_cycle)
        index = min(rest // self.steps_per_epoch, self._rounds - 1)
        return cycle * self._rounds + index, rest - index * self.steps_per_epoch

    def epoch_at(self, draw: int) -> int:
        """Epoch of a draw."""
        cycle, rest = divmod(draw, self._draws_per_cycle)
        return cycle * self._rounds + min(rest // self.epoch_draws, self._rounds - 1)

    def span(self, step: int) -> tuple[int, int, int]:
        """Epoch of a batch, and the draws of the epoch that it holds."""
        epoch, number = self.epoch_of(step)
        start = number * self.batch_size
        return epoch, start, min(start + self.batch_size, self.epoch_size(epoch))

    @property
    def _rounds(self) -> int:
        """Epochs after which the sizes of epochs repeat."""
        return 1 if self.replacement else rounds_per_cycle(self.n_rows, self.epoch_draws, self.tail)

    @property
    def _draws_per_cycle(self) -> int:
        return (self._rounds - 1) * self.epoch_draws + self.epoch_size(self._rounds - 1)

    @property
    def _steps_per_cycle(self) -> int:
        return (self._rounds - 1) * self.steps_per_epoch + self._n_batches(self.epoch_size(self._rounds - 1))

    def _n_batches(self, n_draws: int) -> int:
        return n_draws // self.batch_size if self.drop_last else -(-n_draws // self.batch_size)


@dataclass(frozen=True)
class GroupSteps:
    """Batches of one group each, all of them full, and equally many in every epoch.

    Attributes
    ----------
    epochs, steps_per_epoch
        Epochs of the training, and batches of each.
    order
        Which group each batch takes; its draws are the batches.
    sizes : (n_groups,)
        Rows of a batch of each group [rows].
    """

    epochs: int
    steps_per_epoch: int
    order: Mixture
    sizes: NDArray[np.int64]

    @property
    def epoch_draws(self) -> int:
        """Draws of the first epoch; where groups have batches of other sizes, epochs differ a little."""
        return self.first_draw(self.steps_per_epoch)

    def first_draw(self, step: int) -> int:
        """First draw of a batch in [0, batches of the training]."""
        if np.ptp(self.sizes) == 0:
            return step * int(self.sizes[0])
        return int(self.order.counts(step) @ self.sizes)

    def epoch_size(self, epoch: int) -> int:
        """Draws of an epoch."""
        return self.epoch_start(epoch + 1) - self.epoch_start(epoch)

    def epoch_start(self, epoch: int) -> int:
        """First draw of an epoch in [0, ``epochs``]."""
        return self.first_draw(epoch * self.steps_per_epoch)

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch in [0, ``epochs``]."""
        return epoch * self.steps_per_epoch

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch of a batch, and its number in it."""
        return divmod(step, self.steps_per_epoch)

    def step_at(self, draw: int) -> int:
        """Batch of a draw: near where it would be if all batches were alike, and from there in growing strides."""
        n_steps = self.epochs * self.steps_per_epoch
        low = min(draw * n_steps // self.first_draw(n_steps), n_steps - 1)
        high, stride = low + 1, 1
        while self.first_draw(low) > draw:
            low, high, stride = max(0, low - stride), low, 2 * stride
        while high < n_steps and self.first_draw(high) <= draw:
            low, high, stride = high, min(n_steps, high + stride), 2 * stride
        return bisect_right(range(n_steps), draw, low, high, key=self.first_draw) - 1

    def epoch_at(self, draw: int) -> int:
        """Epoch of a draw."""
        return self.step_at(draw) // self.steps_per_epoch

    def span(self, step: int) -> tuple[int, int, int]:
        """Epoch of a batch, and the draws of the epoch that it holds."""
        epoch = step // self.steps_per_epoch
        start = self.first_draw(step) - self.epoch_start(epoch)
        return epoch, start, start + int(self.sizes[self.order.group(step)])
