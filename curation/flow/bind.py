"""From recipe to graph: finds the files, reads their footers, and checks every column before any pass over data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from curation.errors import Problem, RecipeError
from curation.expressions import ExpressionError, RowExpression
from curation.flow.evaluate import path_bits
from curation.flow.gates import GateSpec
from curation.flow.graph import Graph, Lineage, Source, Step
from curation.flow.output import Target
from curation.flow.sorting import OrderLostError, order_at, unused_sorts
from curation.io.chunks import Chunk, cut
from curation.io.files import FileRef, InputError, find_files
from curation.io.formats import Layout, UnreadableError, open_file
from curation.keys import content_key, in_given_order
from curation.methods.sort import sort_column
from curation.ordering import By
from curation.recipe.model import ORDERS, Gate, InputSpec, OutputSpec, Recipe
from curation.stages import make_stage
from curation.stages.base import BindError, Coming
from curation.stages.columns import missing
from curation.stages.sort import unsortable
from curation.types import OWN_COLUMNS, ROW_ID, in_order, with_own
from curation.versions import versions


@dataclass(frozen=True)
class LostFile:
    """A file of which nothing can be read."""

    file: FileRef
    reason: str


@dataclass(frozen=True)
class BoundInput:
    """An input with its files and chunks; ``columns`` are all that are decoded."""

    spec: InputSpec
    files: tuple[FileRef, ...]
    row_bits: Mapping[str, int]
    chunks: tuple[Chunk, ...]
    lost: tuple[LostFile, ...]
    columns: tuple[str, ...]

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


@dataclass
class _Binder:
    recipe: Recipe
    sample: float
    verify: bool
    problems: list[Problem] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)

    def add(self, path: tuple[str | int, ...], message: str, hint: str = "") -> None:
        self.problems.append(self.recipe.problem(path, message, hint))

    # inputs

    def input(self, name: str, spec: InputSpec) -> tuple[BoundInput, Source] | None:
        try:
            files = find_files(list(spec.paths), stated=spec.format, verify=self.verify)
        except InputError as error:
            self.add(("inputs", name, "path"), str(error))
            return None
        with ThreadPoolExecutor(8) as pool:
            layouts = list(pool.map(layout_of, files))
        lost = [LostFile(f, str(x)) for f, x in zip(files, layouts, strict=True) if isinstance(x, UnreadableError)]
        sound = [(f, x) for f, x in zip(files, layouts, strict=True) if isinstance(x, Layout)]
        if lost and spec.on_bad_rows == "error":
            for each in lost:
                self.add(
                    ("inputs", name, "path"),
                    f"{each.file.path}: {each.reason}",
                    "mend or remove the file, or set `on_bad_rows: quarantine` for this input",
                )
            return None
        if not sound:
            self.add(("inputs", name, "path"), "none of the files can be read")
            return None
        schema = self._one_schema(name, sound)
        if schema is None:
            return None
        columns = self._columns(name, spec, schema)
        if columns is None:
            return None
        read = pa.schema([schema.field(column) for column in columns], metadata=_users_metadata(schema))
        bits = self._row_bits(name, files) if spec.key is None and ROW_ID not in columns else {}
        chunks = [c for file, layout in sound for c in cut(name, file, layout, row_bits=bits.get(file.relative, 0))]
        has_ids = ROW_ID in columns
        source = Source(
            name=name,
            key_column=spec.key,
            where=spec.where,
            sample=self.sample,
            seed=self.recipe.seed,
            schema=in_order(with_own(read, ROW_ID)),
            has_ids=has_ids,
        )
        return BoundInput(spec, tuple(files), bits, tuple(chunks), tuple(lost), self._decoded(spec, columns)), source

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

    def _one_schema(self, name: str, sound: list[tuple[FileRef, Layout]]) -> pa.Schema | None:
        first_file, first = sound[0]
        schema: pa.Schema = first.schema
        if len(set(schema.names)) < len(schema.names):
            twice = sorted({n for n in schema.names if schema.names.count(n) > 1})
            self.add(("inputs", name, "path"), f"{first_file.path}: column {twice[0]!r} stands there twice")
            return None
        for file, layout in sound[1:]:
            fault = _differs(schema, layout.schema)
            if fault:
                self.add(
                    ("inputs", name, "path"),
                    f"{file.path}: {fault}, unlike {first_file.path}",
                    "all files of an input have the same columns and types; read the others as an input of their own",
                )
                return None
        fields = [f.with_nullable(any(x.schema.field(f.name).nullable for _, x in sound)) for f in schema]
        return pa.schema(fields, metadata=schema.metadata)

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
    def _decoded(spec: InputSpec, columns: list[str]) -> tuple[str, ...]:
        used = [spec.key] if spec.key else []
        used += RowExpression.parse(spec.where).columns if spec.where else ()
        return (*columns, *dict.fromkeys(name for name in used if name not in columns))

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

    def target(
        self, output: OutputSpec, schema: pa.Schema, steps: Sequence[Step]
    ) -> tuple[Target, tuple[GateSpec, ...]]:
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
        sort = self._sort(output, schema, steps)
        seed = self.recipe.seed if output.feed is None or output.feed.seed is None else output.feed.seed
        target = Target(
            name=output.name,
            ref=output.source,
            schema=schema,
            format=output.format,
            compression=output.compression,
            shard_rows=output.shard_rows,
            order="sorted" if sort else output.order,
            group=group,
            seed=seed,
            gates=tuple(gates),
            sort=sort,
        )
        return target, tuple(gates)

    def _sort(self, output: OutputSpec, schema: pa.Schema, steps: Sequence[Step]) -> By:
        """Columns that an output is sorted by: its own, else those of the stage ``sort`` that it reads from."""
        path = self.recipe.output_path(output.name, "order")
        if output.order not in ORDERS:
            column, descending = sort_column(output.order)
            fault = missing(schema, column, path) or unsortable(schema.field(column), path)
            if fault:
                self.add(path, fault.message, fault.hint)
            return ((column, descending),)
        try:
            found = order_at(steps, output.source)
        except OrderLostError as error:
            at = ("stages", self.recipe.stage(error.sort).index)
            self.add(at, f"output '{output.name}': {error}", "put `sort` last, behind that stage")
            return ()
        if found and output.feed is not None:
            text = "a feed visits rows in an order of its own, but the output reads from a stage `sort`"
            self.add(self.recipe.output_path(output.name, "feed"), text, "leave one of them out")
        elif found and output.order == "shuffled":
            self.add(path, "got shuffled, but the output reads from a stage `sort`", "leave one of them out")
        return found

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


def _differs(schema: pa.Schema, other: pa.Schema) -> str:
    lacking = [name for name in schema.names if name not in other.names]
    if lacking:
        return f"column {lacking[0]!r} is missing"
    extra = [name for name in other.names if name not in schema.names]
    if extra:
        return f"column {extra[0]!r} is there"
    for each in schema:
        kind = other.field(each.name).type
        if kind != each.type:
            return f"column {each.name!r} is {kind}, not {each.type}"
    return ""


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
    recipe: Recipe, *, sample: float = 1.0, verify: bool = False, note: Callable[[str], None] | None = None
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

    Raises
    ------
    RecipeError
        With all problems: files that are missing or unreadable, columns, types, conditions.
    """
    binder = _Binder(recipe, sample, verify)
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
        found = binder.input(name, spec)
        if found is not None:
            inputs[name], sources[name] = found
            schemas[name] = sources[name].schema
    steps = binder.steps(schemas)
    targets, gates = {}, {}
    for output in recipe.outputs:
        if output.source in schemas:
            targets[output.name], gates[output.name] = binder.target(output, schemas[output.source], steps)
    for name in unused_sorts(steps, [output.source for output in recipe.outputs]):
        index = recipe.stage(name).index
        binder.add(("stages", index), "no output reads from it, and only outputs have an order", "leave it out")
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
