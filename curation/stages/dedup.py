"""Stage ``dedup``: of rows that are equal, or of texts that are nearly so, one goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.keys import content_key
from curation.methods.dedup import Dedup, Near, linked_survivors, listed, rank_keys, ranked_nodes, repeated, row_keys
from curation.methods.dedup import survivors as equal_survivors
from curation.methods.minhash import (
    UNICODE,
    band_hashes,
    connected_components,
    is_text,
    link_bands,
    minhash_signatures,
    permutation_seeds,
    text_buffers,
)
from curation.rng import stream_key
from curation.stages.base import ArtifactStage, BindError, Drop, Fault, Outcome, State, Tables
from curation.stages.columns import missing
from curation.tables import keep, take
from curation.types import COPY, OWN_COLUMNS, ROW_ID, Ids, copies_of, ids_of

FIND_ROWS = 2_000_000
"""Keys (rows, or bands of rows) that one job looks through, about."""
PLACE_ROWS = 4_000_000
"""Rows whose fate one table holds, about."""
SAMPLE = 4096
"""Row ids by which the ranges of these tables are chosen."""

HASH, REST, RANK, SURE = "hash", "rest", "rank", "sure"
"""Columns of extracts: key of a row or of a band, further bits of a row's key, order of preference, fate is known."""
OTHER = "of."
INSTEAD = OTHER + ROW_ID
"""Row that stays instead of one that is dropped. Of a row that had an equal one in its own chunk it is that one, which
may be dropped for another in turn."""
"""Prefix of columns of the row that is preferred."""


class DedupStage(ArtifactStage[Dedup]):
    """Drops rows of which an equal one, or one with nearly the same text, is preferred; out of core.

    Fit: number of rows and a sample of their ids. Extract: keys of a chunk, sorted. Steps, exact: ``find`` takes a
    range of keys from all extracts. Near: ``link`` does so with hashes of bands, ``join`` makes components of all
    links. Last, ``place`` sorts the rows to drop into ranges of row ids, in which passing rows are looked up.
    """

    alters = True

    def __init__(self, name: str, params: Dedup, seed: int) -> None:
        super().__init__(name, params, seed)
        self.steps = ("find", "place") if params.near is None else ("link", "join", "place")
        self._columns: tuple[str, ...] = ()
        self._copies = False

    @property
    def reason(self) -> str:
        """What the ledger says of a dropped row."""
        return "duplicate" if self.params.near is None else "near duplicate"

    def key(self, use: str) -> str:
        """Permutations are drawn, but whether rows are equal is no matter of chance."""
        unicode = None if self.params.normalization == "none" and self.params.near is None else UNICODE
        return content_key(super().key(use), unicode, None if self.params.near is None else self.seed)

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check that the columns are there and can be compared."""
        options = self.params
        users = [name for name in schema.names if name not in OWN_COLUMNS]
        self._columns = tuple(users if options.columns is None else options.columns)
        self._copies = COPY in schema.names
        places: list[tuple[str, tuple[str | int, ...]]] = []
        if options.near is not None:
            places.append((options.near.column, ("near", "column")))
        elif options.columns is not None:
            places += [(name, ("columns", i)) for i, name in enumerate(options.columns)]
        if options.prefer is not None:
            places.append((options.prefer.column, ("prefer", "column")))
        if options.by is not None:
            places.append((options.by, ("by",)))
        faults = [missing(schema, name, path) for name, path in places]
        if not any(faults):
            faults += self._unfit(schema)
        if found := [fault for fault in faults if fault]:
            raise BindError(found)
        return schema

    def _unfit(self, schema: pa.Schema) -> list[Fault | None]:
        options = self.params
        faults: list[Fault | None] = []
        if options.near is not None:
            kind = schema.field(options.near.column).type
            if not is_text(kind):
                fault = f"column {options.near.column!r} is {kind}, near duplicates are of text"
                faults.append(Fault(("near", "column"), fault, "compare `columns` instead"))
        else:
            faults += [_unhashable(schema, name, ("columns",)) for name in self._columns]
            if options.normalization != "none" and not any(is_text(schema.field(n).type) for n in self._columns):
                faults.append(Fault(("normalize",), "no text among the columns that are compared", "leave it out"))
        if options.by is not None:
            faults.append(_unhashable(schema, options.by, ("by",)))
        if options.prefer is not None:
            name = options.prefer.column
            kind = schema.field(name).type
            if not _is_ordered(kind):
                fault = f"column {name!r} is {kind}, rows are preferred by a number, a time or a boolean"
                faults.append(Fault(("prefer", "column"), fault, f"derive one: `cast({name} as double)`"))
        return faults

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Only what is wanted: rows are looked up by their ids."""
        return wanted

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Rows as they are; see :meth:`flow`."""
        return Outcome({"": table})

    def flow(self, tables: Sequence[pa.Table | None], state: State, artifact: Tables | None) -> Outcome:
        """Drop the rows of a chunk that are listed."""
        (table,) = tables
        assert table is not None
        assert artifact is not None
        row_id, copy = ids_of(table), copies_of(table)
        drop, instead = np.zeros(table.num_rows, np.bool_), np.zeros(table.num_rows, np.uint64)
        for detail, known in zip(self.jobs("place", state), artifact.all("place"), strict=True):
            inside = np.flatnonzero((row_id >= detail["low"]) & (row_id <= detail["high"]))
            if inside.size and known.num_rows:
                place = listed(
                    row_id[inside], copy[inside], listed_id=_numbers(known, ROW_ID), listed_copy=_copies(known)
                )
                found = inside[place >= 0]
                drop[found], instead[found] = True, _numbers(known, INSTEAD)[place[place >= 0]]
        if not drop.any():
            return Outcome({"": table})
        return Outcome({"": keep(table, ~drop)}, (Drop(self.reason, row_id[drop], copy[drop], instead[drop]),))

    # fit

    def fit_columns(self) -> frozenset[str]:
        """Nothing but the row ids."""
        return frozenset()

    def partial(self, table: pa.Table, state: State) -> State:
        """Count the rows, and take a few of their ids."""
        return {"rows": table.num_rows, "sample": _few(ids_of(table), 64)}

    def merge(self, left: State, right: State) -> State:
        """Add counts; of both samples, as many as one may have."""
        both = np.concatenate([left["sample"], right["sample"]])
        return {"rows": left["rows"] + right["rows"], "sample": _few(both, SAMPLE)}

    def advance(self, state: State, merged: State) -> tuple[State, bool]:
        """One round is enough."""
        return merged | {"sample": np.sort(merged["sample"])}, True

    # extract

    def extract_columns(self) -> frozenset[str]:
        """Columns that are compared, and those that decide."""
        near, prefer, by = self.params.near, self.params.prefer, self.params.by
        columns = set(self._columns) if near is None else {near.column}
        return frozenset(columns | ({prefer.column} if prefer else set()) | ({by} if by else set()))

    def extract(self, table: pa.Table, state: State) -> pa.Table:
        """Keys of the rows, or of the bands of their texts, in ascending order, with row ids."""
        near = self.params.near
        if near is not None:
            row, found = self._bands(table, near)
        else:
            row, found = np.arange(table.num_rows), self._keys(table)
        found[ROW_ID] = ids_of(table)[row]
        if self.params.prefer is not None:
            found[RANK] = self._ranks(table)[row]
        if self._copies:
            found[COPY] = copies_of(table)[row]
        rows = pa.table(found)
        if near is None:
            rows = _with_sure(rows)
        return take(rows, np.argsort(_numbers(rows, HASH), kind="stable"))

    def _keys(self, table: pa.Table) -> dict[str, NDArray[Any]]:
        names = list(dict.fromkeys([*self._columns, *([self.params.by] if self.params.by else [])]))
        keys = row_keys(table.select(names), normalize=self.params.normalization)
        return {HASH: keys[:, 0], REST: keys[:, 1]}

    def _bands(self, table: pa.Table, near: Near) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        offsets, data = text_buffers(table.column(near.column))
        seeds = permutation_seeds(stream_key(self.seed, self.name, "minhash"), near.bands * near.rows)
        signatures, n_shingles = minhash_signatures(
            offsets, data, ngram=near.ngram, seeds=seeds, unit=near.unit, normalize=self.params.normalization
        )
        row = np.flatnonzero(n_shingles)
        group = None if self.params.by is None else row_keys(table.select([self.params.by]))[row, 0]
        hashes = band_hashes(signatures[row], bands=near.bands, group=group)
        return np.repeat(row, near.bands), {HASH: hashes.reshape(-1)}

    def _ranks(self, table: pa.Table) -> NDArray[np.uint64]:
        prefer = self.params.prefer
        assert prefer is not None
        column = table.column(prefer.column)
        plain = column.cast(_as_number(column.type))
        known = np.asarray(plain.is_valid())
        values = (plain.fill_null(0) if plain.null_count else plain).to_numpy()
        return rank_keys(values, known, prefer.order)

    # steps

    def jobs(self, step: str, state: State) -> list[Mapping[str, Any]]:
        """Ranges of keys; all links; ranges of row ids."""
        rows = int(state["rows"])
        if step == "join":
            return [{"rows": rows}]
        if step == "place":
            edges = _quantiles(state["sample"], -(-rows // PLACE_ROWS))
            share = -(-rows // (len(edges) - 1))
            return [{"low": a, "high": b - 1, "rows": share} for a, b in pairwise(edges)]
        keys = rows * (1 if self.params.near is None else self.params.near.bands)
        count = max(1, -(-keys // FIND_ROWS))
        edges = [(i << 64) // count for i in range(count + 1)]
        return [{"low": a, "high": b - 1, "rows": -(-keys // count)} for a, b in pairwise(edges)]

    def memory(self, step: str, detail: Mapping[str, Any]) -> int:
        """Keys of a range are gathered and sorted; links are joined at 64 bytes a row that comes in."""
        each = {"find": 128, "link": 128, "join": 64, "place": 48}[step]
        return each * int(detail["rows"]) + (32 << 20)

    def run(self, step: str, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, dict[str, Any]]:
        """Find the rows to drop among those of a range of keys, or put them in order."""
        if step == "join":
            return _in_order(_joined(tables.all("link"))), {}
        if step == "place":
            source = "find" if self.params.near is None else "join"
            return _in_order(_range(tables.all(source), ROW_ID, detail)), {}
        rows = _range(tables.all("extract"), HASH, detail)
        return (_in_order(_duplicates(rows)) if step == "find" else _linked(rows)), {}


# ---- rows of a range


def _with_sure(rows: pa.Table) -> pa.Table:
    """Rows of a chunk, those marked of which an equal one is preferred in the chunk itself.

    They need no comparison with other chunks, so they get a place in the order of keys by their ids: a value that fills
    half of the data does not fill half of a job.
    """
    sure, instead = np.zeros(rows.num_rows, np.uint8), np.zeros(rows.num_rows, np.uint64)
    dropped, kept = _dropped(rows)
    sure[dropped], instead[dropped] = 1, ids_of(rows)[kept]
    keys = _numbers(rows, HASH).copy()
    keys[dropped] = _spread(ids_of(rows)[dropped])
    rows = rows.set_column(rows.column_names.index(HASH), HASH, [keys])
    return rows.append_column(SURE, [sure]).append_column(INSTEAD, [instead])


def _duplicates(rows: pa.Table) -> pa.Table:
    """Rows to drop of all rows whose keys lie in a range."""
    sure = _numbers(rows, SURE).astype(np.bool_)
    open_ = np.flatnonzero(~sure)
    dropped, kept = (open_[place] for place in _dropped(take(rows, open_)))
    instead = _numbers(rows, INSTEAD).copy()
    instead[dropped] = ids_of(rows)[kept]
    rows = rows.set_column(rows.column_names.index(INSTEAD), INSTEAD, [instead])
    return _rows(rows, np.concatenate([np.flatnonzero(sure), dropped]))


def _dropped(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to drop, and the row that stays instead of each."""
    keys = np.stack([_numbers(rows, HASH), _numbers(rows, REST)], axis=1)
    return equal_survivors(keys, rank=_ranks(rows), row_id=ids_of(rows), copy=_copies(rows))


def _linked(rows: pa.Table) -> pa.Table:
    """Links from rows to the one that is preferred among those that share a band in a range of hashes."""
    place = repeated(_numbers(rows, HASH))
    rank, row_id, copy = _ranks(rows)[place], ids_of(rows)[place], _copies(rows)[place]
    number, first = ranked_nodes(rank=rank, row_id=row_id, copy=copy)
    root = connected_components(link_bands(_numbers(rows, HASH)[place], number), len(first))
    linked = np.flatnonzero(root != np.arange(len(root)))
    return _pairs(rows, place[first[linked]], place[first[root[linked]]])


def _joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Links from every row of a component to its survivor; as many are taken up at a time as are held already."""
    forest, *later = parts
    batch: list[pa.Table] = []
    for number, part in enumerate(later, 1):
        batch.append(part)
        if number == len(later) or sum(each.num_rows for each in batch) >= max(forest.num_rows, FIND_ROWS // 4):
            forest, batch = _forest(pa.concat_tables([forest, *batch])), []
    return forest


def _forest(links: pa.Table) -> pa.Table:
    """The same components with one link a row, to the survivor."""
    ends = [
        pa.table({name: links.column(prefix + name) for name in (ROW_ID, COPY, RANK) if name in links.column_names})
        for prefix in ("", OTHER)
    ]
    rows = pa.concat_tables(ends)
    edges = np.arange(rows.num_rows).reshape(2, -1).T
    return _pairs(rows, *linked_survivors(edges, rank=_ranks(rows), row_id=ids_of(rows), copy=_copies(rows)))


def _pairs(rows: pa.Table, first: NDArray[np.int64], second: NDArray[np.int64]) -> pa.Table:
    names = [name for name in (ROW_ID, COPY, RANK) if name in rows.column_names]
    one, other = ({name: _numbers(rows, name)[place] for name in names} for place in (first, second))
    return pa.table(one | {OTHER + name: values for name, values in other.items()})


def _rows(rows: pa.Table, place: NDArray[np.int64]) -> pa.Table:
    return pa.table({n: _numbers(rows, n)[place] for n in (ROW_ID, COPY, INSTEAD) if n in rows.column_names})


def _in_order(rows: pa.Table) -> pa.Table:
    """Ids and copies in ascending order, with what stays instead."""
    return _rows(rows, np.lexsort((_copies(rows), ids_of(rows))))


def _range(parts: Sequence[pa.Table], column: str, detail: Mapping[str, Any]) -> pa.Table:
    """Rows of sorted tables whose value lies in a range; only these are read."""
    found = []
    for part in parts:
        values = _numbers(part, column)
        start = int(np.searchsorted(values, np.uint64(detail["low"])))
        stop = int(np.searchsorted(values, np.uint64(detail["high"]), side="right"))
        found.append(part.slice(start, stop - start))
    if not found:
        return pa.table({name: np.zeros(0, np.uint64) for name in (HASH, REST, SURE, ROW_ID, INSTEAD)})
    return pa.concat_tables(found).combine_chunks()


def _numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """Values of a column without nulls, mapped where they lie if it has one chunk."""
    column = table.column(name)
    values: NDArray[Any] = column.chunk(0).to_numpy() if column.num_chunks == 1 else column.to_numpy()
    return values


def _copies(table: pa.Table) -> NDArray[np.uint32]:
    return _numbers(table, COPY) if COPY in table.column_names else np.zeros(table.num_rows, np.uint32)


def _ranks(table: pa.Table) -> NDArray[np.uint64]:
    return _numbers(table, RANK) if RANK in table.column_names else np.zeros(table.num_rows, np.uint64)


# ---- ranges of ids


def _spread(ids: Ids) -> NDArray[np.uint64]:
    """Numbers that lie evenly for ids that follow one another; other ones for other ids."""
    return ids * np.uint64(0x9E3779B97F4A7C15)


def _few(ids: Ids, most: int) -> Ids:
    """At most so many different ids, which lie as all of them do."""
    ids = np.unique(ids)
    return ids[np.argsort(_spread(ids))[:most]]


def _quantiles(sample: Ids, count: int) -> list[int]:
    """Edges of ``count`` ranges (or fewer) that hold alike many ids, from 0 to 2^64."""
    inner = [int(sample[len(sample) * i // count]) for i in range(1, count)] if len(sample) else []
    return [*sorted({0, *inner}), 1 << 64]


# ---- checks


def _unhashable(schema: pa.Schema, name: str, path: tuple[str | int, ...]) -> Fault | None:
    try:
        row_keys(pa.schema([schema.field(name)]).empty_table())
    except TypeError as error:
        return Fault(path, str(error))
    return None


def _is_ordered(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
    )


def _as_number(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_boolean(kind):
        return pa.uint8()
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.float32() if pa.types.is_float16(kind) else kind


STAGE = DedupStage
