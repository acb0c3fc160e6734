"""Stage ``sample``: exactly so many rows, uniform or weighted, in all or per stratum, with or without copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import BuildError
from curation.hashing import key_hashes
from curation.methods.sample import Sample, apportion, arrival_keys, arrivals_until, long_tail_sizes, order_bits
from curation.methods.selection import KEY_BITS, descend, digit_table, merge_tables
from curation.report.values import to_names
from curation.rng import random_bits, stream_key
from curation.stages.base import BindError, Drop, Fault, FitStage, Outcome, State
from curation.stages.columns import missing
from curation.tables import keep, take
from curation.types import COPY, OWN_COLUMNS, Ids, copies_of, ids_of, with_own

COLLECT = 64
"""A bin with at most so many keys is looked at key by key."""


@dataclass(frozen=True)
class _Race:
    """Keyed rows of a chunk: position in the chunk, copy number, stratum code and sort key."""

    position: NDArray[np.int64]
    copy: NDArray[np.uint32]
    code: NDArray[np.int64]
    bits: Ids


class SampleStage(FitStage[Sample]):
    """Keeps the rows with the smallest keys of each stratum; a row's key depends on its id alone.

    State: ``count`` (after the first round: rows, wanted rows and weight per stratum) and then the thresholds.
    """

    draws = True

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the columns for strata and weights."""
        faults = []
        for option in ("by", "weight"):
            name = getattr(self.params, option)
            if name is None:
                continue
            fault = missing(schema, name, (option,))
            if fault is None:
                kind = schema.field(name).type
                if option == "weight" and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                    fault = Fault((option,), f"column {name!r} is {kind}, a weight is a number")
                if option == "by" and pa.types.is_nested(kind):
                    fault = Fault((option,), f"column {name!r} is nested", "use a plain column")
            faults += [fault] if fault else []
        if self.params.quotas and self.params.by in schema.names:
            faults += self._unfit_quotas(schema.field(str(self.params.by)).type)
        if self.params.replacement and COPY in schema.names:
            faults.append(Fault(("replacement",), "rows come in as copies already", "draw with replacement once"))
        if faults:
            raise BindError(faults)
        self._by_kind = schema.field(self.params.by).type if self.params.by else None
        return with_own(schema, COPY) if self.params.replacement else schema

    def _unfit_quotas(self, kind: pa.DataType) -> list[Fault]:
        try:
            _values(list(self.params.quotas or {}), kind)
        except (pa.ArrowException, TypeError, ValueError):
            keys = ", ".join(map(repr, self.params.quotas or {}))
            return [Fault(("quotas",), f"values {keys} are not all {kind}, as column {self.params.by!r} is")]
        return []

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Columns for strata and weights, besides what is wanted."""
        if self.params.replacement:
            wanted -= {COPY}
        return wanted | self.fit_columns()

    def fit_columns(self) -> frozenset[str]:
        """Columns for strata and weights."""
        return frozenset(name for name in (self.params.by, self.params.weight) if name)

    # Rounds: first count the strata, then find each stratum's threshold digit by digit.

    def partial(self, table: pa.Table, state: State) -> State:
        """Counts per stratum, then digit tables, then the keys of small bins."""
        if state is None:
            return self._count(table)
        race = self._race(table, state)
        if state["collect"]:
            return self._collected(table, race, state)
        shown = digit_table(
            np.where(state["open"][race.code], race.code, -1) if len(race.code) else race.code,
            race.bits,
            prefix=state["prefix"],
            depth=state["depth"],
            width=state["width"],
        )
        return {"stratum": shown[0], "digit": shown[1], "count": shown[2]}

    def merge(self, left: State, right: State) -> State:
        """Add counts, or concatenate collected keys."""
        if "digit" in left:
            width = 16
            a, b = ((t["stratum"], t["digit"], t["count"]) for t in (left, right))
            stratum, digit, count = merge_tables(a, b, width=width)
            return {"stratum": stratum, "digit": digit, "count": count}
        if "bits" in left:
            return {name: np.concatenate([left[name], right[name]]) for name in left}
        ids = np.concatenate([left["id"], right["id"]])
        unique, first, where = np.unique(ids, return_index=True, return_inverse=True)
        merged: dict[str, Any] = {"id": unique}
        for name in ("rows", "drawable", "weight"):
            both = np.concatenate([left[name], right[name]])
            merged[name] = np.zeros(len(unique), both.dtype)
            np.add.at(merged[name], where, both)
        names = [*left["name"], *right["name"]]
        merged["name"] = [names[i] for i in first]
        return merged

    def advance(self, state: State, merged: State) -> tuple[State, bool]:
        """From counts to sizes, from digits to thresholds."""
        if state is None:
            return self._sizes(merged)
        if state["collect"]:
            return self._thresholds(state, merged)
        return self._narrowed(state, merged)

    def _count(self, table: pa.Table) -> State:
        ids, code, names = self._strata(table)
        weight = self._weights(table)
        drawable = np.ones(table.num_rows, np.int64) if weight is None else (weight > 0).astype(np.int64)
        mass = np.ones(table.num_rows) if weight is None else weight
        return {
            "id": ids,
            "name": names,
            "rows": np.bincount(code, minlength=len(ids)).astype(np.int64),
            "drawable": np.bincount(code, weights=drawable, minlength=len(ids)).astype(np.int64),
            "weight": np.bincount(code, weights=mass, minlength=len(ids)),
        }

    def _strata(self, table: pa.Table) -> tuple[Ids, NDArray[np.int64], list[str]]:
        """Ids (hashes of the values, sorted), code per row and readable names of the chunk's strata."""
        if self.params.by is None:
            return np.zeros(1, np.uint64), np.zeros(table.num_rows, np.int64), ["all rows"]
        values = table.column(self.params.by)
        hashes = _hashes(values)
        ids, first, code = np.unique(hashes, return_index=True, return_inverse=True)
        return ids, code.astype(np.int64), [str(to_names(values.slice(i, 1))[0]) for i in first]

    def _weights(self, table: pa.Table) -> NDArray[np.float64] | None:
        if self.params.weight is None:
            return None
        column = table.column(self.params.weight)
        weight: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
        wrong = ~np.isfinite(weight) | (weight < 0)
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise BuildError(
                f"stage '{self.name}', column '{self.params.weight}', row id {ids_of(table)[at]}: expected a weight "
                f">= 0, got {column[at].as_py()}; filter such rows out, or derive a weight for them"
            )
        return weight

    def _sizes(self, counts: State) -> tuple[State, bool]:
        order = sorted(range(len(counts["id"])), key=lambda i: counts["name"][i])
        rows = counts["rows"][order]
        wanted = np.zeros(len(counts["id"]), np.int64)
        wanted[order] = self._wanted(rows, [counts["name"][i] for i in order], counts["id"][order])
        short = (wanted > counts["drawable"]) & ((counts["drawable"] == 0) | (not self.params.replacement))
        if short.any():
            at = int(np.flatnonzero(short)[0])
            kind = "rows" if self.params.weight is None else "rows of weight > 0"
            where = f"{self.params.by} = {counts['name'][at]!r}" if self.params.by else "the input"
            raise BuildError(
                f"stage '{self.name}': {wanted[at]} rows wanted of {where}, which has {counts['drawable'][at]} {kind}; "
                "lower the number, or set `replacement: true`"
            )
        if not np.isfinite(counts["weight"]).all():
            raise BuildError(
                f"stage '{self.name}', column '{self.params.weight}': the weights sum to infinity; divide them by a "
                "large number, since only their ratios matter"
            )
        everything = (wanted == counts["rows"]) & (not self.params.replacement)
        state = {
            **counts,
            "wanted": wanted,
            "open": (wanted > 0) & ~everything,
            "everything": everything,
            "prefix": np.zeros(len(wanted), np.uint64),
            "rank": wanted.copy(),
            "held": counts["rows"].copy(),
            "depth": 0,
            "width": 16 if len(wanted) <= COLLECT else 8,
            "collect": False,
            "reach": 8.0,
            "cut_bits": np.zeros(len(wanted), np.uint64),
            "cut_row": np.zeros(len(wanted), np.uint64),
            "cut_copy": np.zeros(len(wanted), np.uint32),
        }
        return state, not state["open"].any()

    def _wanted(self, rows: NDArray[np.int64], names: list[str], ids: Ids) -> NDArray[np.int64]:
        options = self.params
        total = int(rows.sum())
        if options.quotas is not None:
            known = {int(i): n for i, n in zip(*self._quota_ids(), strict=True)}
            absent = [str(v) for v, i in zip(options.quotas, known, strict=True) if i not in set(ids.tolist())]
            if absent:
                raise BuildError(
                    f"stage '{self.name}': no row has {options.by} = {', '.join(absent)}; values there: "
                    f"{', '.join(names[:20])}"
                )
            return np.array([known.get(int(i), 0) for i in ids], np.int64)
        if options.long_tail is not None:
            return long_tail_sizes(rows, options.long_tail.imbalance)
        size = options.n if options.n is not None else int(np.floor((options.fraction or 0.0) * total + 0.5))
        if size > total and not options.replacement:
            raise BuildError(
                f"stage '{self.name}': {size} rows wanted, {total} there; lower `n`, or set `replacement: true`"
            )
        return apportion(size, rows) if total else np.zeros(len(rows), np.int64)

    def _quota_ids(self) -> tuple[Ids, list[int]]:
        quotas = self.params.quotas or {}
        return _hashes(_values(list(quotas), self._by_kind)), list(quotas.values())

    def _race(self, table: pa.Table, state: State) -> _Race:
        """Every (row, copy) that could be drawn, with its key."""
        key = stream_key(self.seed, self.name, "sample")
        ids, weight = ids_of(table), self._weights(table)
        hashes = np.zeros(len(ids), np.uint64) if self.params.by is None else _hashes(table.column(self.params.by))
        code = np.searchsorted(state["id"], hashes).astype(np.int64)
        if not self.params.replacement:
            copies = copies_of(table)
            bits = (
                random_bits(key, ids, stream=copies)
                if weight is None
                else order_bits(arrival_keys(key, ids, stream=copies, weight=weight))
            )
            return _Race(np.arange(len(ids)), copies, code, bits)
        # A stratum of total weight W has about W t arrivals until time t: enough of them with all but no doubt.
        wanted = state["wanted"]
        reach = (wanted + state["reach"] * np.sqrt(wanted) + 32.0) / np.maximum(state["weight"], 1e-300)
        rate = (np.ones(len(ids)) if weight is None else weight) * np.where(wanted > 0, reach, 0.0)[code]
        position, copy, arrival = arrivals_until(key, ids, 1.0, rate)
        return _Race(position, copy, code[position], order_bits(arrival))

    def _narrowed(self, state: State, merged: State) -> tuple[State, bool]:
        state = dict(state)
        prefix, rank, held = state["prefix"].copy(), state["rank"].copy(), state["held"].copy()
        edges = np.searchsorted(merged["stratum"], np.arange(len(prefix) + 1))
        for at in np.flatnonzero(state["open"]):
            part = slice(edges[at], edges[at + 1])
            if merged["count"][part].sum() < rank[at]:  # copies: too few arrivals, reach further
                return {**state, "reach": state["reach"] * 4}, False
            digit, rank[at], held[at] = descend(merged["digit"][part], merged["count"][part], int(rank[at]))
            prefix[at] = (int(prefix[at]) << state["width"]) | digit
        depth = state["depth"] + state["width"]
        small = bool((held[state["open"]] <= COLLECT).all()) or depth == KEY_BITS
        return {**state, "prefix": prefix, "rank": rank, "held": held, "depth": depth, "collect": small}, False

    def _collected(self, table: pa.Table, race: _Race, state: State) -> State:
        shift = np.uint64(KEY_BITS - state["depth"])
        inside = state["open"][race.code] & (
            (race.bits >> shift if state["depth"] < KEY_BITS else race.bits) == state["prefix"][race.code]
        )
        return {
            "code": race.code[inside],
            "bits": race.bits[inside],
            "row": ids_of(table)[race.position[inside]],
            "copy": race.copy[inside],
        }

    def _thresholds(self, state: State, found: State) -> tuple[State, bool]:
        order = np.lexsort((found["copy"], found["row"], found["bits"], found["code"]))
        first = np.searchsorted(found["code"][order], np.arange(len(state["id"])))
        state = dict(state)
        cuts = {name: state[name].copy() for name in ("cut_bits", "cut_row", "cut_copy")}
        for at in np.flatnonzero(state["open"]):
            last = order[first[at] + int(state["rank"][at]) - 1]
            cuts["cut_bits"][at], cuts["cut_row"][at] = found["bits"][last], found["row"][last]
            cuts["cut_copy"][at] = found["copy"][last]
        return {**state, **cuts}, True

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Keep what lies at or below its stratum's threshold."""
        if not table.num_rows:
            return self._outcome(table, np.zeros(0, np.int64), np.zeros(0, np.uint32))
        race = self._race(table, state)
        code, row = race.code, ids_of(table)[race.position]
        cut_bits, cut_row, cut_copy = (state[name][code] for name in ("cut_bits", "cut_row", "cut_copy"))
        same = race.bits == cut_bits
        below = (race.bits < cut_bits) | (same & (row < cut_row))
        below |= same & (row == cut_row) & (race.copy <= cut_copy)
        kept = state["everything"][code] | (state["open"][code] & below)
        return self._outcome(table, race.position[kept], race.copy[kept])

    def _outcome(self, table: pa.Table, position: NDArray[np.int64], copy: NDArray[np.uint32]) -> Outcome:
        dropped = np.ones(table.num_rows, bool)
        dropped[position] = False
        drops = (Drop.of(keep(table, dropped), "not drawn"),) if dropped.any() else ()
        if not self.params.replacement:
            return Outcome({"": take(table, position) if drops else table}, drops)
        order = np.lexsort((copy, position))
        position, copy = position[order], copy[order]
        out = take(table, position)
        own = pa.array(copy, OWN_COLUMNS[COPY])
        return Outcome({"": out.append_column(COPY, own)}, drops, created=len(position) - int((~dropped).sum()))


def _hashes(values: pa.ChunkedArray) -> Ids:
    """Stratum id of each value; missing values are a stratum of their own."""
    ids = np.zeros(len(values), np.uint64)
    known = np.asarray(pc.is_valid(values))
    ids[known] = key_hashes(values.drop_null(), salt="stratum", bits=63)
    return ids


def _values(values: list[Any], kind: pa.DataType | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values) if kind is None else pa.array(values).cast(kind)])


STAGE = SampleStage
