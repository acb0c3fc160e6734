"""Says what became of a row: kept where, dropped by which stage and why, set aside, or never seen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from curation.errors import BuildError, CurationError
from curation.flow.evaluate import path_bits, read_source
from curation.flow.graph import Source
from curation.io.chunks import Chunk, ChunkReader, cut
from curation.io.files import FileRef, InputError, find_files
from curation.io.formats import UnreadableError, open_file
from curation.io.manifest import Manifest, ManifestError, read_manifest
from curation.report.rows import Place, Rows, scan, text_of
from curation.types import (
    MIX,
    ORIGIN,
    OWN_COLUMNS,
    PARENT_A,
    PARENT_B,
    ROW_BITS,
    ROW_ID,
    SYNTHETIC,
    Ids,
    ids_of,
    with_own,
)

LIMIT = 20
"""Rows that are explained at a time."""

Verdict = Literal["kept", "dropped", "quarantined", "not selected", "never seen"]


@dataclass(frozen=True)
class Origin:
    """Row of an input file; ``row`` counts from 0, and is None where it was not looked for."""

    input: str
    file: str
    row: int | None


@dataclass(frozen=True)
class Kept:
    """A copy of the row in an output."""

    output: str
    place: Place
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Dropped:
    """The row left the flow here; ``copy`` numbers the copies of rows drawn with replacement."""

    stage: str
    reason: str
    copy: int


@dataclass(frozen=True)
class Parents:
    """The two rows that a synthetic row lies between: ``a + mix · (b - a)``."""

    stage: str
    a: int
    b: int
    mix: float
    origin_a: Origin | None
    origin_b: Origin | None


@dataclass(frozen=True)
class Fate:
    """What became of one row."""

    row_id: int | None
    verdict: Verdict
    kept: tuple[Kept, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    reason: str = ""
    origin: Origin | None = None
    parents: Parents | None = None

    @property
    def synthetic(self) -> bool:
        """Whether a stage made the row."""
        return self.row_id is not None and self.row_id >= int(SYNTHETIC)


@dataclass(frozen=True)
class Explanation:
    """Fates of all rows that a question is about; ``more`` of them are not listed, ``notes`` say what was not seen."""

    question: str
    fates: tuple[Fate, ...]
    more: int = 0
    notes: tuple[str, ...] = ()


def explain(manifest: Manifest, question: str) -> Explanation:
    """Say what became of one row, or of all rows with a value.

    Parameters
    ----------
    manifest
        Of the build.
    question
        A row id (decimal), or ``column=value``.

    Raises
    ------
    CurationError
        If it is neither, or no output and no input has the column.
    """
    return _Inquiry(manifest).answer(question)


# Where things are: the manifest names inputs and outputs as the recipe does, so the recipe's directory is looked for.


def candidates(manifest: Manifest, written: str) -> list[Path]:
    """Absolute paths that a path of the recipe may mean now, the likeliest first.

    The manifest holds no absolute path, so that it is the same wherever a build runs. Where the build directory lies
    as the recipe says, its place gives away all others.
    """
    written = written.removeprefix("file://")
    if Path(written).expanduser().is_absolute():
        return [Path(written).expanduser()]
    found = []
    run = manifest.path("run")
    if run is not None and run.is_file():
        root = json.loads(run.read_text("utf-8")).get("root")
        if root:
            found.append(Path(root) / written)
    here = manifest.root.resolve()
    own = str(manifest.content["recipe"]["outputs"][manifest.content["output"]]["path"])
    if not Path(own).is_absolute():
        unknown = Path("/", *(f"\0{level}" for level in range(len(Path(own).parts) + len(Path(written).parts))))
        step = os.path.relpath(os.path.normpath(unknown / written), os.path.normpath(unknown / own))
        if "\0" not in step:
            found.append(here / step)
    return [Path(os.path.normpath(each)) for each in (*found, Path.cwd() / written)]


def input_files(manifest: Manifest) -> dict[str, list[Path]]:
    """Files of the inputs that are still where the recipe says, in the order of the manifest."""
    return {name: [Path(file.path) for file in files] for name, files in _input_refs(manifest).items()}


def _input_refs(manifest: Manifest) -> dict[str, list[FileRef]]:
    found: dict[str, list[FileRef]] = {}
    for name, account in manifest.content["inputs"].items():
        patterns = account["path"] if isinstance(account["path"], list) else [account["path"]]
        stated = manifest.content["recipe"]["inputs"][name].get("format")
        known = {each["path"] for each in account["files"]}
        for paths in zip(*(candidates(manifest, pattern) for pattern in patterns), strict=False):
            try:
                files = find_files([str(path) for path in paths], stated=stated)
            except InputError:
                continue
            if known & {file.relative for file in files}:
                found[name] = [file for file in files if file.relative in known]
                break
    return found


def siblings(manifest: Manifest) -> dict[str, Manifest]:
    """Other outputs of the same build that can be found."""
    found = {}
    for name, output in manifest.content["recipe"]["outputs"].items():
        if name == manifest.content["output"]:
            continue
        for path in candidates(manifest, str(output["path"])):
            try:
                other = read_manifest(path)
            except ManifestError:
                continue
            if other.build_id == manifest.build_id and other.content["output"] == name:
                found[name] = other
                break
    return found


@dataclass
class _Seen:
    """A row of an input file that answers the question."""

    row_id: int
    origin: Origin


@dataclass
class _Inquiry:
    manifest: Manifest
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        own = str(self.manifest.content["output"])
        self.manifests = {own: self.manifest, **siblings(self.manifest)}
        for name in self.manifest.content["recipe"]["outputs"]:
            if name not in self.manifests:
                self.notes.append(f"output '{name}' of this build was not found and not searched")

    def answer(self, question: str) -> Explanation:
        column, equals, value = question.partition("=")
        if equals:
            return self._by_value(question, column.strip(), value.strip())
        try:
            row_id = int(question)
        except ValueError:
            row_id = -1
        if not 0 <= row_id < 1 << 64:
            raise CurationError(f"ROW: expected a row id or column=value, got {question!r}")
        return self._listed(question, self._fates([row_id], {}))

    def _listed(self, question: str, fates: Sequence[Fate], more: int = 0) -> Explanation:
        return Explanation(question, tuple(fates), more, tuple(self.notes))

    # By value

    def _by_value(self, question: str, column: str, value: str) -> Explanation:
        ids: dict[int, None] = {}
        known = False
        for manifest in self.manifests.values():
            if column in manifest.schema.names:
                known = True
                ids |= dict.fromkeys(_ids_with(Rows(manifest).scan(), column, value))
        seen: dict[int, Origin] = {}
        for source, chunks in self._sources():
            if column not in source.schema.names:
                continue
            known = True
            for each in self._search(source, chunks, column, value):
                seen.setdefault(each.row_id, each.origin)
        if not known:
            names = ", ".join(n for n in self.manifest.schema.names if n not in OWN_COLUMNS)
            raise CurationError(f"{self.manifest.root}: no column '{column}'; there are {names}")
        ids |= dict.fromkeys(seen)
        fates = self._fates(list(ids)[:LIMIT], seen) + self._refused(column, value)
        return self._listed(question, fates, max(0, len(ids) - LIMIT))

    def _sources(self) -> Iterator[tuple[Source, list[Chunk]]]:
        """Inputs as the build read them, but with all rows."""
        refs = _input_refs(self.manifest)
        for name, account in self.manifest.content["inputs"].items():
            spec = self.manifest.content["recipe"]["inputs"][name]
            sizes = {each["path"]: each["bytes"] for each in account["files"]}
            files = refs.get(name, [])
            if len(files) < len(sizes):
                self.notes.append(f"input '{name}': {len(sizes) - len(files)} of {len(sizes)} files were not found")
            chunks: list[Chunk] = []
            schema: pa.Schema | None = None
            for file in files:
                if file.size != sizes[file.relative]:
                    self.notes.append(f"{file.path}: has changed since the build; its rows may differ")
                try:
                    layout = _layout(file)
                except UnreadableError as error:
                    self.notes.append(f"{file.path}: {error}")
                    continue
                chunks += cut(name, file, layout)
                schema = layout.schema
            if schema is not None:
                has_ids = ROW_ID in schema.names
                source = Source(
                    name, spec.get("key"), None, 1.0, 0, with_own(schema, ROW_ID), has_ids
                )  # no condition and no share: rows that were not selected are told apart afterwards
                yield source, chunks

    def _search(self, source: Source, chunks: list[Chunk], column: str, value: str) -> Iterator[_Seen]:
        for chunk, table in self._read(source, chunks, column):
            frame = _frame(table, column)
            for row in frame.select(_equals(frame.schema[column], column, value)).to_series().arg_true():
                yield _Seen(int(ids_of(table)[row]), Origin(source.name, chunk.file.relative, chunk.start + row))

    def _read(self, source: Source, chunks: list[Chunk], column: str) -> Iterator[tuple[Chunk, pa.Table]]:
        reader = ChunkReader()
        try:
            for chunk in chunks:
                try:
                    table, _ = read_source(source, chunk, reader, frozenset([column, ROW_ID]), frozenset())
                except BuildError as error:
                    self.notes.append(str(error).partition(";")[0])
                    continue
                yield chunk, table
        finally:
            reader.close()

    # By row id

    def _fates(self, ids: Sequence[int], seen: Mapping[int, Origin]) -> list[Fate]:
        kept: dict[int, list[Kept]] = {i: [] for i in ids}
        for name, manifest in self.manifests.items():
            rows = Rows(manifest)
            for row_id, positions in rows.find(ids).items():
                for position in positions:
                    values = rows.take([position], manifest.schema.names).to_pylist()[0]
                    kept[row_id].append(Kept(name, rows.place(position), values))
        dropped: dict[int, list[Dropped]] = {i: [] for i in ids}
        ledger = self.manifest.path("ledger")
        if ledger is not None and ids:
            wanted = pl.Series(ids, dtype=pl.UInt64)
            found = scan([ledger], "arrow").filter(pl.col("row_id").is_in(wanted.implode())).collect()
            for row in found.iter_rows(named=True):
                dropped[row["row_id"]].append(Dropped(row["stage"], row["reason"], row["copy"]))
        parents = {i: self._parents(kept[i]) for i in ids}
        needed = {i for i in ids if i not in seen} | {p for each in parents.values() if each for p in (each.a, each.b)}
        origins = {**self._origins(needed), **seen}
        return [self._fate(i, kept[i], dropped[i], parents[i], origins) for i in ids]

    def _fate(
        self,
        row_id: int,
        kept: list[Kept],
        dropped: list[Dropped],
        parents: Parents | None,
        origins: Mapping[int, Origin],
    ) -> Fate:
        origin = origins.get(row_id)
        if parents is not None:
            a, b = origins.get(parents.a), origins.get(parents.b)
            parents = Parents(parents.stage, parents.a, parents.b, parents.mix, a, b)
        verdict: Verdict = "never seen"
        reason = ""
        if kept:
            verdict = "kept"
        elif dropped:
            verdict = "dropped"
        elif origin is not None:
            reason = self._set_aside(origin)
            verdict = "quarantined" if reason else "not selected"
            if not reason:
                reason = self._why_not_selected(origin)
                verdict = verdict if reason else "never seen"
        return Fate(row_id, verdict, tuple(kept), tuple(dropped), reason, origin, parents)

    def _why_not_selected(self, origin: Origin) -> str:
        account = self.manifest.content["inputs"][origin.input]
        where = self.manifest.content["recipe"]["inputs"][origin.input].get("where")
        if not account["not_selected"]:
            return ""
        return f"outside `where: {where}`" if where else "outside the sample of this build"

    def _parents(self, kept: Sequence[Kept]) -> Parents | None:
        values = kept[0].values if kept else {}
        if values.get(PARENT_A) is None:
            return None
        return Parents(
            str(values.get(ORIGIN)), values[PARENT_A], values[PARENT_B], values[MIX], origin_a=None, origin_b=None
        )

    def _origins(self, ids: set[int]) -> dict[int, Origin]:
        """Input rows of row ids: read off the id where rows are named by place, else searched for."""
        wanted = {i for i in ids if i < int(SYNTHETIC)}
        found = self._by_place(wanted)
        left = np.array(sorted(wanted - found.keys()), np.uint64)
        return found | self._by_search(left) if left.size else found

    def _by_place(self, ids: set[int]) -> dict[int, Origin]:
        found: dict[int, Origin] = {}
        for name, account in self.manifest.content["inputs"].items():
            if self.manifest.content["recipe"]["inputs"][name].get("key") is not None:
                continue
            files = {path_bits(name, each["path"]): each["path"] for each in account["files"]}
            for row_id in ids:
                if (file := files.get(row_id >> ROW_BITS)) is not None:
                    found[row_id] = Origin(name, file, row_id & ((1 << ROW_BITS) - 1))
        return found

    def _by_search(self, ids: Ids) -> dict[int, Origin]:
        found: dict[int, Origin] = {}
        for source, chunks in self._sources():
            if source.key_column is None and not source.has_ids:
                continue
            for chunk, table in self._read(source, chunks, source.key_column or ROW_ID):
                here = ids_of(table)
                for row in np.flatnonzero(np.isin(here, ids)).tolist():
                    found.setdefault(int(here[row]), Origin(source.name, chunk.file.relative, chunk.start + row))
        return found

    # Rows set aside

    def _lines(self) -> list[dict[str, Any]]:
        folder = self.manifest.path("quarantine")
        if folder is None:
            return []
        return [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]

    def _set_aside(self, origin: Origin) -> str:
        for line in self._lines():
            if (line["input"], line["file"]) == (origin.input, origin.file) and (
                "start" not in line or line["start"] <= (origin.row or 0) < line["stop"]
            ):
                return str(line["reason"])
        return ""

    def _refused(self, column: str, value: str) -> list[Fate]:
        """Rows with a value among those that were refused though they can be read, such as repeated keys."""
        folder = self.manifest.path("quarantine")
        fates = []
        for line in self._lines():
            if folder is None or not line.get("rows"):
                continue
            with pa.memory_map(str(folder / line["rows"])) as source:
                table = pa.ipc.open_file(source).read_all()
            if column not in table.column_names:
                continue
            frame = _frame(table, column)
            for row in frame.select(_equals(frame.schema[column], column, value)).to_series().arg_true():
                origin = Origin(line["input"], line["file"], line["start"] + row)
                fates.append(Fate(None, "quarantined", reason=line["reason"], origin=origin))
        return fates


def _layout(file: FileRef) -> Any:
    reader = open_file(file)
    try:
        return reader.layout()
    finally:
        reader.close()


def _frame(table: pa.Table, column: str) -> pl.DataFrame:
    frame = pl.from_arrow(table.select([column]))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _ids_with(frame: pl.LazyFrame, column: str, value: str) -> list[int]:
    kind = frame.select(column).collect_schema()[column]
    hits = frame.filter(_equals(kind, column, value)).select(ROW_ID).unique(maintain_order=True)
    return [int(i) for i in hits.collect().to_series().to_list()]


def _equals(kind: pl.DataType, column: str, value: str) -> pl.Expr:
    """Whether a value, given as text, is that of the column; ``null`` finds missing values."""
    if value == "null":
        return pl.col(column).is_null()
    if kind.is_nested() or kind == pl.Binary:
        raise CurationError(f"column '{column}' is {kind}, whose values cannot be named on a command line")
    if kind.is_numeric():
        try:
            number = float(value) if kind.is_float() or kind.is_decimal() else int(value)
        except ValueError:
            return pl.lit(value=False)
        return (pl.col(column) == number).fill_null(value=False)
    return text_of(pl.col(column)) == value
