"""The sampling plan: which row a trainer sees at which draw, as a pure function of a small file.

A plan knows groups and their sizes, never rows. Rows are stored group after group and shuffled by key inside
each group, so that a draw is (group, cursor) by the mixture and then ``offset[group] + permutation(cursor)``.
Any slice of the training is computed at once, and the state of a training is one number.

Five orders exist (`curation.feed.orders`). Without a mixture (``proportional``) all rows form one virtual group: epochs
are RS2 rounds over all of them, a true permutation per cycle, and groups appear in proportion over a cycle rather
than in every batch; stratified, every group has rounds of its own. With a mixture the counts of the groups follow the
shares closely (within about 1 at the end of each window of 2,048 draws), every group is passed through without
replacement, and cursors survive the ends of epochs and changes of shares. Unmixed batches are dealt to the groups in
the same way, whole batches at a time. Only draws in proportion to a weight need a table of rows, 8 bytes each, which
stays on the disk.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.feed.mixture import Mixture
from curation.feed.options import FeedOptions, GroupValue, Shares, name_text, notes_of
from curation.feed.orders import Keys, Mixed, Order, Passes, Rounds, Stratified, Unmixed
from curation.feed.permutation import child_keys
from curation.feed.planfile import READ_WHOLE, FeedError, read_body, table_digest
from curation.feed.segments import Segments, stated_sizes
from curation.feed.steps import GroupSteps, RoundSteps, Steps
from curation.feed.weighted import Weighted, bits_of, open_column
from curation.feed.write import write_plan
from curation.methods.rs2 import RS2, stratum_sizes

__all__ = ["FeedError", "FeedOptions", "GroupValue", "Plan", "Repeats", "Segment", "Shares", "check_rank", "write_plan"]


@dataclass(frozen=True)
class Segment:
    """A stretch of the training in which nothing changes.

    Attributes
    ----------
    start, stop
        Its draws; of unmixed batches its batches.
    draws
        Rows that are drawn in it; of unmixed batches of several sizes about so many.
    shares
        Share of each group in the rows that are drawn, by the mixture [-].
    ess
        Rows that are worth as much as the draws of the stretch when they are drawn in proportion and weighted
        (``scalarize``): draws / F, with F the sum of share² / share in the data.
    """

    start: int
    stop: int
    draws: int
    shares: dict[GroupValue, float]
    ess: float


@dataclass(frozen=True)
class Repeats:
    """How often the rows of a group are drawn over the training: fewest, mean, most; None is up to chance."""

    least: int | None
    mean: float
    most: int | None


class Plan:
    """An open plan; see `Plan.open`.

    Every answer is a function of the plan file and the arguments alone. Memory is O(groups x segments), and a
    jump to any place takes less than a millisecond once the kernels are loaded.
    """

    def __init__(self, path: Path, body: dict[str, Any], groups: pa.Table, segments: pa.Table | None) -> None:
        self._path = path
        self._body = body
        self._texts: list[str] = groups["group"].to_pylist()
        self._names: list[GroupValue] = [json.loads(text) for text in self._texts]
        self._offset = groups["offset"].to_numpy()
        self._rows = groups["rows"].to_numpy()
        self._sizes = groups["size"].to_numpy() if "size" in groups.column_names else None
        self._subset = RS2(**{key: value for key, value in body["subset"].items() if key != "use"})
        self._keys = Keys(body["seed"], body["name"])
        self._draw_key = self._keys.key("draws")
        self._unmixed = body.get("batches") == "unmixed"
        self._scalarize = bool(body.get("scalarize"))
        self._steps: Steps = RoundSteps(
            n_rows=self.n_rows,
            epochs=self.epochs,
            epoch_draws=int(body["epoch_draws"]),
            batch_size=self.batch_size,
            drop_last=bool(body["drop_last"]),
            tail=self._subset.tail,
            replacement=self._subset.replacement,
        )
        total = self.epochs * int(body["steps_per_epoch"]) if self._unmixed else self.n_draws
        self._segments = None if segments is None else _open_segments(segments, len(self._names), total)
        self._mixture = None
        if self._segments is not None and not self._scalarize:
            self._mixture = Mixture.from_shares(self._segments.boundaries, self._segments.shares)
        self._order: Order = self._make_order(body)

    def _make_order(self, body: dict[str, Any]) -> Order:
        if "sample_by" in body:
            ends, buckets = (self._mapped(kind) for kind in ("weights", "buckets"))
            return Weighted(self._keys, ends, buckets, self.epoch_draws, bits_of(self.epoch_draws))
        if self._mixture is not None:
            passes = Passes(self._keys, self._texts, self._offset, self._rows)
            if not self._unmixed:
                return Mixed(self._keys, self._mixture, passes)
            stated = {json.loads(text): size for text, size in body.get("group_batch_size", ())}
            units = stated_sizes(stated, list(zip(self._names, self._rows.tolist(), strict=True)), self.batch_size)
            steps = GroupSteps(self.epochs, int(body["steps_per_epoch"]), self._mixture, units)
            self._steps = steps
            return Unmixed(steps, passes)
        if self._subset.stratify not in (None, False):
            draws = stratum_sizes(self._rows, self._subset.fraction)
            return Stratified(self._keys, self._offset, self._rows, draws, self._texts, self._subset)
        return Rounds(self._keys, self.n_rows, self.epoch_draws, self._subset)

    def _mapped(self, kind: str) -> NDArray[np.int64]:
        file = self._path.with_name(self._body["tables"][kind]["file"])
        try:
            values = open_column(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise FeedError(f"{file}: expected a table of the plan, got {error}; build again") from error
        # of a large table only its length and its end are looked at: reading it all would cost a pass over the disk
        mass = self.epoch_draws << bits_of(self.epoch_draws)
        if kind == "weights" and (len(values) != self.n_rows or values[-1] != mass):
            raise FeedError(f"{file}: expected the table that {self._path.name} names, got another; build again")
        return values

    @classmethod
    def open(cls, path: Path | str) -> Plan:
        """Read a plan.

        Parameters
        ----------
        path
            The JSON file, or the directory that holds ``plan.json``.

        Returns
        -------
        Plan
            The plan.

        Raises
        ------
        FeedError
            If a file is missing, damaged, changed by hand or of another version.
        """
        path = Path(path)
        path = path / "plan.json" if path.is_dir() else path
        body = read_body(path)
        tables = {}
        for kind, entry in body["tables"].items():
            if kind not in READ_WHOLE:
                continue
            file = path.with_name(entry["file"])
            try:
                with pa.OSFile(str(file), "rb") as source, pa.ipc.open_file(source) as reader:
                    tables[kind] = reader.read_all()
            except (OSError, pa.ArrowInvalid) as error:
                raise FeedError(f"{file}: expected a table of the plan, got {error}; build again") from error
            if table_digest(tables[kind]) != entry["digest"]:
                raise FeedError(f"{file}: expected the table that {path.name} names, got another; build again")
        return cls(path, body, tables["groups"], tables.get("segments"))

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Plan.open, (self._path,)

    @property
    def n_rows(self) -> int:
        """Rows of the stored table."""
        return int(self._body["n_rows"])

    @property
    def batch_size(self) -> int:
        """Rows of a full global batch, over all ranks."""
        return int(self._body["batch_size"])

    @property
    def epochs(self) -> int:
        """Epochs of the training."""
        return int(self._body["epochs"])

    @property
    def epoch_draws(self) -> int:
        """Draws of a full epoch."""
        return self._steps.epoch_draws

    @property
    def n_draws(self) -> int:
        """Draws of the training."""
        return self.epoch_start(self.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a full epoch."""
        return self._steps.steps_per_epoch

    @property
    def n_steps(self) -> int:
        """Batches of the training."""
        return self.first_step(self.epochs)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the order, the version of the algorithm included."""
        return str(self._body["fingerprint"])

    @property
    def groups(self) -> list[GroupValue]:
        """Names of the groups, in the order of the stored table."""
        return list(self._names)

    def group_places(self) -> list[tuple[GroupValue, int, int]]:
        """Name, first row and row behind the last of each group that has rows, in the order of the stored table."""
        edges = zip(self._names, self._offset.tolist(), self._rows.tolist(), strict=True)
        return [(name, start, start + rows) for name, start, rows in edges if rows]

    @property
    def capped(self) -> dict[GroupValue, tuple[float, int]]:
        """Draws that the shares ask for and draws that the plan gives, of the groups that ``max_repeats`` bites."""
        return {json.loads(text): (asked, given) for text, asked, given in self._body.get("capped", ())}

    @property
    def notes(self) -> list[str]:
        """What a reader of the recipe should think over."""
        notes = notes_of(self._body["mixture"])
        for name, (asked, given) in self.capped.items():
            limit = f"max_repeats {self._body['max_repeats']:g}"
            notes.append(f"{limit} bites group {name_text(name)}: {asked:,.0f} draws asked for, {given:,} given")
        return notes

    @property
    def nbytes(self) -> int:
        """Memory that the arrays of the plan hold [bytes]; tables that are mapped from the disk do not count."""
        weighed = 0 if self._segments is None or not self._scalarize else self._segments.shares.nbytes
        return self._order.nbytes + weighed + int(self._offset.nbytes) + int(self._rows.nbytes)

    def epoch_size(self, epoch: int) -> int:
        """Draws of one epoch: ``epoch_draws``, but fewer at the end of a cycle with ``tail: short``.

        With unmixed batches of several sizes a little more or less.
        """
        self._check_epoch(epoch)
        return self._steps.epoch_size(epoch)

    def epoch_start(self, epoch: int) -> int:
        """First draw of an epoch, counted over the training; ``epoch`` in [0, ``epochs``]."""
        return self._steps.epoch_start(epoch)

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch, counted over the training; ``epoch`` in [0, ``epochs``]."""
        return self._steps.first_step(epoch)

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Epoch of a batch, and the number of the batch in it.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).

        Returns
        -------
        epoch, step_in_epoch
            Both from 0.

        Raises
        ------
        FeedError
            If there is no such step.
        """
        self._check_step(step)
        return self._steps.epoch_of(step)

    def shares(self, step: int) -> dict[GroupValue, float]:
        """Share of each group in the rows that are drawn at a batch.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).

        Returns
        -------
        dict
            Group to share [-], sorted by group (None, then numbers, then text). Without a mixture, and with
            ``scalarize``, the shares of the rows; with ``sample_by`` those of the weights. Of unmixed batches the
            share that the group has in the rows of many batches.

        Raises
        ------
        FeedError
            If there is no such step.
        """
        return self._by_group(self._drawn_shares(self._segment_of(step)))

    def size_shares(self, step: int) -> dict[GroupValue, float]:
        """Share of each group at a batch in the unit of ``size``: in the mean over the rows of a pass, exactly.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).

        Returns
        -------
        dict
            Group to share [-], sorted as `shares`. Without ``size`` the very same.

        Raises
        ------
        FeedError
            If there is no such step.
        """
        shares = self._drawn_shares(self._segment_of(step))
        return self._by_group(self._in_size(shares))

    def weights(self, step: int) -> dict[GroupValue, float]:
        """Weight of the rows of each group at a batch, with ``scalarize``.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).

        Returns
        -------
        dict
            Group to weight [-], sorted as `shares`: share by the mixture / share of the rows. Their mean over the rows
            of the data is 1. Without ``scalarize`` 1 each; what ``sample_by`` gives differs row by row, see
            `batch_weights`.

        Raises
        ------
        FeedError
            If there is no such step.
        """
        s = self._segment_of(step)
        return self._by_group(self._group_weights()[s] if self._scalarize else np.ones(len(self._names)))

    def group_of(self, step: int) -> GroupValue:
        """Group of the rows of a batch, with ``batches: unmixed``.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).

        Returns
        -------
        str, int, bool or None
            Name of the group, the same on all ranks.

        Raises
        ------
        FeedError
            If there is no such step, or batches hold rows of several groups.
        """
        self._check_step(step)
        if self._mixture is None or not self._unmixed:
            raise FeedError("group_of: expected batches: unmixed, got mixed; a mixed batch has rows of many groups")
        return self._names[self._mixture.group(step)]

    @property
    def unmixed(self) -> bool:
        """Whether every batch holds rows of one group."""
        return self._unmixed

    @property
    def sized(self) -> bool:
        """Whether shares are meant in another unit than rows."""
        return self._sizes is not None

    @property
    def scalarize(self) -> bool:
        """Whether rows are weighed in the place of being drawn by the shares."""
        return self._scalarize

    @property
    def bound(self) -> float:
        """Largest distance of a group's count of draws from the sum of its shares [-]; of unmixed ones, of batches.

        Without a mixture infinity: a group may come early or late in a cycle. Inside a window of a mixed plan, whose
        draws are shuffled, it holds at the ends.
        """
        return math.inf if self._mixture is None else self._mixture.bound()

    @property
    def segments(self) -> list[Segment]:
        """Stretches of constant shares, one after the other."""
        if self._segments is None:
            return [Segment(0, self.n_draws, self.n_draws, self.shares(0), float(self.n_draws))]
        bounds = self._segments.boundaries.tolist()
        data = self._rows / self.n_rows
        found = []
        for s, shares in enumerate(self._row_shares()):
            excess = float(np.divide(shares**2, data, out=np.zeros_like(data), where=data > 0).sum())
            a, b = bounds[s], bounds[s + 1]
            steps = self._steps
            draws = steps.first_draw(b) - steps.first_draw(a) if isinstance(steps, GroupSteps) else b - a
            found.append(Segment(a, b, draws, self._by_group(shares), draws / excess))
        return found

    def segment_steps(self) -> list[int]:
        """First batch that begins in each segment, or the last one of the training."""
        if self._segments is None:
            return [0]
        starts = self._segments.boundaries[:-1].tolist()
        if self._unmixed:
            return [int(start) for start in starts]
        steps = range(self.n_steps)
        return [min(bisect_left(steps, start, key=self.first_draw), self.n_steps - 1) for start in starts]

    def first_draw(self, step: int) -> int:
        """First draw of a batch, counted over the training."""
        self._check_step(step)
        epoch, start, _ = self._steps.span(step)
        return self.epoch_start(epoch) + start

    def group_at(self, position: int) -> GroupValue:
        """Group of a row of the stored table, by its position."""
        return self._names[int(np.searchsorted(self._offset, position, side="right")) - 1]

    def group_rows(self) -> dict[GroupValue, int]:
        """Rows of each group, sorted as `shares`."""
        return {name: int(rows) for name, rows in self._by_group(self._rows).items()}

    def size_shares_of(self, draws: Mapping[GroupValue, float]) -> dict[GroupValue, float]:
        """Share of each group in the unit of ``size`` in so many draws of each, in the mean over the group's rows."""
        return self._by_group(self._in_size(np.array([draws[name] for name in self._names])))

    def group_draws(self) -> dict[GroupValue, float]:
        """Draws of each group over the whole training: exact with a mixture, else in the mean, as a sum of shares."""
        return self._by_group(self._drawn())

    def repeats(self) -> dict[GroupValue, Repeats]:
        """How often the rows of each group are drawn over the training.

        Returns
        -------
        dict
            Group to `Repeats`, sorted as `shares`; groups without rows are left out.
        """
        drawn, out = self._drawn(), {}
        chance = isinstance(self._order, Weighted) or self._subset.replacement
        left_out = self._subset.tail == "drop" and not isinstance(self._order, (Mixed, Unmixed))
        for g, rows in enumerate(self._rows.tolist()):
            mean = float(drawn[g]) / rows if rows else 0.0
            near = round(mean) if abs(mean - round(mean)) < 1e-9 * max(1.0, mean) else None
            least = math.floor(mean) if near is None else near
            most = math.ceil(mean) if near is None else near
            known = not chance and not left_out
            if rows:
                out[self._names[g]] = Repeats(least if known else None, mean, most if known else None)
        return dict(sorted(out.items(), key=lambda item: _sort_key(item[0])))

    def rows(self, epoch: int, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """Positions in the stored table that an epoch draws.

        Parameters
        ----------
        epoch
            Epoch, in [0, ``epochs``).
        start, stop
            Draws of the epoch, 0 <= start <= stop <= ``epoch_size(epoch)``; None is the end.

        Returns
        -------
        (stop - start,)
            Positions in [0, n_rows).

        Raises
        ------
        FeedError
            If there is no such epoch or slice.
        """
        size = self.epoch_size(epoch)
        stop = size if stop is None else stop
        if not 0 <= start <= stop <= size:
            raise FeedError(f"start, stop: expected 0 <= start <= stop <= {size}, got {start}, {stop} in epoch {epoch}")
        return self._order.rows(epoch, self.epoch_start(epoch), start, stop)

    def draws(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions in the stored table of a range of draws of the training, across epochs.

        Parameters
        ----------
        start, stop
            Draws, 0 <= start <= stop <= ``n_draws``.

        Returns
        -------
        (stop - start,)
            Positions in [0, n_rows).

        Raises
        ------
        FeedError
            If there is no such range.
        """
        if not 0 <= start <= stop <= self.n_draws:
            raise FeedError(f"start, stop: expected 0 <= start <= stop <= {self.n_draws}, got {start}, {stop}")
        out = np.empty(stop - start, dtype=np.int64)
        if start == stop:
            return out
        epoch, done = self._steps.epoch_at(start), start
        while done < stop:
            first = self.epoch_start(epoch)
            until = min(stop, self.epoch_start(epoch + 1))
            out[done - start : until - start] = self._order.rows(epoch, first, done - first, until - first)
            epoch, done = epoch + 1, until
        return out

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Positions in the stored table that one rank reads for one batch.

        The global batch of k rows is cut into contiguous slices, rank r of R from k r // R to k (r + 1) // R:
        sizes differ by at most 1, and a rank of a small last batch may get none, so that all ranks make the
        same number of steps.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).
        rank, world_size
            This rank and the number of ranks, 0 <= rank < world_size.

        Returns
        -------
        (k,)
            Positions in [0, n_rows).

        Raises
        ------
        FeedError
            If there is no such step or rank.
        """
        epoch, start, stop = self._slice(step, rank, world_size)
        return self.rows(epoch, start, stop)

    def batch_weights(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.float64]:
        """Weight of each row of a batch, by which its loss is to be multiplied.

        Parameters
        ----------
        step, rank, world_size
            As in `batch`.

        Returns
        -------
        (k,)
            Weights >= 0 [-], row by row those of `batch`; 1 where nothing is weighted, 0 only for a share of 0.

        Raises
        ------
        FeedError
            If there is no such step or rank.
        """
        epoch, start, stop = self._slice(step, rank, world_size)
        if isinstance(self._order, Weighted):
            return self._order.weights(self.rows(epoch, start, stop))
        if not self._scalarize or self._segments is None:
            return np.ones(stop - start)
        draws = np.arange(start, stop) + self.epoch_start(epoch)
        at = np.searchsorted(self._segments.boundaries, draws, side="right") - 1
        groups = np.searchsorted(self._offset, self.rows(epoch, start, stop), side="right") - 1
        weights: NDArray[np.float64] = self._group_weights()[at, groups]
        return weights

    def batch_keys(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.uint64]:
        """Key of each row of a batch, for random crops and the like that are the same in every run.

        A key belongs to the draw, not to the row: a row that comes again comes with another key. No two draws
        of a training have the same.

        Parameters
        ----------
        step, rank, world_size
            As in `batch`.

        Returns
        -------
        (k,)
            Keys, row by row those of `batch`: a hash of the seed, the name of the feed and the number of the draw.

        Raises
        ------
        FeedError
            If there is no such step or rank.
        """
        epoch, start, stop = self._slice(step, rank, world_size)
        first = self.epoch_start(epoch)
        draws = np.arange(first + start, first + stop, dtype=np.int64)
        return child_keys(np.full(draws.shape, self._draw_key), draws)

    def _slice(self, step: int, rank: int, world_size: int) -> tuple[int, int, int]:
        """Epoch of a batch, and the draws of the epoch that one rank reads of it."""
        check_rank(rank, world_size)
        self._check_step(step)
        epoch, start, stop = self._steps.span(step)
        k = stop - start
        return epoch, start + k * rank // world_size, start + k * (rank + 1) // world_size

    def _check_epoch(self, epoch: int) -> None:
        if not 0 <= epoch < self.epochs:
            raise FeedError(f"epoch: expected 0 <= epoch < {self.epochs}, got {epoch}; epochs count from 0")

    def _check_step(self, step: int) -> None:
        if not 0 <= step < self.n_steps:
            raise FeedError(
                f"step: expected 0 <= step < {self.n_steps}, got {step}; the training has {self.n_steps} steps"
            )

    def _segment_of(self, step: int) -> int:
        """Number of the segment of a batch, by its first draw."""
        self._check_step(step)
        if self._segments is None:
            return 0
        at = step if self._unmixed else self.first_draw(step)
        return int(np.searchsorted(self._segments.boundaries, at, side="right")) - 1

    def _row_shares(self) -> NDArray[np.float64]:
        """Share of each group in the rows of each segment, by the mixture."""
        shares: NDArray[np.float64] = (self._rows / self.n_rows)[None, :]
        if self._segments is not None:
            shares = self._segments.shares
        if isinstance(self._steps, GroupSteps) and np.ptp(self._steps.sizes):
            shares = shares * self._steps.sizes
            shares = shares / shares.sum(axis=1, keepdims=True)
        return shares

    def _drawn_shares(self, segment: int) -> NDArray[np.float64]:
        shares: NDArray[np.float64]
        if isinstance(self._order, Weighted):
            shares = self._order.group_draws(self._offset, self._rows) / self.epoch_draws
        elif self._mixture is None:
            shares = self._rows / self.n_rows
        else:
            shares = self._row_shares()[segment]
        return shares

    def _in_size(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._sizes is None:
            return np.asarray(shares / shares.sum())
        per_row = np.divide(self._sizes, self._rows, out=np.zeros(len(shares)), where=self._rows > 0)
        amounts: NDArray[np.float64] = shares * per_row
        return np.asarray(amounts / amounts.sum())

    def _group_weights(self) -> NDArray[np.float64]:
        """(n_segments, n_groups) share by the mixture / share of the rows."""
        data = self._rows / self.n_rows
        shares = self._row_shares()
        weights: NDArray[np.float64] = np.divide(shares, data, out=np.zeros_like(shares), where=data > 0)
        return weights

    def _drawn(self) -> NDArray[np.float64]:
        """Draws of each group over the training."""
        if isinstance(self._order, Weighted):
            return self.epochs * self._order.group_draws(self._offset, self._rows)
        if self._mixture is not None:
            units = self._steps.sizes if isinstance(self._steps, GroupSteps) else 1
            return np.asarray(self._mixture.base[-1] * units, dtype=np.float64)
        if isinstance(self._order, Stratified):
            return self.epochs * self._order.draws.astype(np.float64)
        drawn: NDArray[np.float64] = self.n_draws * (self._rows / self.n_rows)
        return drawn

    def _by_group(self, values: NDArray[np.float64] | NDArray[np.int64]) -> dict[GroupValue, float]:
        return dict(sorted(zip(self._names, values.tolist(), strict=True), key=lambda item: _sort_key(item[0])))


def check_rank(rank: int, world_size: int) -> None:
    """Refuse a rank that does not exist.

    Raises
    ------
    FeedError
        Unless 0 <= rank < world_size.
    """
    if not 0 <= rank < world_size:
        raise FeedError(f"rank: expected 0 <= rank < world_size, got rank {rank} of {world_size}; ranks count from 0")


def _sort_key(name: GroupValue) -> tuple[int, float, str]:
    if name is None:
        return 0, 0.0, ""
    return (2, 0.0, name) if isinstance(name, str) else (1, name, "")


def _open_segments(table: pa.Table, n_groups: int, stop: int) -> Segments:
    shares = table["shares"].combine_chunks().flatten().to_numpy().reshape(-1, n_groups)
    return Segments(np.append(table["start"].to_numpy(), np.int64(stop)), shares)
