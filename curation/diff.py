"""Says how two results differ: rows, values, shares of groups, settings; and whether rows are gone as they must be.

Rows are never held: their ids and a hash of each value go to files in a temporary folder, dealt by id, and two such
files at a time are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curation.errors import CurationError
from curation.hashing import row_hashes
from curation.io.location import Location, location_of
from curation.io.manifest import NAME, Manifest, generations, read_manifest
from curation.report.rows import Rows, arrow_reader, opened
from curation.report.values import to_python
from curation.types import COPY, OWN_COLUMNS, PARENT_A, PARENT_B, ROW_ID, SYNTHETIC, Ids, Positions, copies_of, ids_of

BATCH_ROWS = 65_536
BATCH_BYTES = 64 << 20
"""Rows that are looked at together, at most, and the bytes that they may have in a Parquet file."""

PART_BYTES = 32 << 20
"""Size of a file of ids and hashes that is compared at a time."""
PARTS = 256
"""Such files at most: all are open at a time."""

_SPREAD = np.uint64(0x9E3779B97F4A7C15)

_KEY = ["id", "copy"]


@dataclass(frozen=True)
class Share:
    """Rows of a group in both results."""

    group: str
    rows_a: int
    rows_b: int
    share_a: float
    share_b: float


@dataclass(frozen=True)
class Setting:
    """A setting of the recipe as run, by its flattened key; None where it is not there."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Example:
    """A row that differs; ``values`` has, by column, the value in A and in B, None where there is no such row."""

    row_id: int
    copy: int
    values: Mapping[str, tuple[Any, Any]]


@dataclass
class Difference:
    """How two results differ.

    ``changed`` rows are in both with a value that differs; ``columns`` says how many in each column. ``retyped``
    columns have another type, which is named, and their values are not compared.
    """

    rows_a: int
    rows_b: int
    only_a: int = 0
    only_b: int = 0
    changed: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    columns_only_a: list[str] = field(default_factory=list)
    columns_only_b: list[str] = field(default_factory=list)
    retyped: dict[str, tuple[str, str]] = field(default_factory=dict)
    group_column: str | None = None
    shares: list[Share] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    stages_only_a: list[str] = field(default_factory=list)
    stages_only_b: list[str] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> int:
        """Rows that are in both with equal values."""
        return self.rows_a - self.only_a - self.changed


@dataclass
class Erasure:
    """Whether the rows of some keys, and they alone, are gone from A to B.

    ``listed_a`` and ``listed_b`` are rows with a key of the list, ``derived_a`` and ``derived_b`` synthetic rows with
    such a row as parent, ``renamed_b`` rows of B that bear the id of such a row, ``missing`` rows of A that should be
    in B and are not, ``added`` rows of B alone. ``keys`` counts the list, ``found`` its keys that A has.
    """

    keys: int
    found: int = 0
    rows_a: int = 0
    rows_b: int = 0
    listed_a: int = 0
    derived_a: int = 0
    listed_b: int = 0
    derived_b: int = 0
    renamed_b: int = 0
    missing: int = 0
    added: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing of the rows is left, and no other row is lost."""
        return not (self.listed_b or self.derived_b or self.renamed_b or self.missing)


def open_side(text: str) -> Manifest:
    """Open ``OUT``, or a generation of it by ``OUT@BUILD_ID``.

    Raises
    ------
    CurationError
        If no such build stands there.
    """
    out, at, build_id = text.rpartition("@")
    if not at or "/" in build_id or (location_of(text) / NAME).is_file():
        return read_manifest(location_of(text))
    return read_manifest(location_of(out), build_id)


def diff(a: Manifest, b: Manifest, *, examples: int = 0) -> Difference:
    """Compare two results.

    Parameters
    ----------
    a, b
        Manifests; rows are the same by ``_row_id`` and ``_copy``.
    examples
        Rows of each kind that are shown, those with the smallest ids.

    Raises
    ------
    CurationError
        If shards cannot be read, or a row id is there twice.
    """
    found = Difference(a.rows, b.rows)
    compared = _columns(found, a.schema, b.schema)
    _recipes(found, a.content, b.content)
    names = [manifest.content["group_column"] for manifest in (a, b)]
    group = next((each for each in names if each in a.schema.names and each in b.schema.names), None)
    parts = _parts(max(a.rows, b.rows), 24 + 8 * len(compared))
    with TemporaryDirectory(prefix="curation-diff-") as folder:
        groups = [
            _spill(Path(folder) / side, parts, _hashed(manifest, compared, group))
            for side, manifest in (("a", a), ("b", b))
        ]
        rows = _compare(found, Path(folder), parts, compared, examples)
    if group is not None:
        found.group_column, found.shares = group, _shares(*groups)
    if examples:
        found.examples = _examples(a, b, rows, compared)
    found.notes = _by_place(a, b)
    return found


# Schemas and recipes


def _columns(found: Difference, a: pa.Schema, b: pa.Schema) -> list[str]:
    """Note columns that only one side has, or of another type; returns those to compare."""
    ours = {ROW_ID, COPY}
    found.columns_only_a = [name for name in a.names if name not in b.names and name not in ours]
    found.columns_only_b = [name for name in b.names if name not in a.names and name not in ours]
    both = [name for name in a.names if name in b.names and name not in ours]
    found.retyped = {
        name: (str(a.field(name).type), str(b.field(name).type))
        for name in both
        if a.field(name).type != b.field(name).type
    }
    return [name for name in both if name not in found.retyped]


def _recipes(found: Difference, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Note stages that only one side has, and settings that differ, of stages that both have."""
    orders = [[stage["name"] for stage in content["recipe"]["stages"]] for content in (a, b)]
    found.stages_only_a = [name for name in orders[0] if name not in orders[1]]
    found.stages_only_b = [name for name in orders[1] if name not in orders[0]]
    both = set(orders[0]) & set(orders[1])
    flat = [dict(_settings(content, both)) for content in (a, b)]
    keys = [*flat[0], *(key for key in flat[1] if key not in flat[0])]
    found.settings = [
        Setting(key, flat[0].get(key), flat[1].get(key)) for key in keys if flat[0].get(key) != flat[1].get(key)
    ]


def _settings(content: Mapping[str, Any], stages: set[str]) -> Iterator[tuple[str, Any]]:
    recipe = dict(content["recipe"])
    kept = [stage for stage in recipe.pop("stages") if stage["name"] in stages]
    yield from _flat(recipe, "")
    yield "stages", [stage["name"] for stage in kept]
    for stage in kept:
        yield from _flat(stage, f"stages.{stage['name']}")
    yield "sample", content["sample"]
    yield from _flat(content["versions"], "versions")


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Settings with their keys joined by dots; lists of mappings are counted, other lists are values."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{key}.{i}")
    else:
        yield key, value


def _by_place(a: Manifest, b: Manifest) -> list[str]:
    """Say which inputs name their rows by place though their files differ: there an id may be another row's."""
    notes = []
    for name in _placed(a.content) & _placed(b.content):
        files = [
            [(file["path"], file["key"]) for file in manifest.content["inputs"][name]["files"]] for manifest in (a, b)
        ]
        if files[0] != files[1]:
            notes.append(
                f"input '{name}' has no `key` and its files differ: rows are named by their place in a file, so an id "
                "may stand for another row"
            )
    return sorted(notes)


def _placed(content: Mapping[str, Any]) -> set[str]:
    """Inputs whose rows are named by file and place."""
    return {
        name
        for name, account in content["inputs"].items()
        if content["recipe"]["inputs"][name].get("key") is None
        and any(file.get("row_bits") is not None for file in account["files"])
    }


# Rows


def _batches(manifest: Manifest, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Rows of all shards in tables of a bounded size, each with the position of its first row."""
    names, position = list(dict.fromkeys(columns)), 0
    for shard in manifest.shards:
        for batch in _shard_batches(manifest.root / shard.path, shard.bytes // max(shard.rows, 1), names):
            yield position, pa.Table.from_batches([batch]).select(names)
            position += batch.num_rows


def _shard_batches(path: Location, row_bytes: int, names: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        with opened(path) as source:
            if path.suffix == ".parquet":
                rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))
                yield from pq.ParquetFile(source).iter_batches(rows, columns=names)
                return
            reader = arrow_reader(source, names)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number).select(names)
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise CurationError(f"{path}: cannot be read: {error}; build again") from error


_Block = tuple[pl.DataFrame, Counter[str]]


def _hashed(manifest: Manifest, compared: Sequence[str], group: str | None) -> Iterator[_Block]:
    """Ids, positions and a hash of each value, with the rows by group."""
    own = [name for name in (ROW_ID, COPY) if name in manifest.schema.names]
    extra = [] if group is None else [group]
    for position, table in _batches(manifest, [*own, *compared, *extra]):
        columns: dict[str, NDArray[Any]] = {
            "id": ids_of(table),
            "copy": copies_of(table),
            "at": np.arange(position, position + table.num_rows),
        }
        for i, name in enumerate(compared):
            columns[f"h{i}"] = row_hashes(table.select([name]))[:, 0]
        yield pl.DataFrame(columns), Counter() if group is None else _count(table.column(group))


def _count(column: pa.ChunkedArray) -> Counter[str]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    counts = column.value_counts()
    names = to_python(counts.field("values"))
    rows = counts.field("counts").to_pylist()
    return Counter({"null" if name is None else str(name): n for name, n in zip(names, rows, strict=True)})


def _parts(rows: int, row_bytes: int) -> int:
    """Files to deal rows to, a power of two, so that each is of a size that fits the memory."""
    wanted = max(1, -(-rows * row_bytes // PART_BYTES))
    return min(PARTS, 1 << (wanted - 1).bit_length())


def _spill(folder: Path, parts: int, blocks: Iterator[_Block]) -> Counter[str]:
    """Deal rows to files by their id; returns the sum of the counters."""
    folder.mkdir()
    total: Counter[str] = Counter()
    with ExitStack() as stack:
        writers: dict[int, Any] = {}
        for frame, counts in blocks:
            total.update(counts)
            for number, part in _dealt(frame, parts):
                table = part.to_arrow()
                if number not in writers:
                    sink = pa.OSFile(str(folder / f"{number}.arrow"), "wb")
                    writers[number] = stack.enter_context(pa.ipc.new_stream(stack.enter_context(sink), table.schema))
                writers[number].write_table(table)
    return total


def _dealt(frame: pl.DataFrame, parts: int) -> Iterator[tuple[int, pl.DataFrame]]:
    if parts == 1:
        yield 0, frame
        return
    ids = frame["id"].to_numpy()
    number = ((ids * _SPREAD) >> np.uint64(64 - (parts - 1).bit_length())).astype(np.int64)
    order = np.argsort(number, kind="stable")
    edges = np.searchsorted(number[order], np.arange(parts + 1))
    for part in range(parts):
        here = order[edges[part] : edges[part + 1]]
        if len(here):
            yield part, frame[here]


def _part(folder: Path, number: int, schema: Mapping[str, Any]) -> pl.DataFrame:
    path = folder / f"{number}.arrow"
    if not path.exists():
        return pl.DataFrame(schema=dict(schema))
    with pa.memory_map(str(path)) as source:
        frame = pl.from_arrow(pa.ipc.open_stream(source).read_all())
    assert isinstance(frame, pl.DataFrame)
    return frame


_IDS = {"id": pl.UInt64, "copy": pl.UInt32, "at": pl.Int64}


def _compare(
    found: Difference, folder: Path, parts: int, compared: Sequence[str], examples: int
) -> dict[str, pl.DataFrame]:
    """Count rows and values that differ; returns the first rows of each kind with their positions."""
    schema = _IDS | {f"h{i}": pl.UInt64 for i in range(len(compared))}
    differs = [(pl.col(f"h{i}") != pl.col(f"h{i}_b")).alias(f"d{i}") for i in range(len(compared))]
    counts = np.zeros(len(compared), np.int64)
    kinds: dict[str, list[pl.DataFrame]] = {"only_a": [], "only_b": [], "changed": []}
    for number in range(parts):
        a, b = (_part(folder / side, number, schema) for side in ("a", "b"))
        for frame in (a, b):
            _refuse_repeated(frame)
        both = a.join(b, on=_KEY, suffix="_b").with_columns(differs)
        changed = both.filter(pl.any_horizontal([f"d{i}" for i in range(len(compared))] or pl.lit(False)))
        counts += [int(changed[f"d{i}"].sum()) for i in range(len(compared))]
        only_a, only_b = a.join(b, on=_KEY, how="anti"), b.join(a, on=_KEY, how="anti")
        found.only_a += only_a.height
        found.only_b += only_b.height
        found.changed += changed.height
        for kind, frame in (("only_a", only_a), ("only_b", only_b), ("changed", changed)):
            kinds[kind].append(frame.select(*_IDS, *(["at_b"] if kind == "changed" else [])).sort(_KEY).head(examples))
    found.columns = {name: int(n) for name, n in zip(compared, counts, strict=True) if n}
    return {kind: pl.concat(frames).sort(_KEY).head(examples) for kind, frames in kinds.items()}


def _refuse_repeated(frame: pl.DataFrame) -> None:
    twice = frame.filter(frame.select(_KEY).is_duplicated())
    if twice.height:
        row_id = int(twice["id"].to_numpy().min())
        raise CurationError(f"row {row_id} is there twice, with the same `_copy`; rows cannot be told apart")


def _shares(a: Counter[str], b: Counter[str]) -> list[Share]:
    """Groups by how far their share has moved."""
    total_a, total_b = max(a.total(), 1), max(b.total(), 1)
    found = [Share(name, a[name], b[name], a[name] / total_a, b[name] / total_b) for name in sorted({*a, *b})]
    return sorted(found, key=lambda share: -abs(share.share_b - share.share_a))


def _examples(
    a: Manifest, b: Manifest, rows: Mapping[str, pl.DataFrame], compared: Sequence[str]
) -> dict[str, list[Example]]:
    names = {"only_a": a.schema.names, "only_b": b.schema.names, "changed": list(compared)}
    found: dict[str, list[Example]] = {}
    for kind, frame in rows.items():
        found[kind] = []
        for row in frame.iter_rows(named=True):
            columns = [name for name in names[kind] if name not in (ROW_ID, COPY)]
            old = _values(a, row["at"], columns) if kind != "only_b" else {}
            new = _values(b, row.get("at_b", row["at"]), columns) if kind != "only_a" else {}
            # by their text, since NaN and arrays are not equal to themselves
            values = {
                name: (old.get(name), new.get(name))
                for name in columns
                if kind != "changed" or str(old[name]) != str(new[name])
            }
            found[kind].append(Example(row["id"], row["copy"], values))
    return found


def _values(manifest: Manifest, position: int, columns: Sequence[str]) -> dict[str, Any]:
    row = Rows(manifest).take([position], columns)
    return {name: to_python(row.column(name))[0] for name in columns}


# Erasure


def erasure(a: Manifest, b: Manifest, path: Path, column: str) -> Erasure:
    """Prove that rows with some keys are gone from A to B, and no others.

    Parameters
    ----------
    a, b
        Manifests of the result before and after.
    path
        The keys: a CSV file with a header or a Parquet file, with the column or no other one. NULLs do not count.
    column
        Column of both results that holds the key.

    Raises
    ------
    CurationError
        If there is no such column, or the list cannot be read as its type.
    """
    for manifest in (a, b):
        if column not in manifest.schema.names:
            raise CurationError(f"{manifest.root}: no column {column!r}; --on names a column of both results")
    listed = read_keys(path, column, _key_type(a.schema.field(column).type))
    found = Erasure(len(listed), rows_a=a.rows, rows_b=b.rows)
    erased = _erased(found, a, column, listed)
    # Where rows are named by their place in a file that has lost rows, ids say nothing: then contents are compared.
    by_content = bool(_placed(a.content) | _placed(b.content))
    parts = _parts(max(a.rows, b.rows), 24)
    with TemporaryDirectory(prefix="curation-erased-") as folder:
        sides = {}
        for side, manifest in (("a", a), ("b", b)):
            keys = listed.cast(_key_type(manifest.schema.field(column).type))
            blocks = _flagged(manifest, column, keys, erased, by_content)
            sides[side] = _spill(Path(folder) / side, parts, blocks)
        _contained(found, Path(folder), parts)
    found.derived_a = sides["a"]["derived"]
    found.listed_b, found.derived_b = sides["b"]["listed"], sides["b"]["derived"]
    found.renamed_b = 0 if by_content else sides["b"]["renamed"]
    if by_content:
        found.notes.append(
            "rows without a `key` are named by their place in a file; they were compared by their values"
        )
    found.notes += _leftovers(b)
    return found


def read_keys(path: Path, column: str, kind: pa.DataType) -> pa.Array:
    """Keys of a list, each once, as the type of the column.

    Raises
    ------
    CurationError
        If it is no CSV or Parquet file with the column, or a key is not of the type.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CurationError(f"{path}: cannot be read as a list of keys: {error}; expected .csv or .parquet") from error
    if column not in frame.columns and frame.width != 1:
        raise CurationError(f"{path}: expected the column {column!r}, or one column alone, got {frame.columns}")
    keys = frame[column if column in frame.columns else frame.columns[0]].drop_nulls().to_arrow()
    try:
        return keys.cast(kind).unique()
    except pa.ArrowException as error:
        raise CurationError(f"{path}: the keys are not of the type of {column!r}, {kind}: {error}") from error


def _key_type(kind: pa.DataType) -> pa.DataType:
    """The type itself, of dictionaries that of the values, without views."""
    if pa.types.is_dictionary(kind):
        return _key_type(kind.value_type)
    if kind in (pa.string(), pa.string_view()):
        return pa.large_string()
    return pa.large_binary() if kind in (pa.binary(), pa.binary_view()) else kind


def _listed(values: pa.ChunkedArray, keys: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(pc.is_in(values.cast(keys.type), value_set=keys))


def _erased(found: Erasure, a: Manifest, column: str, listed: pa.Array) -> Ids:
    """Ids of the rows of A with a key of the list, ascending; counts them and the keys that are found."""
    ids, seen = [np.zeros(0, np.uint64)], listed.slice(0, 0)
    for _, table in _batches(a, [ROW_ID, column]):
        hit = _listed(table.column(column), listed)
        ids.append(ids_of(table)[hit])
        if hit.any():
            values = table.column(column).filter(pa.array(hit)).cast(listed.type).combine_chunks()
            seen = pa.concat_arrays([seen, values]).unique()
    found.found = len(seen)
    found.listed_a = sum(map(len, ids))
    return np.unique(np.concatenate(ids))


def _flagged(manifest: Manifest, column: str, keys: pa.Array, erased: Ids, by_content: bool) -> Iterator[_Block]:
    """Ids (or hashes of the content) and whether a row must be gone, with counts of the reasons."""
    names = manifest.schema.names
    own = [name for name in (ROW_ID, COPY, PARENT_A, PARENT_B) if name in names]
    content = [name for name in names if name not in OWN_COLUMNS] if by_content else []
    for position, table in _batches(manifest, [*own, column, *content]):
        ids, copies = ids_of(table), copies_of(table)
        listed = _listed(table.column(column), keys)
        derived = ~listed & _has_parent(table, erased)
        # ids of synthetic rows are numbers that another build gives anew
        renamed = ~listed & ~derived & np.isin(ids, erased[erased < SYNTHETIC])
        counts = Counter(listed=int(listed.sum()), derived=int(derived.sum()), renamed=int(renamed.sum()))
        if by_content:
            hashes = row_hashes(table.select(content))
            ids, copies = hashes[:, 0], hashes[:, 1].astype(np.uint32)
        at: Positions = np.arange(position, position + len(ids))
        yield pl.DataFrame({"id": ids, "copy": copies, "at": at, "gone": listed | derived}), counts


def _has_parent(table: pa.Table, erased: Ids) -> NDArray[np.bool_]:
    found = np.zeros(table.num_rows, np.bool_)
    for name in (PARENT_A, PARENT_B):
        if name in table.column_names:
            parents = table.column(name)
            valid = np.asarray(parents.is_valid())
            found |= valid & np.isin(parents.fill_null(0).to_numpy(), erased)
    return found


def _contained(found: Erasure, folder: Path, parts: int) -> None:
    """Count rows of A that should be in B and are not, and rows of B alone; equal rows are counted one by one."""
    schema = _IDS | {"gone": pl.Boolean}
    for number in range(parts):
        a, b = (_part(folder / side, number, schema) for side in ("a", "b"))
        both = (
            a.group_by(_KEY)
            .agg(pl.col("gone").not_().sum().cast(pl.Int64).alias("must"), pl.len().cast(pl.Int64).alias("n"))
            .join(b.group_by(_KEY).agg(pl.len().cast(pl.Int64).alias("m")), on=_KEY, how="full")
            .select(pl.col("must", "n", "m").fill_null(0))
        )
        found.missing += int(both.select((pl.col("must") - pl.col("m")).clip(0).sum()).item())
        found.added += int(both.select((pl.col("m") - pl.col("n")).clip(0).sum()).item())


def _leftovers(b: Manifest) -> list[str]:
    """Say what stands beside B and may still hold the rows."""
    others = [each for each in generations(b.root) if each != b.build_id]
    notes = []
    if others:
        notes.append(f"{b.root} keeps other generations, which may hold the rows: {', '.join(others)}")
    if b.path("quarantine") is not None:
        notes.append(f"{b.path('quarantine')} holds rows as raw as they came; they were not looked at")
    return notes
