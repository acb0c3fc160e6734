"""The bound recipe as a graph: inputs, stages in order, schemas at every edge, and which columns each edge needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from curation.expressions import RowExpression
from curation.keys import content_key
from curation.stages.base import ArtifactStage, FitStage, Stage
from curation.types import COPY, ROW_ID, CarriesSchemas

Needs = Mapping[str, frozenset[str]]
"""Columns wanted at each reference (input, stage, or ``stage.port``)."""


@dataclass(frozen=True)
class Source(CarriesSchemas):
    """An input as the graph sees it: how rows are named and which are selected. Knows no files.

    ``stored`` are the columns as they are read, those of key and condition included.
    """

    name: str
    key_column: str | None
    where: str | None
    sample: float
    seed: int
    schema: pa.Schema
    stored: pa.Schema
    has_ids: bool

    def kinds(self, columns: frozenset[str]) -> list[list[str]]:
        """Types as which these columns are read, and those that name and select the rows."""
        named = {self.key_column, *(RowExpression.parse(self.where).columns if self.where else ())}
        return [[each.name, str(each.type)] for each in self.stored if each.name in columns or each.name in named]

    @property
    def naming(self) -> tuple[str, ...]:
        """Columns that name the rows and must not repeat: the key, or ids (and copies) that the files carry."""
        if self.has_ids:
            return tuple(name for name in (ROW_ID, COPY) if name in self.stored.names)
        return () if self.key_column is None else (self.key_column,)

    def key(self) -> str:
        """Content key of how the input is read, apart from its files and the types of its columns."""
        drawn = [self.sample, self.seed] if self.sample < 1.0 else None
        return content_key("input", self.name, self.key_column, self.where, drawn, self.has_ids)


@dataclass(frozen=True)
class Step:
    """A stage in the graph: what it reads, and the key of what it does."""

    use: str
    sources: tuple[str, ...]
    stage: Stage[Any]
    sides: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def refs(self) -> tuple[str, ...]:
        """References under which the outputs are read."""
        return tuple(map(self.ref, self.stage.ports))

    def ref(self, port: str) -> str:
        """Reference to one of the outputs."""
        return f"{self.name}.{port}" if port else self.name

    @property
    def learns_from(self) -> str:
        """Reference that fit and extract go over: the table looked things up in, else the one that flows in."""
        stage = self.stage
        return self.sides[stage.side] if isinstance(stage, ArtifactStage) and stage.side else self.sources[0]


@dataclass
class Lineage:
    """By which ways rows reach each reference: an input or a stage that makes rows, and the ports they went out of.

    ``named`` are inputs whose rows bring their ids along, which rows of any other input may have, too.
    """

    named: frozenset[str] = frozenset()
    ways: dict[str, list[tuple[str, frozenset[tuple[str, str]]]]] = field(default_factory=dict)

    def of(self, ref: str) -> list[tuple[str, frozenset[tuple[str, str]]]]:
        """Ways to a reference; an input is reached by itself."""
        return self.ways.get(ref, [(ref, frozenset())])

    def add(self, step: Step) -> None:
        """Note the ways to the outputs of a stage."""
        coming = [way for source in step.sources for way in self.of(source)]
        makes = isinstance(step.stage, ArtifactStage) and not step.stage.alters
        for port in step.stage.ports:
            through = [(root, ports | {(step.name, port)}) for root, ports in coming]
            self.ways[step.ref(port)] = through + ([(step.name, frozenset({(step.name, port)}))] if makes else [])

    def disjoint(self, refs: tuple[str, ...]) -> bool:
        """Whether no row can come by two of the references: it would have to leave one stage by two ports."""
        return all(
            not (root == other or {root, other} & self.named) or _parted(ports, others)
            for i, ref in enumerate(refs)
            for after in refs[i + 1 :]
            for root, ports in self.of(ref)
            for other, others in self.of(after)
        )


def _parted(ports: frozenset[tuple[str, str]], others: frozenset[tuple[str, str]]) -> bool:
    here = dict(ports)
    return any(here.get(stage, port) != port for stage, port in others)


@dataclass(frozen=True)
class Graph(CarriesSchemas):
    """Inputs and stages in topological order."""

    sources: Mapping[str, Source]
    steps: tuple[Step, ...]
    schemas: Mapping[str, pa.Schema]
    root_key: str  # versions of the libraries, so that their change reruns everything

    @property
    def beside(self) -> int:
        """Memory [bytes] that stages need beside the rows of a chunk; they work one after the other."""
        return max((step.stage.beside for step in self.steps), default=0)

    def step_of(self, ref: str) -> Step | None:
        """Stage that gives ``ref``; ``None`` for an input."""
        return next((step for step in self.steps if ref in step.refs), None)

    def ancestors(self, ref: str) -> list[str]:
        """References whose rows can reach ``ref``, itself included: what flows in first comes first."""
        found: dict[str, None] = {}

        def visit(ref: str) -> None:
            step = self.step_of(ref)
            for source in step.sources if step else ():
                if source not in found:
                    visit(source)
            found[ref] = None

        visit(ref)
        return list(found)

    def ends(self, outputs: frozenset[str]) -> list[tuple[str, str, str]]:
        """References whose rows go nowhere from there: ``(reference, stage, reason)``.

        Either nothing reads them and they are no output, or a stage only looks things up in them.
        """
        flowing = {source for step in self.steps for source in step.sources} | outputs
        looked_up = {ref: step for step in reversed(self.steps) for ref in step.sides.values()}
        found = [(ref, looked_up[ref]) for ref in self.sources if ref in looked_up and ref not in flowing]
        for step in self.steps:
            for port in step.stage.ports:
                ref = step.ref(port)
                if ref in flowing or (ref not in looked_up and port in step.stage.optional_ports):
                    continue
                found.append((ref, looked_up.get(ref, step)))
        return [(ref, step.name, _reason(ref, step)) for ref, step in found]

    def needs(self, wanted: Mapping[str, frozenset[str]]) -> Needs:
        """Columns that every reference must carry so that ``wanted`` can be had; absent where nothing is needed."""
        needs: dict[str, frozenset[str]] = {}
        for ref, columns in wanted.items():
            needs[ref] = needs.get(ref, frozenset()) | self._identified(ref, columns)
        for step in reversed(self.steps):
            at_ports = {port: needs[step.ref(port)] for port in step.stage.ports if step.ref(port) in needs}
            for i, source in enumerate(step.sources if at_ports else ()):
                columns = step.stage.needs_from(i, at_ports)
                needs[source] = needs.get(source, frozenset()) | self._identified(source, columns)
        return needs

    def _identified(self, ref: str, columns: frozenset[str]) -> frozenset[str]:
        own = {ROW_ID, COPY} & set(self.schemas[ref].names)
        return columns | own

    def kinds(self, refs: tuple[str, ...], needs: Needs) -> list[list[list[str]]]:
        """Types of the columns that are read for ``refs``: another file of an input may have widened them."""
        reached = {each for ref in refs for each in self.ancestors(ref)}
        return [each.kinds(needs.get(name, frozenset())) for name, each in self.sources.items() if name in reached]

    def key(self, ref: str, states: Mapping[str, str]) -> str:
        """Content key of how rows become those at ``ref``, states of fits included, types of columns left out."""
        known: dict[str, str] = {}
        for each in self.ancestors(ref):
            step = self.step_of(each)
            if step is None:
                known[each] = content_key(self.root_key, self.sources[each].key())
                continue
            below = [known[source] for source in step.sources]
            port = each[len(step.name) :]
            state = states.get(step.name) if _state_matters(step.stage) else None
            known[each] = content_key(*below, step.stage.key(step.use), port, state)
        return known[ref]


UNUSED = "not in any output"
"""Reason of rows that reach a point of the graph from which nothing is read."""


def _reason(ref: str, step: Step) -> str:
    """Why rows at ``ref`` end there, of the stage that looks things up in them or that they come out of."""
    if ref in step.sides.values() and isinstance(step.stage, ArtifactStage):
        return step.stage.side_reason
    return UNUSED


def _state_matters(stage: Stage[Any]) -> bool:
    """Whether rows passing through depend on the state (some artifact stages only add rows)."""
    return stage.alters if isinstance(stage, ArtifactStage) else isinstance(stage, FitStage)
