"""Says what became of a row: kept where, dropped by which stage and why, set aside, or never seen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from curation.engine.store import Store
from curation.errors import BuildError, CurationError, InputError
from curation.expressions import RowExpression
from curation.flow.evaluate import Readers, path_bits, read_source
from curation.flow.graph import Source
from curation.flow.inputs import SNIFF_FILES, layout_of
from curation.flow.reading import Batch, ReadJob, chunks_of_parts, read_options, sniff
from curation.io.chunks import Chunk, ChunkReader, Skip, cut
from curation.io.files import RECORDS, FileRef, find_files
from curation.io.formats import UnreadableError
from curation.io.location import Location, RemotePath, location_of
from curation.io.manifest import Manifest, ManifestError, read_manifest
from curation.io.remote import RemoteError
from curation.report.rows import Place, Rows, opened, scan
from curation.report.values import matches, to_python
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
    Positions,
    ids_of,
    with_own,
)
from curation.urls import is_url, local_text
from curation.widen import WidenError, unify

LIMIT = 20
"""Rows that are explained at a time."""

IMAGES = 1024
"""Images that are read together."""

Verdict = Literal["kept", "dropped", "quarantined", "not selected", "never seen", "unknown"]


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
    """The row left the flow here; ``copy`` numbers the copies of rows drawn with replacement.

    ``instead`` is the row that stands for it, if there is such a one, as for duplicates.
    """

    stage: str
    reason: str
    copy: int
    instead: int | None = None
    instead_origin: Origin | None = None


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
    """What became of one row; ``unknown`` where what would tell is not at hand any more, and ``reason`` says what."""

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
    with closing(_Inquiry(manifest)) as inquiry:
        return inquiry.answer(question)


# Where things are: the manifest names inputs and outputs as the recipe does, so the recipe's directory is looked for.


def candidates(manifest: Manifest, written: str) -> list[Location]:
    """URL, or absolute paths, that a path of the recipe may mean now, the likeliest first.

    The manifest holds no absolute path, so that it is the same wherever a build runs. Where the build directory lies
    as the recipe says, its place gives away all others.
    """
    if is_url(written):
        return [RemotePath(written.rstrip("/"))]
    written = local_text(written)
    if Path(written).expanduser().is_absolute():
        return [Path(written).expanduser()]
    found = []
    run = manifest.path("run")
    if run is not None and run.is_file():
        root = json.loads(run.read_text("utf-8")).get("root")
        if root:
            found.append(Path(root) / written)
    own = str(manifest.content["recipe"]["outputs"][manifest.content["output"]]["path"])
    if isinstance(manifest.root, Path) and not is_url(own) and not Path(own).is_absolute():
        here = manifest.root.resolve()
        unknown = Path("/", *(f"\0{level}" for level in range(len(Path(own).parts) + len(Path(written).parts))))
        step = os.path.relpath(os.path.normpath(unknown / written), os.path.normpath(unknown / own))
        if "\0" not in step:
            found.append(here / step)
    return [Path(os.path.normpath(each)) for each in (*found, Path.cwd() / written)]


def input_files(manifest: Manifest) -> dict[str, list[Location]]:
    """Files of the inputs that are still where the recipe says, in the order of the manifest."""
    return {
        name: [location_of(file.url or file.path) for file in files] for name, files in _input_refs(manifest).items()
    }


def _input_refs(manifest: Manifest) -> dict[str, list[FileRef]]:
    found: dict[str, list[FileRef]] = {}
    for name, account in manifest.content["inputs"].items():
        patterns = account["path"] if isinstance(account["path"], list) else [account["path"]]
        stated = manifest.content["recipe"]["inputs"][name].get("format")
        known = {each["path"] for each in account["files"]}
        for paths in zip(*(candidates(manifest, pattern) for pattern in patterns), strict=False):
            try:
                files = find_files([_named(path) for path in paths], stated=stated)
            except (InputError, RemoteError):
                continue
            if known & {file.relative for file in files}:
                found[name] = [file for file in files if file.relative in known]
                break
    return found


def _named(at: Location) -> str:
    return at.url if isinstance(at, RemotePath) else str(at)


def siblings(manifest: Manifest) -> dict[str, Manifest]:
    """Other outputs of the same build that can be found."""
    found = {}
    for name, output in manifest.content["recipe"]["outputs"].items():
        if name == manifest.content["output"]:
            continue
        for path in candidates(manifest, str(output["path"])):
            try:
                other = read_manifest(path)
            except (ManifestError, RemoteError):
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
                ids |= dict.fromkeys(Rows(manifest).ids_with(column, value))
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

    @cached_property
    def _refs(self) -> dict[str, dict[str, FileRef]]:
        """Files of the inputs that are at hand, by input and path inside it."""
        return {name: {file.relative: file for file in files} for name, files in _input_refs(self.manifest).items()}

    def _sources(self) -> Iterator[tuple[Source, list[Chunk]]]:
        """Inputs as the build read them, but with all rows."""
        for name, account in self.manifest.content["inputs"].items():
            sizes = {each["path"]: each["bytes"] for each in account["files"]}
            files = self._refs.get(name, {})
            if len(files) < len(sizes):
                self._note(f"input '{name}': {len(sizes) - len(files)} of {len(sizes)} files were not found")
            chunks: list[Chunk] = []
            schemas: list[pa.Schema] = []
            for file in files.values():
                if file.size != sizes[file.relative]:
                    self._note(f"{file.path}: has changed since the build; its rows may differ")
            for group in _read_together(list(files.values())):
                opened = self._chunks(name, group)
                if opened is not None:
                    schemas.append(opened[0])
                    chunks += opened[1]
            if schemas:
                yield self._source(name, unify(schemas, exact=True)), chunks

    def _source(self, name: str, schema: pa.Schema) -> Source:
        """Input without its condition and share: rows that were not selected are told apart afterwards."""
        spec, seed = self.manifest.content["recipe"]["inputs"][name], int(self.manifest.content["seed"])
        own = ROW_ID in schema.names
        return Source(name, spec.get("key"), None, 1.0, seed, with_own(schema, ROW_ID), schema, own)

    def _chunks(self, name: str, files: Sequence[FileRef]) -> tuple[pa.Schema, list[Chunk]] | None:
        """Schema and chunks of files read together, without the rows that were refused though they can be read."""
        found = self._parts(name, files) if files[0].format in RECORDS else self._pieces(name, files[0])
        if found is None:
            return None
        refused = [
            (each["file"], each["start"], each["stop"], each["reason"])
            for each in self._lines
            if each["input"] == name and "rows" in each
        ]
        return found[0], [chunk.without(_skipped(chunk, refused)) for chunk in found[1]]

    def _bits(self, name: str, file: FileRef) -> int:
        return next((bits for bits, path in self._row_bits(name).items() if path == file.relative), 0)

    def _pieces(self, name: str, file: FileRef) -> tuple[pa.Schema, list[Chunk]] | None:
        layout = layout_of(file)
        if isinstance(layout, UnreadableError):
            self._note(f"{file.path}: {layout}")
            return None
        return layout.schema, cut(name, file, layout, row_bits=self._bits(name, file))

    def _parts(self, name: str, files: Sequence[FileRef]) -> tuple[pa.Schema, list[Chunk]] | None:
        """Read files front to back into a temporary folder."""
        spec = self.manifest.content["recipe"]["inputs"][name]
        nulls = spec.get("nulls")
        options = read_options(spec.get("types") or {}, spec.get("delimiter"), nulls, partial=False)
        try:
            schemas = [sniff(file, options) for file in files[:SNIFF_FILES]]
            bits = tuple(self._bits(name, file) for file in files)
            job = ReadJob(name, Batch(tuple(files), bits), unify(schemas, exact=True), options, False, "explain")
            store = Store(self._folder.name)
            found = chunks_of_parts(name, [job], [job.run(store)], store.data)
        except (UnreadableError, CurationError, WidenError) as error:
            self._note(f"{files[0].path}: {error}")
            return None
        for file, reason in found.broken:
            self._note(f"{file.path}: {reason}")
        return found.schemas[0][1], list(found.chunks)

    @cached_property
    def _folder(self) -> TemporaryDirectory[str]:
        """Folder for what is read again."""
        return TemporaryDirectory(prefix="curation-explain-")

    def close(self) -> None:
        """Remove what was read again."""
        if "_folder" in self.__dict__:
            self._folder.cleanup()

    def _row_bits(self, name: str) -> dict[int, str]:
        """Paths of the files of an input by the bits that stand for them in row ids."""
        files = self.manifest.content["inputs"][name]["files"]
        bits = [each.get("row_bits") for each in files]
        return {
            path_bits(name, each["path"]) if own is None else int(own): each["path"]
            for own, each in zip(bits, files, strict=True)
        }

    def _salted(self, name: str) -> frozenset[int]:
        return frozenset(self.manifest.content["inputs"][name].get("keys_hashed_again", ()))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _search(self, source: Source, chunks: list[Chunk], column: str, value: str) -> Iterator[_Seen]:
        for chunk, numbers, table in self._read(source, chunks, column):
            ids = ids_of(table)
            for row in np.flatnonzero(_matches(table, column, value)).tolist():
                yield _Seen(int(ids[row]), _origin(chunk, int(numbers[row])))

    def _read(self, source: Source, chunks: list[Chunk], column: str) -> Iterator[tuple[Chunk, Positions, pa.Table]]:
        """Rows of the chunks that can be read, each with its number in the file; notes say which cannot."""
        salted, columns = self._salted(source.name), frozenset([column, ROW_ID])
        with closing(Readers()) as readers:
            for chunk in chunks:
                sound = chunk
                try:
                    try:
                        table, _ = read_source(source, sound, readers, columns, salted)
                    except BuildError:
                        sound = self._without_faults(source, chunk, readers.rest, column)
                        table, _ = read_source(source, sound, readers, columns, salted)
                except (BuildError, UnreadableError) as error:
                    self._note(str(error).partition(";")[0])
                    continue
                yield sound, readers.rest.read(sound, ())[1], table

    def _without_faults(self, source: Source, chunk: Chunk, reader: ChunkReader, column: str) -> Chunk:
        """The chunk without the pieces that cannot be decoded."""
        stored = {column, source.key_column or column} | ({ROW_ID} if source.has_ids else set())
        names = [name for name in source.schema.names if name in stored and (source.has_ids or name != ROW_ID)]
        faults = reader.faults(chunk, names) if names else []
        for fault in faults:
            self._note(f"{chunk.place(fault.start, fault.stop)}: {fault.reason}")
        return chunk.without(faults)

    # By row id

    def _fates(self, ids: Sequence[int], seen: Mapping[int, Origin]) -> list[Fate]:
        kept: dict[int, list[Kept]] = {i: [] for i in ids}
        for name, manifest in self.manifests.items():
            rows = Rows(manifest)
            for row_id, positions in rows.find(ids).items():
                for position in positions:
                    found = rows.take([position], manifest.schema.names)
                    values = {each: to_python(found.column(each))[0] for each in found.column_names}
                    kept[row_id].append(Kept(name, rows.place(position), values))
        dropped: dict[int, list[Dropped]] = {i: [] for i in ids}
        ledger = self.manifest.path("ledger")
        if ledger is not None and ids:
            wanted = pl.Series(ids, dtype=pl.UInt64)
            listed = scan([ledger], "arrow").filter(pl.col("row_id").is_in(wanted.implode())).collect()
            for row in listed.iter_rows(named=True):
                each = Dropped(row["stage"], row["reason"], row["copy"], row.get("instead"))
                dropped[row["row_id"]].append(each)
        parents = {i: self._parents(kept[i]) for i in ids}
        made_here = {i for i, each in parents.items() if each and each.stage in self.manifest.content["stages"]}
        needed = {i for i in ids if i not in seen and i not in made_here}
        needed |= {parent for each in parents.values() if each for parent in (each.a, each.b)}
        needed |= {each.instead for drops in dropped.values() for each in drops if each.instead is not None}
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
        dropped = [replace(each, instead_origin=origins.get(each.instead or 0)) for each in dropped]
        verdict: Verdict = "never seen"
        reason = ""
        if kept:
            verdict = "kept"
        elif dropped:
            verdict = "dropped"
        elif origin is not None:
            verdict, reason = self._unused(row_id, origin)
        if verdict == "never seen":
            origin = None  # a place that no file has
        return Fate(row_id, verdict, tuple(kept), tuple(dropped), reason, origin, parents)

    def _unused(self, row_id: int, origin: Origin) -> tuple[Verdict, str]:
        """What became of a row of an input that no output and no ledger knows: it is read again."""
        reason = self._set_aside(origin)
        if reason:
            return "quarantined", reason
        file = self._refs.get(origin.input, {}).get(origin.file)
        if file is None or origin.row is None:
            return "unknown", f"no output has it, and the file {origin.file} was not found"
        opened = self._chunks(origin.input, [file])
        if opened is None:
            return "unknown", f"no output has it, and {file.path} cannot be read"
        schema, chunks = opened
        chunk = next((each for each in chunks if each.start <= origin.row < each.stop), None)
        if chunk is None:
            return "never seen", f"{origin.file} has only {chunks[-1].stop if chunks else 0:,} rows, counted from 0"
        others = [Skip(chunk.start, origin.row, ""), Skip(origin.row + 1, chunk.stop, "")]
        return self._selected(row_id, self._source(origin.input, schema), chunk.without(others))

    def _selected(self, row_id: int, source: Source, one: Chunk) -> tuple[Verdict, str]:
        """Evaluate condition and share of the input for one row."""
        where = self.manifest.content["recipe"]["inputs"][source.name].get("where")
        if where is not None and "${" in where:
            return "unknown", f"no output has it; `where: {where}` holds a variable, whose value no manifest keeps"
        wanted, salted = frozenset([ROW_ID]), self._salted(source.name)
        named = RowExpression.parse(where).columns if where else ()
        lacking = [pa.field(name, pa.null()) for name in named if name not in source.stored.names]
        source = replace(source, stored=pa.schema([*source.stored, *lacking]))  # other files have them
        with closing(Readers()) as readers:
            try:
                table, outside = read_source(replace(source, where=where), one, readers, wanted, salted)
                if outside:
                    return "not selected", f"outside `where: {where}`"
                if table.num_rows != 1 or int(ids_of(table)[0]) != row_id:
                    return "unknown", f"{one.files[0].path} has changed since the build"
                sample = float(self.manifest.content["sample"])
                if read_source(replace(source, sample=sample), one, readers, wanted, salted)[1]:
                    return "not selected", f"outside the sample of this build ({sample:g} of the rows)"
            except (CurationError, UnreadableError) as error:
                return "unknown", f"no output has it, and it cannot be read: {str(error).partition(';')[0]}"
        return "unknown", "the build selected it, but no output that was found has it"

    def _parents(self, kept: Sequence[Kept]) -> Parents | None:
        values = kept[0].values if kept else {}
        if values.get(PARENT_A) is None:
            return None
        return Parents(
            str(values.get(ORIGIN)), values[PARENT_A], values[PARENT_B], values[MIX], origin_a=None, origin_b=None
        )

    def _origins(self, ids: set[int]) -> dict[int, Origin]:
        """Input rows of row ids: read off the id where rows are named by place, else searched for."""
        found = self._by_place({i for i in ids if i < int(SYNTHETIC)})
        left = np.array(sorted(ids - found.keys()), np.uint64)
        return found | self._by_search(left) if left.size else found

    def _by_place(self, ids: set[int]) -> dict[int, Origin]:
        found: dict[int, Origin] = {}
        for name, account in self.manifest.content["inputs"].items():
            if self.manifest.content["recipe"]["inputs"][name].get("key") is not None:
                continue
            if account["files"] and "row_bits" in account["files"][0] and account["files"][0]["row_bits"] is None:
                continue  # the files carry row ids
            files = self._row_bits(name)
            for row_id in ids:
                if (file := files.get(row_id >> ROW_BITS)) is not None:
                    found[row_id] = Origin(name, file, row_id & ((1 << ROW_BITS) - 1))
        return found

    def _by_search(self, ids: Ids) -> dict[int, Origin]:
        found: dict[int, Origin] = {}
        for source, chunks in self._sources():
            # synthetic rows of an earlier build may stand in files that carry row ids, and nowhere else
            wanted = ids if source.has_ids else ids[ids < SYNTHETIC]
            if not wanted.size or (source.key_column is None and not source.has_ids):
                continue
            for chunk, numbers, table in self._read(source, chunks, source.key_column or ROW_ID):
                here = ids_of(table)
                for row in np.flatnonzero(np.isin(here, wanted)).tolist():
                    found.setdefault(int(here[row]), _origin(chunk, int(numbers[row])))
        return found

    # Rows set aside

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        folder = self.manifest.path("quarantine")
        if folder is None:
            return []
        try:
            lines = (folder / "rows.jsonl").read_text("utf-8").splitlines()
            return [json.loads(line) for line in lines]
        except (OSError, ValueError, RemoteError) as error:
            self._note(f"{folder / 'rows.jsonl'}: cannot be read: {error}")
            return []

    def _set_aside(self, origin: Origin) -> str:
        for line in self._lines:
            if (line["input"], line["file"]) == (origin.input, origin.file) and (
                "start" not in line or line["start"] <= (origin.row or 0) < line["stop"]
            ):
                return str(line["reason"])
        return ""

    def _refused(self, column: str, value: str) -> list[Fate]:
        """Rows with a value among those that were refused though they can be read, such as repeated keys."""
        folder = self.manifest.path("quarantine")
        by_table: dict[str, list[tuple[dict[str, Any], int]]] = {}
        for line in self._lines:
            if line.get("rows"):
                numbers = range(line["start"], line["stop"])
                by_table.setdefault(str(line["rows"]), []).extend((line, number) for number in numbers)
        fates: list[Fate] = []
        for name, rows in by_table.items():
            table = self._refused_rows(folder, name)
            if table is None or column not in table.column_names:
                continue
            for at in np.flatnonzero(_matches(table, column, value)[: len(rows)]).tolist():
                line, number = rows[at]
                origin = Origin(line["input"], line["file"], number)
                fates.append(Fate(None, "quarantined", reason=line["reason"], origin=origin))
        return fates

    def _refused_rows(self, folder: Location | None, name: str) -> pa.Table | None:
        if folder is None or name != Path(name).name or name == "..":
            self._note(f"rows.jsonl names {name!r}, which is no file beside it")
            return None
        try:
            with opened(folder / name) as source:
                return pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowException, RemoteError) as error:
            self._note(f"{folder / name}: cannot be read: {error}")
            return None


def _origin(chunk: Chunk, number: int) -> Origin:
    file, row = chunk.origin(number)
    return Origin(chunk.input, file.relative, row)


def _read_together(files: list[FileRef]) -> Iterator[list[FileRef]]:
    """Images in groups, all others one by one."""
    images = [file for file in files if file.format == "images"]
    yield from ([file] for file in files if file.format != "images")
    yield from (images[i : i + IMAGES] for i in range(0, len(images), IMAGES))


def _skipped(chunk: Chunk, refused: Sequence[tuple[str, int, int, str]]) -> list[Skip]:
    """Refused rows (file, first, last + 1, reason) that lie in a chunk."""
    if not chunk.segments:
        places = [(chunk.file.relative, 0, chunk.start, chunk.stop)]
    else:
        places = [(s.file.relative, s.first - s.at, s.first, s.first + s.rows) for s in chunk.segments]
    return [
        Skip(max(start, low) - shift, min(stop, high) - shift, reason)
        for file, start, stop, reason in refused
        for name, shift, low, high in places
        if name == file and start < high and stop > low
    ]


def _matches(table: pa.Table, column: str, value: str) -> NDArray[np.bool_]:
    try:
        return matches(table.column(column), value)
    except CurationError as error:
        raise CurationError(f"column '{column}': {error}") from error
