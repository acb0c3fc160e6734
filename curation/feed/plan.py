"""The sampling plan: which row a trainer sees at which draw, as a pure function of a small file.

A plan knows groups and their sizes, never rows. Rows are stored group after group and shuffled by key inside
each group, so that a draw is (group, cursor) by the mixture and then ``offset[group] + permutation(cursor)``.
Any slice of the training is computed at once, and the state of a training is one number.

Two orders exist. Without a mixture (``proportional``) all rows form one virtual group: epochs are RS2 rounds
over all of them, a true permutation per cycle, and groups appear in proportion over a cycle rather than in
every batch. With a mixture the counts of the groups follow the shares closely (within about 1 at the end of
each window of 2,048 draws), every group is passed through without replacement, and cursors survive the ends
of epochs and changes of shares.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import CurationError, RecipeError
from curation.feed.mixture import WINDOW, Mixture
from curation.feed.options import (
    FeedOptions,
    GroupValue,
    Shares,
    check_options,
    groups_table,
    mixture_record,
    segments_table,
)
from curation.feed.permutation import (
    ALGORITHM,
    N_MAX,
    Permutation,
    child_keys,
    derive_key,
    permute_runs,
    shuffled,
)
from curation.methods.rs2 import RS2, round_rows, round_size, rounds_per_cycle, subset_size

__all__ = ["FeedError", "FeedOptions", "GroupValue", "Plan", "Shares", "check_rank", "write_plan"]

FORMAT = 1
"""Version of the plan file."""

_RESOLVE_AT_ONCE = 128 * WINDOW


class FeedError(CurationError):
    """A plan or a loader was asked for something it does not have."""


def write_plan(
    path: Path, *, options: FeedOptions, groups: Sequence[tuple[GroupValue, int]], seed: int, name: str
) -> dict[str, Any]:
    """Write a plan file and the tables that it names.

    Parameters
    ----------
    path
        The JSON file to write, such as ``meta/<build id>/plan.json``; ``plan-groups.arrow`` and, with a
        mixture, ``plan-segments.arrow`` go beside it.
    options
        What the recipe says.
    groups
        Name and number of rows of each group, in the order of the stored table; one entry ``(None, rows)`` if
        ``options.groups`` is None.
    seed
        Seed of the recipe, in [0, 2**64).
    name
        Name of the feed; part of every key, so that two outputs of one recipe have unrelated orders.

    Returns
    -------
    dict
        The content of the JSON file.

    Raises
    ------
    RecipeError
        If the options do not fit each other or the groups.
    """
    check_options(options, groups)
    derive_key(seed, name)  # refuses what cannot be a key before anything is written
    n_rows = sum(rows for _, rows in groups)
    subset = options.subset or RS2(fraction=1.0)
    epoch_draws = subset_size(n_rows, subset.fraction)
    if options.drop_last and epoch_draws < options.batch_size:
        raise RecipeError(
            f"feed.drop_last: expected epochs of at least one batch, got {epoch_draws} draws with batch_size "
            f"{options.batch_size}; lower batch_size, or set drop_last: false"
        )
    if options.epochs * n_rows >= N_MAX:
        raise RecipeError(f"feed.epochs: expected epochs * rows < 2**62, got {options.epochs} * {n_rows}; lower epochs")
    body: dict[str, Any] = {
        "plan": FORMAT,
        "algorithm": ALGORITHM,
        "name": name,
        "seed": seed,
        "n_rows": n_rows,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "epoch_draws": epoch_draws,
        "drop_last": options.drop_last,
        "groups": options.groups,
        "mixture": mixture_record(options.mixture),
        "subset": {"use": "rs2"} | subset.model_dump(),
        "window": WINDOW,
        "tables": {},
    }
    tables = {"groups": groups_table(groups)}
    if options.mixture is not None:
        tables["segments"] = segments_table(options.mixture, groups, options.epochs * epoch_draws)
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, table in tables.items():
        file = path.with_name(f"{path.stem}-{kind}.arrow")
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        body["tables"][kind] = {"file": file.name, "digest": _table_digest(table)}
    body["fingerprint"] = _fingerprint(body)
    # last and in one step: a plan is there when its JSON file is
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(body, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return body


class Plan:
    """An open plan; see `Plan.open`.

    Every answer is a function of the plan file and the arguments alone. Memory is O(groups x segments), and a
    jump to any place takes less than a millisecond once the kernels are loaded.
    """

    def __init__(self, path: Path, body: dict[str, Any], groups: pa.Table, segments: pa.Table | None) -> None:
        self._path = path
        self._body = body
        self._names: list[GroupValue] = [json.loads(text) for text in groups["group"].to_pylist()]
        self._offset = groups["offset"].to_numpy()
        self._rows = groups["rows"].to_numpy()
        self._subset = RS2(**{key: value for key, value in body["subset"].items() if key != "use"})
        self._mixture = None if segments is None else _open_mixture(segments, len(self._names), self.n_draws)
        self._window: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        texts = [] if self._mixture is None else groups["group"].to_pylist()
        self._group_keys = np.array([self._key("rows", text) for text in texts], dtype=np.uint64)
        self._draw_key = self._key("draws")

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
        body = _read_body(path)
        tables = {}
        for kind, entry in body["tables"].items():
            file = path.with_name(entry["file"])
            try:
                with pa.OSFile(str(file), "rb") as source, pa.ipc.open_file(source) as reader:
                    tables[kind] = reader.read_all()
            except (OSError, pa.ArrowInvalid) as error:
                raise FeedError(f"{file}: expected a table of the plan, got {error}; build again") from error
            if _table_digest(tables[kind]) != entry["digest"]:
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
        return int(self._body["epoch_draws"])

    @property
    def n_draws(self) -> int:
        """Draws of the training."""
        return self.epoch_start(self.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a full epoch."""
        return self._n_batches(self.epoch_draws)

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
    def nbytes(self) -> int:
        """Memory that the arrays of the plan hold [bytes]."""
        held = 0 if self._mixture is None else self._mixture.nbytes
        return held + int(self._offset.nbytes) + int(self._rows.nbytes) + int(self._group_keys.nbytes)

    def epoch_size(self, epoch: int) -> int:
        """Draws of one epoch; below ``epoch_draws`` only at the end of a cycle with ``tail: short``."""
        self._check_epoch(epoch)
        return self._round_size(epoch)

    def epoch_start(self, epoch: int) -> int:
        """First draw of an epoch, counted over the training; ``epoch`` in [0, ``epochs``]."""
        cycle, index = divmod(epoch, self._rounds)
        return cycle * self._draws_per_cycle + index * self.epoch_draws

    def first_step(self, epoch: int) -> int:
        """First batch of an epoch, counted over the training; ``epoch`` in [0, ``epochs``]."""
        cycle, index = divmod(epoch, self._rounds)
        return cycle * self._steps_per_cycle + index * self.steps_per_epoch

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
        if not 0 <= step < self.n_steps:
            raise FeedError(
                f"step: expected 0 <= step < {self.n_steps}, got {step}; the training has {self.n_steps} steps"
            )
        cycle, rest = divmod(step, self._steps_per_cycle)
        index = min(rest // self.steps_per_epoch, self._rounds - 1)
        return cycle * self._rounds + index, rest - index * self.steps_per_epoch

    def shares(self, step: int) -> dict[GroupValue, float]:
        """Share of each group at a batch.

        Parameters
        ----------
        step
            Batch, in [0, ``n_steps``).

        Returns
        -------
        dict
            Group to share [-], sorted by group (None, then numbers, then text). Without a mixture the shares
            of the rows.

        Raises
        ------
        FeedError
            If there is no such step.
        """
        epoch, batch = self.epoch_of(step)
        if self._mixture is None:
            shares = self._rows / self.n_rows
        else:
            draw = self.epoch_start(epoch) + batch * self.batch_size
            shares = self._mixture.shares[self._mixture.segment(draw)]
        return dict(sorted(zip(self._names, shares.tolist(), strict=True), key=lambda item: _sort_key(item[0])))

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
        if self._mixture is None:
            return self._round_rows(epoch, start, stop)
        first = self.epoch_start(epoch)
        return self._mixture_rows(self._mixture, first + start, first + stop)

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
        if self._mixture is not None:
            return self._mixture_rows(self._mixture, start, stop)
        out = np.empty(stop - start, dtype=np.int64)
        epoch, done = self._epoch_at(start), start
        while done < stop:
            first = self.epoch_start(epoch)
            until = min(stop, self.epoch_start(epoch + 1))
            out[done - start : until - start] = self._round_rows(epoch, done - first, until - first)
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
            Weights > 0 [-], row by row those of `batch`; 1 where nothing is weighted.

        Raises
        ------
        FeedError
            If there is no such step or rank.
        """
        _, start, stop = self._slice(step, rank, world_size)
        return np.ones(stop - start)

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
        epoch, number = self.epoch_of(step)
        start = number * self.batch_size
        k = min(self.batch_size, self._round_size(epoch) - start)
        return epoch, start + k * rank // world_size, start + k * (rank + 1) // world_size

    @property
    def _rounds(self) -> int:
        """Epochs after which the sizes of epochs repeat."""
        if self._subset.replacement:
            return 1
        return rounds_per_cycle(self.n_rows, self.epoch_draws, self._subset.tail)

    def _round_size(self, epoch: int) -> int:
        return round_size(
            epoch,
            n_rows=self.n_rows,
            n_subset=self.epoch_draws,
            tail=self._subset.tail,
            replacement=self._subset.replacement,
        )

    @property
    def _draws_per_cycle(self) -> int:
        return (self._rounds - 1) * self.epoch_draws + self._round_size(self._rounds - 1)

    @property
    def _steps_per_cycle(self) -> int:
        return (self._rounds - 1) * self.steps_per_epoch + self._n_batches(self._round_size(self._rounds - 1))

    def _n_batches(self, n_draws: int) -> int:
        return n_draws // self.batch_size if self._body["drop_last"] else -(-n_draws // self.batch_size)

    def _epoch_at(self, draw: int) -> int:
        cycle, rest = divmod(draw, self._draws_per_cycle)
        return cycle * self._rounds + min(rest // self.epoch_draws, self._rounds - 1)

    def _check_epoch(self, epoch: int) -> None:
        if not 0 <= epoch < self.epochs:
            raise FeedError(f"epoch: expected 0 <= epoch < {self.epochs}, got {epoch}; epochs count from 0")

    def _round_rows(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        return round_rows(
            epoch,
            np.arange(start, stop, dtype=np.int64),
            n_rows=self.n_rows,
            n_subset=self.epoch_draws,
            tail=self._subset.tail,
            replacement=self._subset.replacement,
            keyed=self._keyed,
        )

    def _keyed(self, purpose: str, number: int, size: int) -> Permutation:
        return Permutation(size, self._key(purpose, number))

    def _key(self, *names: str | int) -> np.uint64:
        return derive_key(self._body["seed"], self._body["name"], *names)

    def _shuffle(self, segment: int, window: int, size: int) -> NDArray[np.uint16]:
        return shuffled(size, self._key("window", segment, window))

    def _mixture_rows(self, mixture: Mixture, start: int, stop: int) -> NDArray[np.int64]:
        out = np.empty(stop - start, dtype=np.int64)
        for begin in range(start, stop, _RESOLVE_AT_ONCE):
            end = min(begin + _RESOLVE_AT_ONCE, stop)
            groups = np.empty(end - begin, dtype=np.int64)
            cursors = np.empty(end - begin, dtype=np.int64)
            done = begin
            while done < end:
                first, window_groups, window_cursors = self._window_of(mixture, done)
                until = min(end, first + window_groups.shape[0])
                part = slice(done - begin, until - begin)
                groups[part] = window_groups[done - first : until - first]
                cursors[part] = window_cursors[done - first : until - first]
                done = until
            out[begin - start : end - start] = self._resolve(groups, cursors)
        return out

    def _window_of(self, mixture: Mixture, draw: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        last = self._window  # one assignment and one read: threads may race, and then merely compute it twice
        if last is None or not last[0] <= draw < last[0] + last[1].shape[0]:
            last = mixture.window(draw, self._shuffle)
            self._window = last
        return last

    def _resolve(self, groups: NDArray[np.int64], cursors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of (group, cursor): sorted by group, so that each run is one pass of one group."""
        small = np.uint16 if len(self._names) <= 1 << 16 else np.int64  # numpy sorts 16-bit keys by radix
        order = np.argsort(groups.astype(small), kind="stable")
        groups, cursors = groups[order], cursors[order]
        rows = self._rows[groups]
        passes = cursors // rows
        begins = np.ones(groups.shape[0], dtype=np.bool_)
        # one-row groups change pass at every draw and need no bijection: keep them one run
        begins[1:] = (groups[1:] != groups[:-1]) | ((passes[1:] != passes[:-1]) & (rows[1:] > 1))
        first = np.flatnonzero(begins)
        keys = child_keys(self._group_keys[groups[first]], passes[first])
        starts = np.append(first, groups.shape[0])
        out = np.empty(groups.shape[0], dtype=np.int64)
        out[order] = self._offset[groups] + permute_runs(cursors - passes * rows, starts, rows[first], keys)
        return out


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


def _open_mixture(segments: pa.Table, n_groups: int, n_draws: int) -> Mixture:
    shares = segments["shares"].combine_chunks().flatten().to_numpy().reshape(-1, n_groups)
    return Mixture.from_shares(np.append(segments["start"].to_numpy(), np.int64(n_draws)), shares)


def _table_digest(table: pa.Table) -> str:
    """Hash of the content, whatever the version of the file format."""
    digest = blake2b(digest_size=16)
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            column = column.flatten()
        content = (
            "\0".join(column.to_pylist()).encode() if pa.types.is_string(column.type) else column.to_numpy().tobytes()
        )
        digest.update(f"{field.name}\0{field.type}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _fingerprint(body: dict[str, Any]) -> str:
    content = {key: value for key, value in body.items() if key != "fingerprint"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _read_body(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FeedError(f"{path}: expected a plan, got {error}; build again") from error
    wanted = {"plan": FORMAT, "algorithm": ALGORITHM, "window": WINDOW}
    got = {key: body.get(key) for key in wanted} if isinstance(body, dict) else body
    if got != wanted:
        raise FeedError(
            f"{path}: expected a plan of {wanted}, got {got}; open it with the version of curation that "
            "wrote it, or build again"
        )
    if body.get("fingerprint") != _fingerprint(body):
        raise FeedError(f"{path}: expected its content to match its fingerprint, got a changed file; build again")
    return body
