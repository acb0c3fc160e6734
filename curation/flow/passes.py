"""The passes of a build over its chunks: identity, fits, artifacts, census, shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from curation.engine.runner import Runner
from curation.engine.store import LARGE_STATE, Mark, decode, encode, load_part
from curation.errors import BuildError
from curation.flow.bind import Bound
from curation.flow.evaluate import Made, View
from curation.flow.graph import Graph, Step
from curation.flow.jobs import (
    MERGE_PARTS,
    CensusJob,
    ExtractJob,
    FitJob,
    InspectJob,
    KeysJob,
    LedgerJob,
    MergeJob,
    ProbeJob,
    RepeatsJob,
    StepJob,
    merge_tree,
    read_keys,
)
from curation.flow.output import GatherJob, ScatterJob, StreamJob, Target, cut_chunks, cut_runs, cut_sorted, neighbours
from curation.io.chunks import Chunk, Skip
from curation.keys import content_key
from curation.report.values import to_python
from curation.stages.base import PROBE, ArtifactStage, FitStage, State, Tables

REPEATS_ROWS = 16_000_000
"""Key hashes that one job looks through."""


@dataclass
class Progress:
    """What is known while the passes go on: chunks to skip rows of, states, created rows."""

    chunks: dict[str, tuple[Chunk, ...]]
    states: dict[str, str] = field(default_factory=dict)
    salted: dict[str, frozenset[int]] = field(default_factory=dict)
    made: dict[str, tuple[Made, ...]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class ShardResult:
    """A finished shard: where its bytes are and what its job has measured."""

    key: str
    mark: Mark


@dataclass
class OutputResult:
    """All shards of an output, in order, and the groups they hold, in order."""

    shards: list[ShardResult]
    groups: list[tuple[Any, int]]


class Passes:
    """Runs the passes of one bound recipe."""

    def __init__(self, bound: Bound, runner: Runner) -> None:
        self._bound = bound
        self._runner = runner
        self.progress = Progress({name: each.chunks for name, each in bound.inputs.items()})

    @property
    def _graph(self) -> Graph:
        return self._bound.graph

    @cached_property
    def _wanted(self) -> frozenset[str]:
        """References that are an output or read by a stage, or whose rows have to be accounted for."""
        outputs = frozenset(target.ref for target in self._bound.targets.values())
        read = {ref for step in self._graph.steps for ref in (*step.sources, *step.sides.values())}
        return outputs | read | {ref for ref, _, _ in self._graph.ends(outputs)}

    def _view(self, wanted: Mapping[str, frozenset[str]]) -> View:
        return View(self._graph, dict(self.progress.states), self._graph.needs(wanted), dict(self.progress.salted))

    def _reaching(self, ref: str) -> list[Chunk | Made]:
        """Chunks whose rows can reach ``ref``: of the input, then what stages on the way have made."""
        found: list[Chunk | Made] = []
        for each in self._graph.ancestors(ref):
            found += self.progress.chunks.get(each, ()) if each in self._graph.sources else self._made_at(each)
        return found

    def _made_at(self, ref: str) -> list[Made]:
        step = self._graph.step_of(ref)
        return [] if step is None else [made for made in self.progress.made.get(step.name, ()) if made.ref == ref]

    # Identity: which rows cannot be read, and which keys occur twice.

    def inspect(self) -> None:
        """Find unreadable rows of the inputs that set them aside, and take them out of the chunks."""
        for name, each in self._bound.inputs.items():
            if each.spec.on_bad_rows != "quarantine":
                continue
            chunks, root = self.progress.chunks[name], self._graph.root_key
            # Parts were looked through while they were made.
            jobs = {chunk.key: InspectJob(chunk, each.columns, root) for chunk in chunks if not chunk.segments}
            marks = self._runner.run(f"{name}: look for bad rows", list(jobs.values())) if jobs else []
            found = {key: mark["skips"] for key, mark in zip(jobs, marks, strict=True)}
            self.progress.chunks[name] = tuple(
                chunk.without([Skip(a, b, reason) for a, b, reason in found.get(chunk.key, ())]) for chunk in chunks
            )

    def identify(self) -> None:
        """Find rows with equal keys, or equal ids of their own, and keys with equal hashes."""
        for name, each in self._bound.inputs.items():
            if self._graph.sources[name].naming:
                self._identify(name, each.spec.on_bad_rows == "quarantine")

    def _identify(self, name: str, quarantine: bool) -> None:
        chunks = self.progress.chunks[name]
        view = self._view({name: frozenset(self._graph.sources[name].naming)})
        jobs = [KeysJob(view, chunk) for chunk in chunks]
        self._runner.run(f"{name}: key hashes", jobs)
        rows = sum(chunk.rows for chunk in chunks)
        parts = max(1, -(-rows // REPEATS_ROWS))
        keys = tuple(job.key for job in jobs)
        found = self._runner.run(
            f"{name}: equal keys", [RepeatsJob(keys, i, parts, (rows + parts - 1 - i) // parts) for i in range(parts)]
        )
        suspects = {value for mark in found for value in mark["repeats"]}
        if suspects:
            self._settle(name, suspects, quarantine)

    def _settle(self, name: str, suspects: set[int], quarantine: bool) -> None:
        """Tell equal keys (a fault of the data) from different keys with one hash (ours to mend)."""
        doubtful, source = np.array(sorted(suspects), np.uint64), self._graph.sources[name]
        column = source.naming[0]
        mend = "read the results as two inputs and `concat` them" if source.has_ids else "choose another `key:`"
        seen: dict[int, dict[Any, tuple[Chunk, int]]] = {}
        salted: set[int] = set()
        refused: dict[int, list[Skip]] = {}
        for at, chunk in enumerate(self.progress.chunks[name]):
            hashes, values, numbers = read_keys(chunk, source)
            for i in np.flatnonzero(np.isin(hashes, doubtful)):
                value = int(hashes[i])
                key, row = to_python(values.slice(int(i), 1))[0], int(numbers[i])
                known = seen.setdefault(value, {})
                if key not in known:
                    known[key] = (chunk, row)
                    if len(known) > 1:
                        salted.add(value)
                    continue
                (first, first_row), (file, file_row) = known[key][0].origin(known[key][1]), chunk.origin(row)
                if not quarantine:
                    raise BuildError(
                        f"input '{name}': key {column} = {key!r} stands in {first.path}, row {first_row}, and "
                        f"again in {file.path}, row {file_row}; keys name rows, so they must differ: {mend}, "
                        "or set `on_bad_rows: quarantine` to keep the first of each"
                    )
                reason = f"duplicate key {column} = {key!r}, first in {first.relative}, row {first_row}"
                refused.setdefault(at, []).append(Skip(row, row + 1, reason, readable=True))
        self.progress.chunks[name] = tuple(
            chunk.without(refused.get(at, ())) for at, chunk in enumerate(self.progress.chunks[name])
        )
        self.progress.salted[name] = frozenset(salted)

    def refuse_too_many(self) -> None:
        """End the build where more rows are set aside than the recipe allows."""
        for name, each in self._bound.inputs.items():
            bad = sum(skip.stop - skip.start for chunk in self.progress.chunks[name] for skip in chunk.skips)
            read = max(1, each.rows)
            if bad > each.spec.max_bad * read or (
                each.lost and each.spec.max_bad < 1 and len(each.lost) > each.spec.max_bad * len(each.files)
            ):
                raise BuildError(
                    f"input '{name}': {bad} of {each.rows} rows and {len(each.lost)} of {len(each.files)} files are "
                    f"bad, max_bad is {each.spec.max_bad:g}; first: {self._first_bad(name)}; mend the files, or raise "
                    "`max_bad`"
                )

    def _first_bad(self, name: str) -> str:
        """Place and fault of the first row that is set aside, else of the first file that cannot be read."""
        for chunk in self.progress.chunks[name]:
            for skip in chunk.skips:
                file, row = chunk.origin(skip.start)
                return f"{file.path}, row {row}: {skip.reason}"
        lost = self._bound.inputs[name].lost[0]
        return f"{lost.file.path}: {lost.reason}"

    # States of fits and artifacts.

    def fit(self) -> None:
        """Bring every stage that needs one to its state, in order."""
        for step in self._graph.steps:
            if isinstance(step.stage, FitStage):
                self._fit(step, step.stage)
            if isinstance(step.stage, ArtifactStage):
                self._artifact(step, step.stage)

    def _fit(self, step: Step, stage: FitStage[Any]) -> None:
        view = self._view({step.learns_from: stage.fit_columns()})
        chunks = self._reaching(step.learns_from)
        state: State = None
        key: str | None = None
        number, done = 0, False
        while not done:
            number += 1
            jobs = [FitJob(view, c, stage, step.use, step.learns_from, key, number) for c in chunks]
            marks = self._runner.run(f"{step.name}: fit, round {number}", jobs)
            found = [(job.key, mark) for job, mark in zip(jobs, marks, strict=True) if mark["state"] is not None]
            state, done = stage.advance(state, self._merged(step, stage, found, number, state))
            key = content_key("state", step.stage.key(step.use), encode(state))
            self._runner.used.add(key)
            if self._runner.store.mark(key) is None:
                self._runner.store.finish(key, {"state": encode(state)})
        if key is not None:
            self.progress.states[step.name] = key

    def _merged(
        self, step: Step, stage: FitStage[Any], found: list[tuple[str, Mark]], number: int, state: State
    ) -> State:
        """Merge partial states in one fixed tree; its lower parts are jobs where there are many."""
        if not found:  # no rows at all: the stage still says whether it can do what it is asked
            return stage.partial(self._graph.schemas[step.learns_from].empty_table(), state)
        while len(found) > MERGE_PARTS:
            blocks = [found[i : i + MERGE_PARTS] for i in range(0, len(found), MERGE_PARTS)]
            jobs = [
                MergeJob(stage, step.use, tuple(key for key, _ in block), sum(_state_bytes(mark) for _, mark in block))
                for block in blocks
            ]
            marks = self._runner.run(f"{step.name}: merge, round {number}", jobs)
            found = [(job.key, mark) for job, mark in zip(jobs, marks, strict=True)]
        return merge_tree(stage, [load_part(self._runner.store, key) for key, _ in found])

    def _artifact(self, step: Step, stage: ArtifactStage[Any]) -> None:
        key = self.progress.states.get(step.name)
        if key is None:
            return
        state = decode(self._runner.store.mark(key)["state"])  # type: ignore[index]
        pieces = [piece for piece in stage.pieces(state) if step.ref(piece.port) in self._wanted]
        if not pieces and not stage.alters:
            return
        ref = step.learns_from
        view = self._view({ref: stage.extract_columns()})
        jobs = [ExtractJob(view, c, stage, step.use, ref, key) for c in self._reaching(ref) if stage.extracts]
        marks = self._runner.run(f"{step.name}: extract", jobs) if stage.extracts else []
        tables: dict[str, tuple[tuple[int, str], ...]] = {
            "extract": tuple((i, j.key) for i, (j, m) in enumerate(zip(jobs, marks, strict=True)) if m["rows"])
        }
        base = content_key("artifact", step.stage.key(step.use), key, [k for _, k in tables["extract"]])
        passing = tables
        for name in stage.steps:
            if name == PROBE:
                passing = dict(tables)
                tables[name] = self._probed(step, stage, key, base, Tables(self._runner.store, dict(tables)))
                base = content_key("probed", base, [k for _, k in tables[name]])
                continue
            details = stage.jobs(name, state)
            steps = [StepJob(stage, name, d, base, Tables(self._runner.store, dict(tables))) for d in details]
            done = self._runner.run(f"{step.name}: {name}", steps)
            self.progress.notes.setdefault(step.name, {})[name] = [m["notes"] for m in done if m["notes"]]
            numbered = enumerate(zip(details, steps, strict=True))
            tables[name] = tuple((int(d.get("class", i)), job.key) for i, (d, job) in numbered)
        self.progress.made[step.name] = tuple(
            Made(step.name, step.ref(piece.port), piece, tables, base, stage.memory("create", piece.detail) // 4)
            for piece in pieces
        )
        if stage.alters:
            self._keep_artifact(step, key, passing)

    def _probed(
        self, step: Step, stage: ArtifactStage[Any], state: str, base: str, tables: Tables
    ) -> tuple[tuple[int, str], ...]:
        """Let a stage look at every chunk that flows in; keys of what it has saved."""
        ref = step.sources[0]
        view = self._view({ref: stage.probe_columns()})
        jobs = [ProbeJob(view, c, stage, step.use, ref, state, base, tables) for c in self._reaching(ref)]
        marks = self._runner.run(f"{step.name}: {PROBE}", jobs)
        return tuple((i, j.key) for i, (j, m) in enumerate(zip(jobs, marks, strict=True)) if m["rows"])

    def _keep_artifact(self, step: Step, key: str, tables: Mapping[str, tuple[tuple[int, str], ...]]) -> None:
        """Let the state of a stage carry its tables along, so that every chunk that passes finds them."""
        mark = self._runner.store.mark(key)
        assert mark is not None
        whole = content_key("artifact", key, sorted(tables.items()))
        self._runner.used.add(whole)
        if self._runner.store.mark(whole) is None:
            self._runner.store.finish(whole, {"state": mark["state"], "tables": tables})
        self.progress.states[step.name] = whole

    # What becomes of every row, and the shards.

    def census(self) -> tuple[list[tuple[Chunk | Made, Mark]], LedgerJob]:
        """Count every chunk through the graph; write the ledger."""
        outputs = {name: target.ref for name, target in self._bound.targets.items()}
        ends = tuple(self._graph.ends(frozenset(outputs.values())))
        view = self._view({ref: frozenset() for ref in (*outputs.values(), *(ref for ref, _, _ in ends))})
        chunks: list[Chunk | Made] = [chunk for name in self._graph.sources for chunk in self.progress.chunks[name]]
        for step in self._graph.steps:
            chunks += self.progress.made.get(step.name, ())
        jobs = [CensusJob(view, chunk, outputs, ends) for chunk in chunks]
        marks = self._runner.run("census", jobs)
        listed = [job.key for job, mark in zip(jobs, marks, strict=True) if "data" in mark]
        flows = [flow for mark in marks for flow in mark["stages"].values()]
        dropped = sum(sum(flow["dropped"].values()) + flow["looked_up"] for flow in flows)
        ledger = LedgerJob(tuple(listed), dropped)
        self._runner.run("ledger", [ledger])
        return list(zip(chunks, marks, strict=True)), ledger

    def shards(self, target: Target, census: Sequence[tuple[Chunk | Made, Mark]]) -> OutputResult:
        """Write the shards of an output into the work directory."""
        wanted = {target.ref: frozenset(target.schema.names)}
        view = self._view(wanted)
        kept = {chunk.key: mark["outputs"].get(target.name, 0) for chunk, mark in census}
        chunks = [(chunk, kept[chunk.key]) for chunk in self._reaching(target.ref) if kept[chunk.key]]
        total = sum(rows for _, rows in chunks)
        size = sum(chunk.bytes * rows // max(1, chunk.rows) for chunk, rows in chunks)
        row_bytes = max(1, size // max(1, total))
        jobs: list[GatherJob | StreamJob]
        if target.order == "input":
            cuts = cut_chunks([c for c, _ in chunks], view.key(target.ref), [n for _, n in chunks], target.shard_rows)
            jobs = [
                StreamJob(target, i, tuple(s for s, _ in cut), row_bytes, view, {s.key: c for s, c in cut})
                for i, cut in enumerate(cuts)
            ]
            groups: list[tuple[Any, int]] = [(None, total)]
        else:
            scatter = [ScatterJob(view, group, target) for group in neighbours([chunk for chunk, _ in chunks])]
            marks = self._runner.run(f"{target.name}: scatter", scatter)
            runs = [(job.key, mark["groups"]) for job, mark in zip(scatter, marks, strict=True) if mark["groups"]]
            if target.sort:
                slices = cut_sorted(self._runner.store, [key for key, _ in runs], target.shard_rows)
                groups = [(None, total)]
            else:
                slices, groups = cut_runs(self._runner.store, runs, target.shard_rows)
            jobs = [GatherJob(target, i, tuple(cut), row_bytes) for i, cut in enumerate(slices)]
        if not jobs:  # an output without rows still has one shard, which carries its schema
            jobs = [StreamJob(target, 0, (), row_bytes, view, {})]
        done = self._runner.run(f"{target.name}: shards", jobs)
        return OutputResult([ShardResult(job.key, mark) for job, mark in zip(jobs, done, strict=True)], groups)


def _state_bytes(mark: Mark) -> int:
    """Size of a partial state as text."""
    return int(mark["data"]["bytes"]) if "data" in mark else LARGE_STATE
