"""What stages share that look rows up by key in another table, which may be larger than memory.

The other table is written in partitions by the hash of the key, each sorted by hash. A chunk that passes is looked up
partition by partition: the hash finds, the value decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as pt

from curation.engine.store import Mark
from curation.errors import BuildError
from curation.hashing import key_hashes
from curation.keys import content_key
from curation.methods.base import Params
from curation.methods.lookup import (
    Hashes,
    candidate_pairs,
    combined_hashes,
    partition_of,
    partition_slice,
)
from curation.report.values import to_python
from curation.stages.base import ArtifactStage, Fault, State, Tables
from curation.tables import keep, take
from curation.types import COPY, ROW_ID, CarriesSchemas, conform, copies_of, ids_of, schema_key
from curation.widen import WidenError, fit, widened

P = TypeVar("P", bound=Params)

PARTITION_BYTES = 40 << 20
"""Decoded size of a partition on average, so that chance leaves it below 64 MiB."""
HASH_BITS = 64
"""Leading bits of a key's hash that count; fewer only make more candidates, never another result."""
UNKNOWN_BYTES = 64
"""Size of a value whose type does not tell it [bytes]."""
ABOUT = b"lookup"
"""Key of the metadata in which a partition says what it holds."""

_KEYS = (
    pt.is_null,
    pt.is_integer,
    pt.is_boolean,
    pt.is_string,
    pt.is_large_string,
    pt.is_binary,
    pt.is_large_binary,
    pt.is_fixed_size_binary,
    pt.is_date,
    pt.is_time,
    pt.is_timestamp,
    pt.is_duration,
    pt.is_decimal,
)


@dataclass(frozen=True)
class Lookup(CarriesSchemas):
    """Which columns are compared, as which types (``kinds`` names them k0, k1, ...), and which are taken over."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    kinds: pa.Schema
    values: pa.Schema

    @property
    def artifact(self) -> pa.Schema:
        """Schema of the tables that are looked up."""
        own = [("hash", pa.uint64()), (ROW_ID, pa.uint64()), (COPY, pa.uint32())]
        return pa.schema([*map(pa.field, *zip(*own, strict=True)), *self.kinds, *map(_value, self.values)])


def _value(field: pa.Field) -> pa.Field:
    return field.with_name(f"v.{field.name}")


NOTHING = Lookup((), (), pa.schema([]), pa.schema([]))
"""Before anything is bound."""


def common_key(left: pa.Field, right: pa.Field, path: tuple[str | int, ...]) -> pa.Field | Fault:
    """Type as which two key columns are compared, or why they cannot be."""
    kinds = [plain_kind(field.type) for field in (left, right)]
    for field, kind in zip((left, right), kinds, strict=True):
        if not any(test(kind) for test in _KEYS):
            hint = "derive one: `cast(round(x * 100) as bigint)`" if pt.is_floating(kind) else "use a plain column"
            return Fault(path, f"column {field.name!r} is {field.type}, not a key", hint)
    found = widened(left.with_type(kinds[0]), right.with_type(kinds[1]))
    if found is None:
        text = f"column {left.name!r} is {left.type}, but {right.name!r} on the other side is {right.type}"
        return Fault(path, text, "derive a key of one type in one of the tables")
    return found


def plain_kind(kind: pa.DataType) -> pa.DataType:
    """Type of the values behind dictionaries, run ends and views."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return plain_kind(kind.value_type)
    if pt.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pt.is_binary_view(kind) else kind


def decoded_bytes(array: pa.Array | pa.ChunkedArray) -> int:
    """Size of values by their types and lengths alone, however they are laid out [bytes]."""
    kind, rows = array.type, len(array)
    if pt.is_dictionary(kind):
        return 8 * rows
    if any(test(kind) for test in (pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary)):
        return 8 * rows + int(pc.sum(pc.binary_length(array)).as_py() or 0)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return 8 * rows + decoded_bytes(pc.list_flatten(array))
    if pt.is_struct(kind):
        return rows + sum(decoded_bytes(pc.struct_field(array, i)) for i in range(kind.num_fields))
    try:
        return rows + int(kind.bit_width) * rows // 8
    except ValueError:  # views, maps, unions
        return UNKNOWN_BYTES * rows


class LookupStage(ArtifactStage[P]):
    """Base of stages that look rows up; ``once`` says that a key may stand only once on the other side.

    Fit: rows and bytes of the other side, from which follows the number of partitions. Extract: its keys and values,
    sorted by hash. Steps: ``partition`` merges one range of hashes of all extracts, ``keys`` closes the account.
    """

    alters = True
    beside: ClassVar[int] = 64 << 20  # one mapped partition
    steps: tuple[str, ...] = ("partition", "keys")
    once = False

    def __init__(self, name: str, params: P, seed: int) -> None:
        super().__init__(name, params, seed)
        self._lookup = NOTHING

    def key(self, use: str) -> str:
        """Content key, with the types that were bound: those of one table depend on the other."""
        bound = [schema_key(each) for each in (self._lookup.kinds, self._lookup.values)]
        return content_key(super().key(use), self._lookup.left, self._lookup.right, bound)

    # The other side

    def fit_columns(self) -> frozenset[str]:
        """Everything that is looked up, since its size is asked for."""
        return self.extract_columns()

    def partial(self, table: pa.Table, state: State) -> State:
        """Rows with a key, rows without one, and bytes."""
        _, known = self._keys(table, self._lookup.right)
        size = sum(decoded_bytes(table.column(name)) for name in sorted(self.extract_columns()))
        return {"rows": int(known.sum()), "nulls": int((~known).sum()), "bytes": size + 24 * table.num_rows}

    def merge(self, left: State, right: State) -> State:
        """Add up."""
        return {name: left[name] + right[name] for name in left}

    def advance(self, state: State, merged: State) -> tuple[State, bool]:
        """Choose the number of partitions."""
        return {**merged, "parts": max(1, -(-merged["bytes"] // PARTITION_BYTES))}, True

    def extract_columns(self) -> frozenset[str]:
        """Keys and values."""
        return frozenset([*self._lookup.right, *self._lookup.values.names])

    def extract(self, table: pa.Table, state: State) -> pa.Table:
        """Keys and values of the rows that have a key, sorted by hash."""
        keys, known = self._keys(table, self._lookup.right)
        rows, keys = keep(table, known), keep(keys, known)
        columns: dict[str, Any] = {
            "hash": pa.array(self._hashes(keys)),
            ROW_ID: rows.column(ROW_ID),
            COPY: pa.array(copies_of(rows)),
        }
        columns |= dict(zip(keys.column_names, keys.columns, strict=True))
        columns |= {f"v.{name}": rows.column(name) for name in self._lookup.values.names}
        return _sorted(conform(pa.table(columns), self._lookup.artifact))

    def jobs(self, step: str, state: State) -> list[Mapping[str, Any]]:
        """One job a partition, then one over all."""
        parts = state["parts"]
        if step == "keys":
            return [{"parts": parts, "nulls": state["nulls"]}]
        share = {"rows": -(-state["rows"] // parts), "bytes": -(-state["bytes"] // parts)}
        return [{"part": part, "parts": parts, **share} for part in range(parts)]

    def memory(self, step: str, detail: Mapping[str, Any]) -> int:
        """A partition three times: its slices, their sorted copy, what is written."""
        return (64 << 20) + 3 * int(detail.get("bytes", 0))

    def run(self, step: str, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, Mark]:
        """Merge a partition, or sum all up."""
        if step == "keys":
            return self._account(detail, tables)
        parts = []
        for each in tables.all("extract"):
            # Copied out one by one: what stays mapped counts as memory.
            found = partition_slice(each.column("hash").to_numpy(), detail["part"], detail["parts"])
            parts.append(take(each, np.arange(found.start, found.stop)))
        schema = self._lookup.artifact
        whole = pa.concat_tables(parts).combine_chunks() if parts else schema.empty_table()
        return self._grouped(_sorted(whole)), {}

    def _grouped(self, table: pa.Table) -> pa.Table:
        """Put equal keys side by side, and note how many there are."""
        hashes = table.column("hash").to_numpy()
        same = hashes[1:] == hashes[:-1]
        doubtful = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
        if not len(doubtful):
            return _noted(table, {"keys": len(hashes), "repeated": 0, "most": min(1, len(hashes))})
        rows = take(table, doubtful)
        codes = [_codes(rows.column(name)) for name in self._lookup.kinds.names]
        order = np.lexsort((copies_of(rows), ids_of(rows), *codes, hashes[doubtful]))
        positions = np.arange(table.num_rows)
        positions[doubtful] = doubtful[order]
        # Among the doubtful, neighbours of equal hash and equal codes have equal keys.
        marks = np.stack([hashes[doubtful].view(np.int64), *codes])[:, order]
        first = np.concatenate([[True], (marks[:, 1:] != marks[:, :-1]).any(axis=0)])
        sizes = np.diff(np.append(np.flatnonzero(first), len(order)))
        about: dict[str, Any] = {
            "keys": int(len(hashes) - len(doubtful) + len(sizes)),
            "repeated": int((sizes > 1).sum()),
        }
        if about["repeated"]:
            at = order[np.flatnonzero(first)[int((sizes > 1).argmax())] :][:2]
            about |= {"key": self._shown(take(rows, at[:1])), "rows": ids_of(take(rows, at)).tolist()}
        return _noted(take(table, positions), {**about, "most": int(sizes.max())})

    def _shown(self, row: pa.Table) -> str:
        values = [to_python(row.column(name))[0] for name in self._lookup.kinds.names]
        return ", ".join(f"{name} = {value!r}" for name, value in zip(self._lookup.right, values, strict=True))

    def _account(self, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, Mark]:
        """Sum up what the partitions hold; refuse keys that stand there twice where they may not."""
        about = [json.loads(each.schema.metadata[ABOUT]) for each in tables.all("partition")]
        repeated = [each for each in about if each["repeated"]]
        total = sum(each["repeated"] for each in repeated)
        if self.once and repeated:
            first, second = repeated[0]["rows"]
            raise BuildError(
                f"stage '{self.name}', side `{self.side}`: expected every key once, got {repeated[0]['key']} in row id "
                f"{first} and again in row id {second}, {total} such keys in all; set `matches: all` to join with "
                "every one of them, or filter them out first"
            )
        keys = sum(each["keys"] for each in about)
        notes = {"keys": keys, "repeated_keys": total, "null_keys": detail["nulls"], "partitions": detail["parts"]}
        return pa.table({"keys": pa.array([keys], pa.int64())}), notes

    # The rows that pass

    def _keys(self, table: pa.Table, names: Sequence[str]) -> tuple[pa.Table, NDArray[np.bool_]]:
        """Key columns k0, k1, ... in the types in which they are compared, and which rows have no NULL there."""
        kinds = self._lookup.kinds
        columns = [table.column(name) for name in names]
        try:
            keys = fit(pa.table(columns, names=kinds.names), kinds)
        except WidenError as error:  # such as a time that the finer unit of the other side cannot hold
            name = names[kinds.names.index(error.column)]
            text = str(error).partition(": ")[2]
            raise BuildError(f"stage '{self.name}', column '{name}': {text}; derive a key of one type") from error
        known = np.ones(table.num_rows, bool)
        for column in keys.columns:
            if column.null_count:
                known &= np.asarray(column.is_valid())
        return keys, known

    def _hashes(self, keys: pa.Table) -> Hashes:
        whole = combined_hashes([key_hashes(column, salt="lookup", bits=64) for column in keys.columns])
        unused = np.uint64(64 - HASH_BITS)
        return (whole >> unused) << unused

    def pairs(
        self, table: pa.Table, state: State, artifact: Tables
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], pa.Table]]:
        """Rows that meet, one partition after the other.

        Yields
        ------
        tuple
            Number of the partition, positions in ``table``, positions in the partition, and the partition, mapped.
        """
        keys, known = self._keys(table, self._lookup.left)
        rows, keys = np.flatnonzero(known), keep(keys, known)
        if not len(rows):
            return
        hashes = self._hashes(keys)
        part = partition_of(hashes, state["parts"])
        order = np.argsort(part, kind="stable")
        edges = np.searchsorted(part[order], np.arange(state["parts"] + 1))
        for number in np.unique(part).tolist():
            here = order[edges[number] : edges[number + 1]]
            side = artifact.get("partition", number)
            query, found = candidate_pairs(side.column("hash").to_numpy(), hashes[here])
            query, found = here[query], found
            equal = self._equal(keys, query, side, found)
            yield number, rows[query[equal]], found[equal], side

    def _equal(
        self, keys: pa.Table, query: NDArray[np.int64], side: pa.Table, found: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        equal = np.ones(len(query), bool)
        for name in self._lookup.kinds.names:
            mine, theirs = take(keys.select([name]), query).column(0), take(side.select([name]), found).column(0)
            equal &= np.asarray(pc.equal(mine, theirs))
        return equal


def _sorted(table: pa.Table) -> pa.Table:
    """Rows by hash, then by row id and copy."""
    return take(table, np.lexsort((copies_of(table), ids_of(table), table.column("hash").to_numpy())))


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Number of each value among the distinct ones."""
    coded = column.combine_chunks().dictionary_encode()
    codes: NDArray[np.int64] = coded.indices.to_numpy().astype(np.int64)
    return codes


def _noted(table: pa.Table, about: Mapping[str, Any]) -> pa.Table:
    return table.replace_schema_metadata({ABOUT: json.dumps(about).encode()})
