"""The bound recipe as a graph: inputs, stages in order, schemas at every edge, and which columns each edge needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.keys import content_key
from curation.stages.base import ArtifactStage, FitStage, Stage
from curation.types import COPY, ROW_ID, CarriesSchemas

Needs = Mapping[str, frozenset[str]]
"""Columns wanted at each reference (input, stage, or ``stage.port``)."""


@dataclass(frozen=True)
class Source(CarriesSchemas):
    """An input as the graph sees it: how rows are named and which are selected. Knows no files."""

    name: str
    key_column: str | None
    where: str | None
    sample: float
    seed: int
    schema: pa.Schema
    has_ids: bool

    def key(self) -> str:
        """Content key of how the input is read, apart from its files."""
        drawn = [self.sample, self.seed] if self.sample < 1.0 else None
        return content_key("input", self.name, self.key_column, self.where, drawn, self.has_ids)


@dataclass(frozen=True)
class Step:
    """A stage in the graph: what it reads, and the key of what it does."""

    use: str
    source: str
    stage: Stage[Any]

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def refs(self) -> tuple[str, ...]:
        """References under which the outputs are read."""
        return tuple(f"{self.name}.{port}" if port else self.name for port in self.stage.ports)


@dataclass(frozen=True)
class Graph(CarriesSchemas):
    """Inputs and stages in topological order."""

    sources: Mapping[str, Source]
    steps: tuple[Step, ...]
    schemas: Mapping[str, pa.Schema]
    root_key: str  # versions of the libraries, so that their change reruns everything

    def step_of(self, ref: str) -> Step | None:
        """Stage that gives ``ref``; ``None`` for an input."""
        return next((step for step in self.steps if ref in step.refs), None)

    def ancestors(self, ref: str) -> list[str]:
        """Inputs and stages whose rows can reach ``ref``, itself included, in topological order."""
        found: list[str] = []
        step = self.step_of(ref)
        while step is not None:
            found.append(step.name)
            ref = step.source
            step = self.step_of(ref)
        return [ref, *reversed(found)]

    def unused(self, outputs: frozenset[str]) -> list[str]:
        """References that nothing reads on and that are no output."""
        read = {step.source for step in self.steps} | outputs
        refs = [*self.sources, *(ref for step in self.steps for ref in step.refs)]
        return [ref for ref in refs if ref not in read]

    def needs(self, wanted: Mapping[str, frozenset[str]]) -> Needs:
        """Columns that every reference must carry so that ``wanted`` can be had; absent where nothing is needed."""
        needs: dict[str, frozenset[str]] = {}
        for ref, columns in wanted.items():
            needs[ref] = needs.get(ref, frozenset()) | self._identified(ref, columns)
        for step in reversed(self.steps):
            at_ports = [needs[ref] for ref in step.refs if ref in needs]
            if at_ports:
                columns = step.stage.needs(frozenset().union(*at_ports))
                before = needs.get(step.source, frozenset())
                needs[step.source] = before | self._identified(step.source, columns)
        return needs

    def _identified(self, ref: str, columns: frozenset[str]) -> frozenset[str]:
        own = {ROW_ID, COPY} & set(self.schemas[ref].names)
        return columns | own

    def key(self, ref: str, states: Mapping[str, str]) -> str:
        """Content key of how rows become those at ``ref``, states of fits included."""
        step = self.step_of(ref)
        if step is None:
            return content_key(self.root_key, self.sources[ref].key())
        below = self.key(step.source, states)
        port = ref[len(step.name) :]
        state = states.get(step.name) if _state_matters(step.stage) else None
        return content_key(below, step.stage.key(step.use), port, state)


def _state_matters(stage: Stage[Any]) -> bool:
    """Whether rows passing through depend on the state (an artifact stage only adds rows)."""
    return isinstance(stage, FitStage) and not isinstance(stage, ArtifactStage)
