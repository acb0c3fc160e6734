"""Stage ``smote``: adds rows between near neighbours of a class; rows that come in pass through untouched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import BuildError
from curation.hashing import key_hashes
from curation.keys import content_key
from curation.methods.neighbors import exact_neighbors
from curation.methods.smote import Smote, interpolate, sampling_targets, smote_draws, usable_k
from curation.rng import stream_key
from curation.stages.base import ArtifactStage, BindError, Fault, Outcome, Piece, State, Tables
from curation.stages.columns import missing
from curation.tables import keep, take
from curation.types import (
    COPY,
    MIX,
    ORIGIN,
    OWN_COLUMNS,
    PARENT_A,
    PARENT_B,
    ROW_ID,
    SYNTHETIC,
    ids_of,
    with_own,
)

SEARCH_ROWS = 8192
"""Rows of a class that one job searches neighbours for."""
NUMBER_BITS = 32
"""Low bits of a synthetic row's id, which count the new rows of its class."""
PIECE_ROWS = 65_536
"""Synthetic rows made at a time."""
LINEAGE = (ORIGIN, PARENT_A, PARENT_B, MIX)
LABELS = (
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
)
"""Types of labels: the states of a fit hold their values as JSON."""


class SmoteStage(ArtifactStage[Smote]):
    """Oversamples classes by interpolation, out of core.

    Fit: rows per class. Extract: features of the classes to grow. Steps: ``gather`` puts a
    class into one matrix sorted by row id, ``neighbors`` searches it block by block. Pieces: the new rows.

    A synthetic row's id is the synthetic bit, 31 bits of a hash of stage, class and all counts, and its number in the
    class.
    """

    draws = True
    steps = ("gather", "neighbors")

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check label and features; columns of synthetic rows that have no rule become nullable."""
        options = self.params
        faults = [missing(schema, options.label, ("label",))]
        faults += [missing(schema, name, ("features", i)) for i, name in enumerate(options.features)]
        faults += [missing(schema, name, ("keep", i)) for i, name in enumerate(options.keep)]
        if not any(faults):
            faults += [_unfit(schema.field(n), ("features", i)) for i, n in enumerate(options.features)]
            kind = schema.field(options.label).type
            plain = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not any(test(plain) for test in LABELS):
                hint = f"derive one: `cast({options.label} as varchar)`"
                fault = f"column {options.label!r} is {kind}, a label is text, an integer or a boolean"
                faults.append(Fault(("label",), fault, hint))
            twice = sorted({options.label, *options.features} & set(options.keep))
            if twice:
                faults.append(Fault(("keep",), f"{', '.join(twice)} has its own rule already", "leave it out"))
        if COPY in schema.names:
            hint = "between copies of one row lies only that row; draw with replacement after this stage"
            faults.append(Fault(("features",), "rows come in as copies", hint))
        if any(faults):
            raise BindError([fault for fault in faults if fault])
        self._inherited = frozenset(schema.names) & set(LINEAGE)
        kinds = {name: schema.field(name).type for name in options.features}
        self._widths = {name: getattr(kind, "list_size", None) for name, kind in kinds.items()}
        self._width = sum(width or 1 for width in self._widths.values())
        filled = {options.label, *options.features, *options.keep, *OWN_COLUMNS}
        fields = [f if f.name in filled else f.with_nullable(True) for f in schema]
        return with_own(pa.schema(fields, metadata=schema.metadata), *LINEAGE)

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """What is wanted, but for lineage columns that are made here."""
        return wanted - (frozenset(LINEAGE) - self._inherited)

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Pass the rows on, with empty lineage."""
        for name in LINEAGE:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows, OWN_COLUMNS[name]))
        return Outcome({"": table})

    def fit_columns(self) -> frozenset[str]:
        """Name the label; features are looked at when the classes that grow are known."""
        return frozenset([self.params.label])

    def partial(self, table: pa.Table, state: State) -> State:
        """Count the rows of every class."""
        label = table.column(self.params.label)
        if label.null_count:
            at = ids_of(table)[int(np.flatnonzero(np.asarray(pc.is_null(label)))[0])]
            raise BuildError(
                f"stage '{self.name}', column '{self.params.label}', row id {at}: no label; "
                f"filter such rows out first: `where: {self.params.label} is not null`"
            )
        hashes = key_hashes(label, salt="label", bits=63)
        ids, first, code = np.unique(hashes, return_index=True, return_inverse=True)
        return {
            "id": [int(i) for i in ids],
            "label": [label[int(i)].as_py() for i in first],
            "rows": np.bincount(code, minlength=len(ids)).tolist(),
        }

    def merge(self, left: State, right: State) -> State:
        """Add counts."""
        rows = dict(zip(left["id"], left["rows"], strict=True))
        label = dict(zip(left["id"], left["label"], strict=True))
        for i, n, value in zip(right["id"], right["rows"], right["label"], strict=True):
            rows[i] = rows.get(i, 0) + n
            label.setdefault(i, value)
        return {"id": list(rows), "label": [label[i] for i in rows], "rows": list(rows.values())}

    def advance(self, state: State, merged: State) -> tuple[State, bool]:
        """Decide how many rows each class gets."""
        if not merged["rows"] and not isinstance(self.params.target, dict):
            return {"classes": []}, True
        ids = dict(zip(merged["label"], merged["id"], strict=True))
        counts = dict(sorted(zip(merged["label"], merged["rows"], strict=True), key=lambda each: str(each[0])))
        try:
            targets = sampling_targets(counts, self.params.target)
        except ValueError as error:
            raise BuildError(f"stage '{self.name}': {error}") from error
        classes = []
        for label, new in targets.items():
            if new <= 0:
                continue
            rows = counts[label]
            try:
                k = usable_k(rows, self.params.k, self.params.small, label=label)
            except ValueError as error:
                raise BuildError(f"stage '{self.name}', column '{self.params.label}': {error}") from error
            classes.append({"id": ids[label], "label": label, "rows": rows, "new": new, "k": k})
        seen: set[int] = set()
        for each in classes:
            each["bits"] = _id_bits(self.name, each, merged, seen)
            if each["new"] >= 1 << NUMBER_BITS:
                raise BuildError(f"stage '{self.name}': {each['new']} new rows of {each['label']!r}, at most 2^32 - 1")
        return {"classes": classes}, True

    def extract_columns(self) -> frozenset[str]:
        """Label, features and the columns to keep."""
        return frozenset([self.params.label, *self.params.features, *self.params.keep])

    def extract(self, table: pa.Table, state: State) -> pa.Table:
        """Rows of the classes that grow, as a class id, one matrix column and what is kept."""
        hashes = key_hashes(table.column(self.params.label), salt="label", bits=63)
        wanted = np.isin(hashes, np.array([each["id"] for each in state["classes"]], np.uint64))
        rows = keep(table, wanted)
        x = _matrix([rows.column(name) for name in self.params.features])
        columns = {
            ROW_ID: rows.column(ROW_ID),
            "class": pa.array(hashes[wanted]),
            "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]),
            "label": rows.column(self.params.label),
        }
        return pa.table(columns | {f"keep.{name}": rows.column(name) for name in self.params.keep})

    def jobs(self, step: str, state: State) -> list[Mapping[str, Any]]:
        """One gather per class; a search per block of a class."""
        classes = state["classes"]
        if step == "gather":
            return [{"class": i, "id": each["id"], "rows": each["rows"]} for i, each in enumerate(classes)]
        return [
            {"class": i, "start": a, "stop": min(a + SEARCH_ROWS, each["rows"]), "rows": each["rows"], "k": each["k"]}
            for i, each in enumerate(classes)
            if each["k"] > 0
            for a in range(0, each["rows"], SEARCH_ROWS)
        ]

    def memory(self, step: str, detail: Mapping[str, Any]) -> int:
        """Gather holds the class three times, a search once besides its blocks, a piece its rows."""
        row = 8 * self._width + 64
        if step == "gather":
            return int(3 * detail["rows"] * row)
        if step == "neighbors":
            return int(2 * detail["rows"] * row) + (256 << 20)
        return int(detail["stop"] - detail["start"]) * row * 8

    def run(self, step: str, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, dict[str, Any]]:
        """Gather a class, or search the neighbours of a block."""
        if step == "gather":
            return self._gather(detail, tables), {}
        base, ids = _class_matrix(tables.get("gather", detail["class"]))
        index, _ = exact_neighbors(base, detail["start"], detail["stop"], k=detail["k"], ids=ids)
        width = index.shape[1]
        return pa.table({"neighbor": pa.FixedSizeListArray.from_arrays(pa.array(index.reshape(-1)), width)}), {}

    def _gather(self, detail: Mapping[str, Any], tables: Tables) -> pa.Table:
        wanted = pa.scalar(detail["id"], pa.uint64())
        parts = [keep(each, pc.equal(each.column("class"), wanted)) for each in tables.all("extract")]
        rows = pa.concat_tables(parts).combine_chunks()
        rows = take(rows, np.argsort(ids_of(rows), kind="stable"))
        self._refuse_broken(rows)
        return rows

    def _refuse_broken(self, rows: pa.Table) -> None:
        x, ids = _class_matrix(rows)
        at = 0
        for name, width in self._widths.items():
            wrong = ~np.isfinite(x[:, at : at + (width or 1)]).all(axis=1)
            at += width or 1
            if wrong.any():
                raise BuildError(
                    f"stage '{self.name}', column '{name}': {wrong.sum()} of the {len(ids)} rows of class "
                    f"{rows.column('label')[0].as_py()!r} hold NaN, infinity or NULL (first: row id "
                    f"{ids[wrong][0]}); filter or repair them"
                )

    def pieces(self, state: State) -> list[Piece]:
        """Blocks of new rows, class by class."""
        return [
            Piece(str(each["label"]), b - a, {"class": i, "start": a, "stop": b, **each})
            for i, each in enumerate(state["classes"])
            for a in range(0, each["new"], PIECE_ROWS)
            for b in (min(a + PIECE_ROWS, each["new"]),)
        ]

    def create(self, piece: Piece, tables: Tables, schema: pa.Schema) -> pa.Table:
        """Interpolate the rows of one block."""
        detail = piece.detail
        rows = detail["stop"] - detail["start"]
        source = tables.get("gather", detail["class"])
        number = np.arange(detail["start"], detail["stop"], dtype=np.uint64)
        made: dict[str, Any] = {
            self.params.label: take(source.select(["label"]), np.zeros(rows, np.int64)).column(0),
            ROW_ID: pa.array(SYNTHETIC | np.uint64(detail["bits"] << NUMBER_BITS) | number),
            ORIGIN: pa.repeat(pa.scalar(self.name, pa.string()), rows),
        }
        if not made.keys() >= set(schema.names):
            made |= self._between(detail, source, tables, schema)
        columns = [
            made[field.name].cast(field.type) if field.name in made else pa.nulls(rows, field.type) for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def _between(
        self, detail: Mapping[str, Any], source: pa.Table, tables: Tables, schema: pa.Schema
    ) -> dict[str, pa.Array]:
        """Parents, mix, features and kept columns of a block."""
        base, ids = _class_matrix(source)
        first, slot, mix = smote_draws(
            stream_key(self.seed, self.name, f"class {detail['id']:016x}"),
            detail["start"],
            detail["stop"],
            n_new=detail["new"],
            k=max(1, detail["k"]),
            ids=ids,
            base=self.params.base,
            width=base.shape[1] if self.params.gap == "box" else None,
        )
        second = first if detail["k"] == 0 else _neighbors(tables, detail["class"], first, slot)
        made = {
            PARENT_A: pa.array(ids[first]),
            PARENT_B: pa.array(ids[second]),
            MIX: pa.array(mix if mix.ndim == 1 else mix.mean(axis=1)),
        }
        if set(self._widths) & set(schema.names):
            made |= self._features(interpolate(base, first, second, mix), schema)
        for name in set(self.params.keep) & set(schema.names):
            made[name] = take(source.select([f"keep.{name}"]), first).column(0)
        return made

    def _features(self, x: NDArray[Any], schema: pa.Schema) -> dict[str, pa.Array]:
        made, at = {}, 0
        for name, width in self._widths.items():
            part = np.ascontiguousarray(x[:, at : at + (width or 1)]).reshape(-1)
            at += width or 1
            if name not in schema.names:
                continue
            kind = schema.field(name).type
            if width is None:
                made[name] = pa.array(part).cast(kind)
            else:
                made[name] = pa.FixedSizeListArray.from_arrays(pa.array(part).cast(kind.value_type), type=kind)
        return made


def _unfit(field: pa.Field, path: tuple[str | int, ...]) -> Fault | None:
    kind = field.type
    inner = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    if pa.types.is_floating(inner):
        return None
    if pa.types.is_integer(inner):
        hint = f"a value between two integers is no integer; derive a float column: `cast({field.name} as double)`"
    elif pa.types.is_nested(kind) or pa.types.is_binary(inner) or pa.types.is_string(inner):
        hint = "interpolate an embedding (a fixed-size list of floats), not raw bytes, text or token lists"
    else:
        hint = "features are float columns or fixed-size lists of floats"
    return Fault(path, f"column {field.name!r} is {kind}, which cannot be interpolated", hint)


def _matrix(columns: list[pa.ChunkedArray]) -> NDArray[Any]:
    """One matrix (n, d) of float columns and fixed-size lists; float32 if all are at most that; NULL becomes NaN."""
    parts = []
    for column in columns:
        kind = column.type
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_fixed_size_list(kind):
            width = kind.list_size
            if whole.null_count:
                filler = pa.scalar([float("nan")] * width, pa.list_(kind.value_type, width))
                whole = pa.array([v if v is not None else filler.as_py() for v in whole.to_pylist()], kind)
            flat = whole.flatten().to_numpy(zero_copy_only=False)
            parts.append(flat.reshape(-1, width))
        else:
            parts.append(whole.to_numpy(zero_copy_only=False).reshape(-1, 1))
    small = all(part.dtype in (np.float32, np.float16) for part in parts)
    out = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(out, dtype=np.float32 if small else np.float64)


def _class_matrix(table: pa.Table) -> tuple[NDArray[Any], NDArray[np.uint64]]:
    """Matrix and row ids of a gathered class, mapped from its file."""
    column = table.column("x").chunk(0)
    flat = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(-1, column.type.list_size), ids_of(table)


def _neighbors(tables: Tables, number: int, row: NDArray[np.int64], slot: NDArray[np.int64]) -> NDArray[np.int64]:
    """Neighbour in a slot of each row, looked up in the blocks that were searched; no block is copied."""
    found = np.empty(len(row), np.int64)
    for i, table in enumerate(tables.select("neighbors", number)):
        inside = (row >= i * SEARCH_ROWS) & (row < (i + 1) * SEARCH_ROWS)
        column = table.column("neighbor").chunk(0)
        block = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
        found[inside] = block[row[inside] - i * SEARCH_ROWS, slot[inside]]
    return found


def _id_bits(stage: str, grown: Mapping[str, Any], counts: State, seen: set[int]) -> int:
    """31 bits that stand for the new rows of a class in their ids, other ones for every class and every round.

    The counts of all classes are part of the hash: a stage of the same name that grows what it has grown before finds
    other counts, and so gives other ids.
    """
    known = sorted(zip(counts["id"], counts["rows"], strict=True))
    salt = 0
    while (bits := int(content_key("new rows", stage, grown["id"], grown["new"], known, salt)[:8], 16) >> 1) in seen:
        salt += 1
    seen.add(bits)
    return bits


STAGE = SmoteStage
