"""From recipe to graph: finds the files, reads their footers, and checks every column before any pass over data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePath

import pyarrow as pa

from curation.errors import CurationError, Problem, RecipeError
from curation.expressions import ExpressionError, RowExpression
from curation.flow.evaluate import path_bits
from curation.flow.gates import GateSpec
from curation.flow.graph import Graph, Lineage, Source, Step
from curation.flow.output import Target
from curation.flow.reading import Batch, Found, read_options, sniff, to_read
from curation.io.chunks import Chunk, cut
from curation.io.files import FileRef, find_files
from curation.io.formats import READERS, Layout, UnreadableError, open_file
from curation.io.records.base import Options
from curation.keys import content_key, in_given_order
from curation.recipe.model import Gate, InputSpec, OutputSpec, Recipe
from curation.stages import make_stage
from curation.stages.base import BindError, Coming
from curation.stages.columns import missing
from curation.types import OWN_COLUMNS, ROW_ID, CarriesSchemas, in_order, with_own
from curation.versions import versions
from curation.widen import WidenError, unify


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


@dataclass(frozen=True)
class Bound:
    """A recipe bound to its data."""

    recipe: Recipe
    graph: Graph
    inputs: Mapping[str, BoundInput]
    outputs: Mapping[str, OutputSpec]
    targets: Mapping[str, Target]
    gates: Mapping[str, tuple[GateSpec, ...]]
    build_id: str
    versions: Mapping[str, str]
    sample: float

    def chunks_of(self, name: str) -> tuple[Chunk, ...]:
        """Chunks of an input."""
        return self.inputs[name].chunks


SNIFF_FILES = 64
"""Files that are looked at to know the columns of those that are read front to back; the others show as they are read."""
ROW_BYTES = 256
"""A row of text of which nothing is known yet."""
_PACKED = {".gz": 6.0, ".zst": 6.0, ".bz2": 8.0, ".xz": 8.0, ".tgz": 1.2, ".parquet": 4.0}


def _decoded(batch: Batch) -> int:
    """Guess the size of a batch in memory by the suffix of its first file."""
    return int(batch.bytes * _PACKED.get(PurePath(batch.files[0].relative.lower()).suffix, 1.2))


def _options(spec: InputSpec) -> Options:
    return read_options(spec.types or {}, spec.delimiter, spec.nulls, partial=spec.columns is not None)


@dataclass
class _Binder:
    recipe: Recipe
    sample: float
    verify: bool
    before: Bound | None
    found: Mapping[str, Found]
    problems: list[Problem] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)

    def add(self, path: tuple[str | int, ...], message: str, hint: str = "") -> None:
        self.problems.append(self.recipe.problem(path, message, hint))

    # inputs

    def input(self, name: str, spec: InputSpec) -> tuple[BoundInput, Source] | None:
        files = self._files(name, spec)
        if files is None:
            return None
        by_place = spec.key is None
        bits = self._row_bits(name, list(files)) if by_place else {}
        batches, direct = to_read(files, bits)
        with ThreadPoolExecutor(8) as pool:
            layouts = list(pool.map(layout_of, direct))
            schemas = self._seen(name, spec, batches, pool)
        lost = [LostFile(f, str(x)) for f, x in zip(direct, layouts, strict=True) if isinstance(x, UnreadableError)]
        sound = [(f, x) for f, x in zip(direct, layouts, strict=True) if isinstance(x, Layout)]
        lost += [LostFile(f, str(x)) for f, x in schemas if isinstance(x, UnreadableError)]
        schemas = [(f, x.schema) for f, x in sound] + [(f, x) for f, x in schemas if isinstance(x, pa.Schema)]
        read = self.found.get(name)
        if read is not None:
            lost += [LostFile(file, reason) for file, reason in read.broken]
        if lost and spec.on_bad_rows == "error":
            for each in lost:
                self.add(
                    ("inputs", name, "path"),
                    f"{each.file.path}: {each.reason}",
                    "mend or remove the file, or set `on_bad_rows: quarantine` for this input",
                )
            return None
        if not schemas:
            self.add(("inputs", name, "path"), "none of the files can be read")
            return None
        found = self._one_schema(name, spec, schemas)
        if found is None:
            return None
        schema, drift = found
        columns = self._columns(name, spec, schema)
        if columns is None:
            return None
        has_ids = ROW_ID in columns
        if not by_place or has_ids:
            bits = {}
        chunks = [c for file, x in sound for c in cut(name, file, x, row_bits=bits.get(file.relative, 0))]
        if read is not None:
            chunks = _in_order([*chunks, *read.chunks], files)
        stored = pa.schema([schema.field(column) for column in self._decoded(spec, columns)])
        selected = pa.schema([schema.field(column) for column in columns], metadata=_users_metadata(schema))
        source = Source(
            name=name,
            key_column=spec.key,
            where=spec.where,
            sample=self.sample,
            seed=self.recipe.seed,
            schema=in_order(with_own(selected, ROW_ID)),
            stored=stored,
            has_ids=has_ids,
        )
        left = () if read is not None else tuple(batches)
        if left and has_ids:
            left = tuple(replace(batch, row_bits=(0,) * len(batch.files)) for batch in left)
        return BoundInput(spec, tuple(files), bits, tuple(chunks), tuple(lost), stored, left, drift), source

    def _files(self, name: str, spec: InputSpec) -> tuple[FileRef, ...] | None:
        if self.before is not None:
            return self.before.inputs[name].files
        try:
            return tuple(find_files(list(spec.paths), stated=spec.format, verify=self.verify))
        except CurationError as error:
            self.add(("inputs", name, "path"), str(error))
            return None

    def _seen(
        self, name: str, spec: InputSpec, batches: list[Batch], pool: ThreadPoolExecutor
    ) -> list[tuple[FileRef, pa.Schema | UnreadableError]]:
        """Columns of what is read front to back: as it was read, or as some of the files show."""
        files = list(dict.fromkeys(file for batch in batches for file in batch.files))
        if spec.types or spec.delimiter or spec.nulls is not None:
            other = next((f for f in files if f.format not in ("csv", "jsonl")), None)
            if other is not None or not files:
                self.add(("inputs", name), "types, delimiter and nulls are for csv and jsonl", "leave them out")
        if name in self.found and files:
            return [(files[0], self.found[name].schema)]
        if len(files) > SNIFF_FILES:
            files = [files[(len(files) - 1) * i // (SNIFF_FILES - 1)] for i in range(SNIFF_FILES)]
        options = _options(spec)
        return list(zip(files, pool.map(lambda file: schema_of(file, options), files), strict=True))

    def _row_bits(self, name: str, files: list[FileRef]) -> dict[str, int]:
        """Give every file 24 bits of its own, by a hash of its path; where two agree, the later path hashes again."""
        bits = {}
        for file in files:
            salt = 0
            while (found := path_bits(name, file.relative, salt)) in self.taken:
                salt += 1
            self.taken.add(found)
            bits[file.relative] = found
        return bits

    def _one_schema(
        self, name: str, spec: InputSpec, schemas: list[tuple[FileRef, pa.Schema]]
    ) -> tuple[pa.Schema, tuple[str, ...]] | None:
        """Columns that hold those of all files, and how the files differ."""
        for file, schema in schemas:
            if len(set(schema.names)) < len(schema.names):
                twice = sorted({n for n in schema.names if schema.names.count(n) > 1})
                self.add(("inputs", name, "path"), f"{file.path}: column {twice[0]!r} stands there twice")
                return None
        used = None if spec.columns is None else {*_used(spec, list(spec.columns)), *OWN_COLUMNS}
        first_file, first = schemas[0]
        whole: pa.Schema = _among(first, used)
        last = first
        for file, schema in schemas[1:]:
            if schema.equals(last):
                continue
            last = schema
            try:
                whole = unify([whole, _among(schema, used)], exact=True)
            except WidenError as error:
                self.add(
                    ("inputs", name, "path"),
                    f"{file.path}: {error}, unlike {first_file.path}",
                    "files of an input may differ where nothing is lost; read the others as an input of their own",
                )
                return None
        for i, column in enumerate(spec.columns or ()):  # a name that no file has is told with the nearest one
            if column not in whole.names:
                names = pa.schema([f for f in first if f.name not in whole.names])
                self._there(pa.schema([*whole, *names]), column, ("inputs", name, "columns", i))
        return whole, tuple(_drift(whole, [(file, schema) for file, schema in schemas]))

    def _columns(self, name: str, spec: InputSpec, schema: pa.Schema) -> list[str] | None:
        before = len(self.problems)
        for i, column in enumerate(spec.columns or []):
            self._there(schema, column, ("inputs", name, "columns", i))
        if spec.key is not None and self._there(schema, spec.key, ("inputs", name, "key")):
            kind = schema.field(spec.key).type
            if pa.types.is_nested(kind) or pa.types.is_floating(kind):
                self.add(("inputs", name, "key"), f"column {spec.key!r} is {kind}, not a key")
            elif ROW_ID in schema.names:
                self.add(("inputs", name, "key"), f"the files carry {ROW_ID!r} already, which names the rows")
        if spec.where is not None:
            try:
                RowExpression.parse(spec.where).check_predicate(schema)
            except ExpressionError as error:
                self.add(("inputs", name, "where"), str(error))
        self._own(name, schema)
        if len(self.problems) > before:
            return None
        if spec.columns is None:
            return list(schema.names)
        return [*spec.columns, *(n for n in schema.names if n in OWN_COLUMNS and n not in spec.columns)]

    @staticmethod
    def _decoded(spec: InputSpec, columns: list[str]) -> list[str]:
        return [*columns, *(name for name in _used(spec, []) if name not in columns)]

    def _there(self, schema: pa.Schema, column: str, path: tuple[str | int, ...]) -> bool:
        fault = missing(schema, column, path)
        if fault:
            self.add(fault.path, fault.message, fault.hint)
        return fault is None

    def _own(self, name: str, schema: pa.Schema) -> None:
        for own, kind in OWN_COLUMNS.items():
            if own in schema.names and schema.field(own).type != kind:
                self.add(
                    ("inputs", name, "path"),
                    f"column {own!r} is {schema.field(own).type}, a name that the build uses itself for {kind}",
                    "rename the column in the files",
                )

    # stages

    def steps(self, schemas: dict[str, pa.Schema]) -> list[Step]:
        """Bind the stages in order; ``schemas`` gains those of their outputs."""
        steps: list[Step] = []
        lineage = Lineage()
        for each in self.recipe.stages:
            refs = [*each.sources, *each.sides.values()]
            if any(ref not in schemas for ref in refs):  # a problem further up is reported already
                continue
            stage = make_stage(each.use, each.name, each.params, self.recipe.seed)
            step = Step(each.use, each.sources, stage, each.sides)
            coming = Coming(
                flows=tuple(schemas[ref] for ref in each.sources),
                sides={key: schemas[ref] for key, ref in each.sides.items()},
                disjoint=lineage.disjoint(each.sources),
            )
            try:
                out = stage.bind_all(coming)
            except BindError as error:
                for fault in error.faults:
                    self.add(("stages", each.index, *fault.path), fault.message, fault.hint)
                continue
            steps.append(step)
            lineage.add(step)
            schemas.update({step.ref(port): schema for port, schema in out.items()})
        return steps

    # outputs

    def target(self, output: OutputSpec, schema: pa.Schema) -> tuple[Target, tuple[GateSpec, ...]]:
        if "://" in output.path:
            path = self.recipe.output_path(output.name, "path")
            self.add(path, f"{output.path}: URLs cannot be written yet", "write to a folder, then copy it")
        gates = []
        for i, gate in enumerate(self.recipe.expect):
            if gate.output not in (None, output.name):
                continue
            fault_before = len(self.problems)
            for key, names in (("by", [gate.by] if gate.by else []), ("columns", gate.columns or [])):
                for column in names:
                    fault = missing(schema, column, ("expect", i, key))
                    if fault:
                        self.add(fault.path, f"output '{output.name}': {fault.message}", fault.hint)
            if len(self.problems) == fault_before:
                gates.append(_gate(gate, i))
        group = output.feed.groups if output.feed else None
        if group is not None:
            self._group(output, schema, group)
        if output.format == "parquet":
            self._parquet(output, schema)
        seed = self.recipe.seed if output.feed is None or output.feed.seed is None else output.feed.seed
        target = Target(
            name=output.name,
            ref=output.source,
            schema=schema,
            format=output.format,
            compression=output.compression,
            shard_rows=output.shard_rows,
            order=output.order,
            group=group,
            seed=seed,
            gates=tuple(gates),
        )
        return target, tuple(gates)

    def _group(self, output: OutputSpec, schema: pa.Schema, group: str) -> None:
        path = self.recipe.output_path(output.name, "feed", "groups")
        fault = missing(schema, group, path)
        if fault:
            self.add(path, fault.message, fault.hint)
            return
        kind = schema.field(group).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        plain = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
        if not any(test(kind) for test in plain):
            self.add(path, f"column {group!r} is {kind}", "groups are text, integers or booleans")

    def _parquet(self, output: OutputSpec, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        for each in schema:
            try:
                with pa.BufferOutputStream() as sink:
                    table = pa.schema([each]).empty_table()
                    pq.write_table(table, sink)
                    back = pq.read_schema(pa.BufferReader(sink.getvalue())).field(0).type
            except pa.ArrowException as error:
                back = str(error).splitlines()[0]
            if back != each.type:
                self.add(
                    self.recipe.output_path(output.name, "format"),
                    f"column {each.name!r} of type {each.type} does not survive Parquet",
                    "use `format: arrow`, which keeps every type",
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


def _used(spec: InputSpec, columns: list[str]) -> list[str]:
    """The columns, and those that key and condition name."""
    used = [*columns, *([spec.key] if spec.key else [])]
    return list(dict.fromkeys([*used, *(RowExpression.parse(spec.where).columns if spec.where else ())]))


def _among(schema: pa.Schema, used: set[str] | None) -> pa.Schema:
    fields = [field for field in schema if used is None or field.name in used]
    return pa.schema(fields, metadata=schema.metadata)


def _drift(whole: pa.Schema, schemas: list[tuple[FileRef, pa.Schema]]) -> Iterator[str]:
    """Say, column by column, how the files differ from what holds them all."""
    for field in whole:
        lacking = [file for file, schema in schemas if field.name not in schema.names]
        if lacking:
            yield (
                f"column '{field.name}' is missing in {len(lacking)} of the {len(schemas)} files that were looked at "
                f"({lacking[0].relative}) and NULL there"
            )
        others = [(f, s.field(field.name).type) for f, s in schemas if field.name in s.names]
        narrow = next(((file, kind) for file, kind in others if kind != field.type), None)
        if narrow is not None:
            yield f"column '{field.name}' is {narrow[1]} in {narrow[0].relative}, read as {field.type}"


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


def _gate(gate: Gate, index: int) -> GateSpec:
    about = f" by {gate.by}" if gate.by else f" in {', '.join(gate.columns)}" if gate.columns else ""
    values = tuple(str(value) for value in gate.values or ())
    return GateSpec(
        gate.kind,
        gate.limit,
        gate.by,
        tuple(gate.columns or ()),
        values,
        f"expect[{index}] {gate.kind}: {gate.limit:g}{about}",
    )


def bind(
    recipe: Recipe,
    *,
    sample: float = 1.0,
    verify: bool = False,
    note: Callable[[str], None] | None = None,
    before: Bound | None = None,
    found: Mapping[str, Found] | None = None,
) -> Bound:
    """Bind a recipe to its data.

    Parameters
    ----------
    recipe
        As loaded.
    sample
        Share of each input's rows to take, by a hash of the row id, in (0, 1].
    verify
        Recognise input files by all their bytes.
    note
        Called with what the user should know.
    before, found
        The recipe as it was bound first, and what reading its batches has found since.

    Raises
    ------
    RecipeError
        With all problems: files that are missing or unreadable, columns, types, conditions.
    """
    binder = _Binder(recipe, sample, verify, before, found or {})
    inputs: dict[str, BoundInput] = {}
    sources: dict[str, Source] = {}
    schemas: dict[str, pa.Schema] = {}
    used = {ref for stage in recipe.stages for ref in (*stage.sources, *stage.sides.values())}
    used |= {output.source for output in recipe.outputs}
    for name, spec in recipe.inputs.items():
        if name not in used:
            if note:
                note(f"input '{name}' is not read by any stage or output")
            continue
        bound = binder.input(name, spec)
        if bound is not None:
            inputs[name], sources[name] = bound
            schemas[name] = sources[name].schema
            for text in bound[0].drift if note and not bound[0].batches else ():
                note(f"input '{name}': {text}")
    steps = binder.steps(schemas)
    targets, gates = {}, {}
    for output in recipe.outputs:
        if output.source in schemas:
            targets[output.name], gates[output.name] = binder.target(output, schemas[output.source])
    if binder.problems:
        raise RecipeError(sorted(binder.problems, key=lambda problem: (problem.line, problem.path)))
    stamps = versions()
    graph = Graph(sources, tuple(steps), schemas, content_key("root", stamps))
    files = {name: [[f.relative, f.key] for f in each.files] for name, each in sorted(inputs.items())}
    # The work that is to be done, too: a new version of a method gives another build from the same recipe.
    work = [graph.key(target.ref, {}) for target in targets.values()]
    build_id = content_key("build", in_given_order(recipe.canonical(redacted=False)), stamps, [*work, sample], files)[
        :16
    ]
    outputs = {output.name: output for output in recipe.outputs}
    return Bound(recipe, graph, inputs, outputs, targets, gates, build_id, stamps, sample)
