"""From recipe to graph: finds the files, reads their footers, and checks every column before any pass over data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from curation.errors import Problem, RecipeError
from curation.flow.feeding import feed_faults, feed_notes
from curation.flow.gates import GateSpec
from curation.flow.graph import Graph, Lineage, Source, Step
from curation.flow.inputs import BoundInput, InputBinder
from curation.flow.output import Target
from curation.flow.reading import Found
from curation.io.chunks import Chunk
from curation.keys import content_key, in_given_order
from curation.recipe.model import FeedSpec, Gate, OutputSpec, Recipe
from curation.stages import make_stage
from curation.stages.base import BindError, Coming
from curation.stages.columns import missing
from curation.stages.promises import schema_fault
from curation.versions import versions


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
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: tuple[str | int, ...], message: str, hint: str = "") -> None:
        self.problems.append(self.recipe.problem(path, message, hint))

    # stages

    def steps(self, schemas: dict[str, pa.Schema]) -> list[Step]:
        """Bind the stages in order; ``schemas`` gains those of their outputs."""
        steps: list[Step] = []
        lineage = Lineage()
        for each in self.recipe.stages:
            refs = [*each.sources, *each.sides.values()]
            if any(ref not in schemas for ref in refs):  # a problem further up is reported already
                continue
            stage = make_stage(each.use, each.name, each.params, self.recipe.seed, each.plugin)
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
            wrong = next(filter(None, map(schema_fault, out.values())), "") if each.plugin is not None else ""
            if each.plugin is not None and wrong:
                self.add(("stages", each.index, "use"), f"the plug-in {each.plugin.origin.target} is wrong: {wrong}")
                continue
            steps.append(step)
            lineage.add(step)
            schemas.update({step.ref(port): schema for port, schema in out.items()})
        return steps

    # outputs

    def target(self, output: OutputSpec, schema: pa.Schema) -> tuple[Target, tuple[GateSpec, ...]]:
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
        if output.feed is not None:
            self._feed(output, schema, output.feed)
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

    def _feed(self, output: OutputSpec, schema: pa.Schema, feed: FeedSpec) -> None:
        if feed.groups is not None:
            self._group(output, schema, feed.groups)
        for fault in feed_faults(feed, schema):
            keys = (str(key) for key in fault.path)
            self.add(self.recipe.output_path(output.name, "feed", *keys), fault.message, fault.hint)

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
    binder = _Binder(recipe)
    known = before.inputs if before else {}
    files = {name: each.files for name, each in known.items()}
    drift = {name: each.drift for name, each in known.items()}
    reader = InputBinder(binder.add, recipe.seed, sample, verify, files, drift, found or {})
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
        bound = reader.bind(name, spec)
        if bound is not None:
            inputs[name], sources[name] = bound
            schemas[name] = sources[name].schema
            if note is not None and not bound[0].batches:
                for text in bound[0].drift:
                    note(f"input '{name}': {text}")
    steps = binder.steps(schemas)
    targets, gates = {}, {}
    for output in recipe.outputs:
        if output.source in schemas:
            targets[output.name], gates[output.name] = binder.target(output, schemas[output.source])
    if binder.problems:
        raise RecipeError(sorted(binder.problems, key=lambda problem: (problem.line, problem.path)))
    _advise(recipe, None if before else note)  # said once, also where the recipe is bound again
    stamps = versions()
    graph = Graph(sources, tuple(steps), schemas, content_key("root", stamps))
    stamps_of_files = {name: [[f.relative, f.key] for f in each.files] for name, each in sorted(inputs.items())}
    # The work that is to be done, too: a new version of a method gives another build from the same recipe.
    work = [graph.key(target.ref, {}) for target in targets.values()]
    work += [plugin.key for plugin in recipe.plugins]
    written = in_given_order(recipe.canonical(redacted=False))
    build_id = content_key("build", written, stamps, [*work, sample], stamps_of_files)[:16]
    outputs = {output.name: output for output in recipe.outputs}
    return Bound(recipe, graph, inputs, outputs, targets, gates, build_id, stamps, sample)


def _advise(recipe: Recipe, note: Callable[[str], None] | None) -> None:
    if note is None:
        return
    for output in recipe.outputs:
        for text in feed_notes(output.feed):
            note(f"feed of {output.name}: {text}")
