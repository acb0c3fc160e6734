"""Inputs bound to their files: which there are, what columns they have together, into which chunks they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import pyarrow as pa

from curation.errors import CurationError
from curation.expressions import ExpressionError, RowExpression
from curation.flow.evaluate import path_bits
from curation.flow.graph import Source
from curation.flow.reading import Batch, Found, read_options, sniff, to_read
from curation.io.chunks import Chunk, cut
from curation.io.files import FileRef, find_files
from curation.io.formats import READERS, Layout, UnreadableError, open_file
from curation.io.records import base
from curation.io.records.base import Options
from curation.io.spread import spread
from curation.recipe.model import InputSpec
from curation.stages.columns import missing
from curation.types import OWN_COLUMNS, ROW_ID, CarriesSchemas, in_order, with_own
from curation.widen import WidenError, unify

SNIFF_FILES = 64
"""Files that are looked at to know the columns of those that are read front to back; others show as they are read."""
LEAST_SNIFFED = 128 << 10
"""Decompressed bytes of a file by which types are recognised, where there are many files."""
ROW_BYTES = 256
"""A row of text of which nothing is known yet."""
_PACKED = {".gz": 6.0, ".zst": 6.0, ".bz2": 8.0, ".xz": 8.0, ".tgz": 1.2, ".parquet": 4.0}


@dataclass(frozen=True)
class LostFile:
    """A file of which nothing can be read."""

    file: FileRef
    reason: str


@dataclass(frozen=True)
class BoundInput(CarriesSchemas):
    """An input with its files and chunks; ``stored`` are the columns that are decoded, as all files together have them.

    ``batches`` have yet to be read front to back; then the input is bound anew, and their rows are chunks, too.
    ``drift`` says how the files differ.
    """

    spec: InputSpec
    files: tuple[FileRef, ...]
    row_bits: Mapping[str, int]
    chunks: tuple[Chunk, ...]
    lost: tuple[LostFile, ...]
    stored: pa.Schema
    batches: tuple[Batch, ...] = ()
    drift: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are decoded."""
        return tuple(self.stored.names)

    @property
    def options(self) -> Options:
        """How files are read front to back."""
        return _options(self.spec)

    @property
    def about_bytes(self) -> int:
        """Decoded size, guessed for what is not read yet."""
        return self.bytes + sum(_decoded(batch) for batch in self.batches)

    @property
    def about_rows(self) -> int:
        """Rows, guessed for what is not read yet."""
        return self.rows + sum(
            len(each.files) if each.format == "images" else max(1, _decoded(each) // ROW_BYTES) for each in self.batches
        )

    @property
    def rows(self) -> int:
        """Rows in the readable files."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def bytes(self) -> int:
        """Decoded size of the rows, estimated."""
        return sum(chunk.bytes for chunk in self.chunks)


def _decoded(batch: Batch) -> int:
    """Guess the size of a batch in memory by the suffix of its first file."""
    return int(batch.bytes * _PACKED.get(PurePath(batch.files[0].relative.lower()).suffix, 1.2))


def _options(spec: InputSpec) -> Options:
    return read_options(spec.types or {}, spec.delimiter, spec.nulls, partial=spec.columns is not None)


Schemas = list[tuple[FileRef, pa.Schema]]
"""Columns of files, file by file."""


@dataclass
class InputBinder:
    """Binds one input after the other and reports what is wrong.

    Parameters
    ----------
    add
        Called with key path, message and hint of every problem.
    seed, sample, verify
        As in :func:`curation.flow.bind.bind`.
    files, drift
        What was found before, by input, when the recipe is bound for the second time.
    found
        What reading front to back has found, by input.
    """

    add: Callable[..., None]
    seed: int
    sample: float
    verify: bool
    files: Mapping[str, tuple[FileRef, ...]]
    drift: Mapping[str, tuple[str, ...]]
    found: Mapping[str, Found]
    taken: set[int] = field(default_factory=set)
    failed: bool = False

    def problem(self, path: tuple[str | int, ...], message: str, hint: str = "") -> None:
        """Report a problem."""
        self.failed = True
        self.add(path, message, hint)

    def bind(self, name: str, spec: InputSpec) -> tuple[BoundInput, Source] | None:
        """Find the files of an input, the columns that they have together, and its chunks; None with a problem."""
        self.failed = False
        files = self._files(name, spec)
        if files is None:
            return None
        bits = self._row_bits(name, files) if spec.key is None else {}
        batches, direct = to_read(files, bits)
        layouts = list(zip(direct, spread(layout_of, direct), strict=True))
        seen = self._seen(name, spec, batches)
        read = self.found.get(name)
        lost = [LostFile(f, str(x)) for f, x in [*layouts, *seen] if isinstance(x, UnreadableError)]
        lost += [LostFile(file, reason) for file, reason in (read.broken if read else ())]
        sound = [(f, x) for f, x in layouts if isinstance(x, Layout)]
        lost += [LostFile(file, layout.broken) for file, layout in sound if layout.broken is not None]
        schemas = [(f, x.schema) for f, x in sound] + [(f, x) for f, x in seen if isinstance(x, pa.Schema)]
        if self._too_many_lost(name, spec, lost, schemas):
            return None
        whole = self._one_schema(name, spec, schemas)
        columns = None if whole is None else self._columns(name, spec, whole)
        if whole is None or columns is None:
            return None
        if ROW_ID in columns:
            bits, batches = {}, [replace(batch, row_bits=(0,) * len(batch.files)) for batch in batches]
        chunks = [c for file, x in sound for c in cut(name, file, x, row_bits=bits.get(file.relative, 0))]
        if read is not None:
            chunks = _in_order([*chunks, *read.chunks], files)
        stored = pa.schema([whole.field(column) for column in _used(spec, columns)])
        bound = BoundInput(
            spec=spec,
            files=files,
            row_bits=bits,
            chunks=tuple(chunks),
            lost=tuple(lost),
            stored=stored,
            batches=() if read is not None else tuple(batches),
            drift=tuple(dict.fromkeys([*self.drift.get(name, ()), *_drift(whole, schemas)])),
        )
        return bound, self._source(name, spec, whole, columns, stored)

    def _source(self, name: str, spec: InputSpec, whole: pa.Schema, columns: list[str], stored: pa.Schema) -> Source:
        selected = pa.schema([whole.field(column) for column in columns], metadata=_users_metadata(whole))
        return Source(
            name=name,
            key_column=spec.key,
            where=spec.where,
            sample=self.sample,
            seed=self.seed,
            schema=in_order(with_own(selected, ROW_ID)),
            stored=stored,
            has_ids=ROW_ID in columns,
        )

    def _too_many_lost(self, name: str, spec: InputSpec, lost: Sequence[LostFile], schemas: Schemas) -> bool:
        if spec.on_bad_rows == "error":
            for each in lost:
                self.problem(
                    ("inputs", name, "path"),
                    f"{each.file.path}: {each.reason}",
                    "mend or remove the file, or set `on_bad_rows: quarantine` for this input",
                )
        elif not schemas:
            self.problem(("inputs", name, "path"), "none of the files can be read")
        return self.failed

    def _files(self, name: str, spec: InputSpec) -> tuple[FileRef, ...] | None:
        if name in self.files:
            return self.files[name]
        try:
            return tuple(find_files(list(spec.paths), stated=spec.format, verify=self.verify))
        except CurationError as error:
            self.problem(("inputs", name, "path"), str(error))
            return None

    def _seen(
        self, name: str, spec: InputSpec, batches: list[Batch]
    ) -> list[tuple[FileRef, pa.Schema | UnreadableError]]:
        """Columns of what is read front to back: as it was read, or as some of the files show."""
        files = list(dict.fromkeys(file for batch in batches for file in batch.files))
        if spec.types or spec.delimiter or spec.nulls is not None:
            other = next((f for f in files if f.format not in ("csv", "jsonl")), None)
            if other is not None or not files:
                self.problem(("inputs", name), "types, delimiter and nulls are for csv and jsonl", "leave them out")
        if name in self.found and files:
            return list(self.found[name].schemas)
        if len(files) > SNIFF_FILES:
            files = [files[(len(files) - 1) * i // (SNIFF_FILES - 1)] for i in range(SNIFF_FILES)]
        # Together they show as much as one large file would: what shows later widens the types, it is no fault.
        each = max(LEAST_SNIFFED, base.SNIFF_BYTES // max(1, len(files)))
        options = replace(_options(spec), sniff_bytes=min(base.SNIFF_BYTES, each))
        return list(zip(files, spread(lambda file: schema_of(file, options), files), strict=True))

    def _row_bits(self, name: str, files: Sequence[FileRef]) -> dict[str, int]:
        """Give every file 24 bits of its own, by a hash of its path; where two agree, the later path hashes again."""
        bits = {}
        for file in files:
            salt = 0
            while (found := path_bits(name, file.relative, salt)) in self.taken:
                salt += 1
            self.taken.add(found)
            bits[file.relative] = found
        return bits

    def _one_schema(self, name: str, spec: InputSpec, schemas: Schemas) -> pa.Schema | None:
        """Columns that hold those of all files."""
        for file, schema in schemas:
            if len(set(schema.names)) < len(schema.names):
                twice = sorted({n for n in schema.names if schema.names.count(n) > 1})
                self.problem(("inputs", name, "path"), f"{file.path}: column {twice[0]!r} stands there twice")
                return None
        used = None if spec.columns is None else {*_used(spec, spec.columns), *OWN_COLUMNS}
        first_file, first = schemas[0]
        whole: pa.Schema = _among(first, used)
        last = None  # also equal types may meet as another: small dictionaries, together, as a larger one
        for file, schema in schemas[1:]:
            if last is not None and schema.equals(last):
                continue
            last = schema
            try:
                whole = unify([whole, _among(schema, used)], exact=True)
            except WidenError as error:
                here, there = (str(s.field(error.column).type) for s in (schema, whole))
                hint = "files of an input may differ where nothing is lost; read the others as an input of their own"
                if file.format in ("csv", "jsonl"):
                    hint += f", or declare it: `types: {{{error.column}: string}}`"
                message = f"{file.path}: column {error.column!r} is {here}, not {there}, unlike {first_file.path}"
                self.problem(("inputs", name, "path"), message, hint)
                return None
        for i, column in enumerate(spec.columns or ()):  # a name that no file has is told with the nearest one
            if column not in whole.names:
                names = pa.schema([f for f in first if f.name not in whole.names])
                self._there(pa.schema([*whole, *names]), column, ("inputs", name, "columns", i))
        return whole

    def _columns(self, name: str, spec: InputSpec, schema: pa.Schema) -> list[str] | None:
        if spec.key is not None and self._there(schema, spec.key, ("inputs", name, "key")):
            kind = schema.field(spec.key).type
            if pa.types.is_nested(kind) or pa.types.is_floating(kind):
                self.problem(("inputs", name, "key"), f"column {spec.key!r} is {kind}, not a key")
            elif ROW_ID in schema.names:
                self.problem(("inputs", name, "key"), f"the files carry {ROW_ID!r} already, which names the rows")
        if spec.where is not None:
            try:
                RowExpression.parse(spec.where).check_predicate(schema)
            except ExpressionError as error:
                self.problem(("inputs", name, "where"), str(error))
        self._own(name, schema)
        if self.failed:
            return None
        if spec.columns is None:
            return list(schema.names)
        return [*spec.columns, *(n for n in schema.names if n in OWN_COLUMNS and n not in spec.columns)]

    def _there(self, schema: pa.Schema, column: str, path: tuple[str | int, ...]) -> bool:
        fault = missing(schema, column, path)
        if fault:
            self.problem(fault.path, fault.message, fault.hint)
        return fault is None

    def _own(self, name: str, schema: pa.Schema) -> None:
        for own, kind in OWN_COLUMNS.items():
            if own in schema.names and schema.field(own).type != kind:
                self.problem(
                    ("inputs", name, "path"),
                    f"column {own!r} is {schema.field(own).type}, a name that the build uses itself for {kind}",
                    "rename the column in the files",
                )


def layout_of(file: FileRef) -> Layout | UnreadableError:
    """Schema and pieces of a file, or why it cannot be read."""
    try:
        reader = open_file(file)
        try:
            return reader.layout()
        finally:
            reader.close()
    except UnreadableError as error:
        return error


def schema_of(file: FileRef, options: Options) -> pa.Schema | UnreadableError:
    """Columns of a file that is read front to back or together with others, or why it cannot be read."""
    if file.format in READERS:
        found = layout_of(file)
        return found.schema if isinstance(found, Layout) else found
    try:
        return sniff(file, options)
    except UnreadableError as error:
        return error


def _used(spec: InputSpec, columns: Sequence[str]) -> list[str]:
    """The columns, and those that key and condition name."""
    used = [*columns, *([spec.key] if spec.key else [])]
    return list(dict.fromkeys([*used, *(RowExpression.parse(spec.where).columns if spec.where else ())]))


def _among(schema: pa.Schema, used: set[str] | None) -> pa.Schema:
    fields = [field for field in schema if used is None or field.name in used]
    return pa.schema(fields, metadata=schema.metadata)


def _drift(whole: pa.Schema, schemas: Schemas) -> Iterator[str]:
    """Say, column by column, how the files differ from what holds them all."""
    others = [(file, schema) for file, schema in schemas if not schema.equals(whole)]
    for column in whole if others else ():
        lacking = [file for file, schema in others if column.name not in schema.names]
        if lacking:
            yield (
                f"column '{column.name}' is missing in {len(lacking)} of the {len(schemas)} files that were looked at "
                f"({lacking[0].relative}) and NULL there"
            )
        kinds = [(f, s.field(column.name).type) for f, s in others if column.name in s.names]
        narrow = next(((file, kind) for file, kind in kinds if kind != column.type), None)
        if narrow is not None:
            yield f"column '{column.name}' is {narrow[1]} in {narrow[0].relative}, read as {column.type}"


def _in_order(chunks: list[Chunk], files: Sequence[FileRef]) -> list[Chunk]:
    """Chunks in the order of the files that their first rows come from."""
    place = {file.relative: i for i, file in enumerate(files)}

    def rank(chunk: Chunk) -> tuple[int, int]:
        file, row = chunk.origin(chunk.start)
        return place[file.relative], row

    return sorted(chunks, key=rank)


def _users_metadata(schema: pa.Schema) -> dict[bytes, bytes] | None:
    kept = {k: v for k, v in (schema.metadata or {}).items() if k != b"ARROW:schema"}
    return kept or None
