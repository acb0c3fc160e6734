"""What a build will need, before anything is computed: passes, rows, memory and disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from curation.engine.executor import IDLE_BYTES, gib
from curation.errors import RefusedError
from curation.flow.bind import Bound
from curation.flow.jobs import LEDGER_BYTES, chunk_memory
from curation.flow.measure import measure_memory
from curation.flow.output import RUN_BYTES
from curation.flow.passes import REPEATS_ROWS
from curation.flow.reading import READ_MEMORY
from curation.io.location import Location
from curation.stages.base import ArtifactStage, FitStage

_WEIGHT_BYTES = 26


@dataclass(frozen=True)
class Line:
    """One pass: rows gone through, jobs, peak memory of a worker and disk that it fills [bytes]."""

    phase: str
    rows: int
    jobs: int
    memory: int
    disk: int
    mend: str


def estimate(bound: Bound) -> list[Line]:
    """List the passes of a build with upper bounds; rows that stages drop or create are not known yet."""
    lines: list[Line] = []
    rows = sum(each.about_rows for each in bound.inputs.values())
    jobs = sum(len(each.chunks) + len(each.batches) for each in bound.inputs.values())
    size = sum(each.about_bytes for each in bound.inputs.values())
    memory = max((chunk_memory(c) for each in bound.inputs.values() for c in each.chunks), default=0)
    memory += bound.graph.beside
    smaller = "write the input with smaller row groups"
    for name, each in bound.inputs.items():
        if each.batches:
            mend = "use fewer `--workers`"
            lines.append(Line(f"{name}: read", each.about_rows, len(each.batches), READ_MEMORY, each.about_bytes, mend))
        if each.spec.on_bad_rows == "quarantine" and each.chunks:
            lines.append(Line(f"{name}: look for bad rows", each.rows, len(each.chunks), memory, 0, smaller))
        if each.spec.key is not None:
            merged = max(memory, 24 * min(each.rows, REPEATS_ROWS))
            lines.append(Line(f"{name}: equal keys", each.rows, len(each.chunks), merged, 8 * each.rows, smaller))
    for step in bound.graph.steps:
        if isinstance(step.stage, FitStage):
            extra = ", then its artifact" if isinstance(step.stage, ArtifactStage) else ""
            lines.append(Line(f"{step.name}: fit{extra}", rows, jobs, memory, 0, smaller))
    lines.append(Line("census and ledger", rows, jobs, max(memory, LEDGER_BYTES), 16 * rows, smaller))
    for name, target in bound.targets.items():
        shard = min(target.shard_rows, max(1, rows)) * (size // max(1, rows))
        option = "output" if len(bound.targets) == 1 else f"outputs.{name}"
        mend = f"set {option}.shard_rows <= {_fit_rows(shard, target.shard_rows)}"
        shards = -(-rows // target.shard_rows)
        if target.order != "input":
            runs = memory + 3 * min(size, max(RUN_BYTES, memory // 4))
            lines.append(Line(f"{name}: scatter", rows, jobs, runs, size, smaller))
            lines.append(
                Line(f"{name}: shards", rows, -(-rows // target.shard_rows), 4 * shard + (64 << 20), size, mend)
            )
        else:
            lines.append(Line(f"{name}: shards", rows, shards, memory + 3 * shard, size, mend))
        feed = bound.outputs[name].feed
        if feed is not None and (feed.size or feed.sample_by):
            shard_rows = min(target.shard_rows, max(1, rows))
            # the weights, and twice the plan with their sums: once to see whether it can be, once in its place
            disk = _WEIGHT_BYTES * rows if feed.sample_by else 0
            lines.append(Line(f"{name}: feed", rows, shards, measure_memory(shard_rows), disk, mend))
    return lines


def _fit_rows(shard: int, shard_rows: int) -> str:
    rows = max(1, shard_rows * (64 << 20) // max(1, shard))
    return f"{min(rows, shard_rows):_}"


def refuse(lines: list[Line], *, memory: int, sharing: int, out: Location, work: Path) -> None:
    """End a build that cannot fit, before it starts.

    Parameters
    ----------
    memory
        Bytes that a worker may use, those of an idle worker included.
    sharing
        Tasks that share one process (threads).
    out, work
        Where results and intermediates go.

    Raises
    ------
    RefusedError
        Naming the pass, what it needs, what is allowed, and the setting that mends it.
    """
    for line in lines:
        need = IDLE_BYTES + line.memory * max(1, min(sharing, line.jobs))
        if need > memory:
            raise RefusedError(
                f"{line.phase}: {gib(need)} per worker, {gib(memory)} allowed; {line.mend}, or raise `--memory`"
            )
    disk = sum(line.disk for line in lines)
    place = next(each for each in (work, *work.parents) if each.exists())
    free = shutil.disk_usage(place).free
    # Estimates are of decoded rows; a build that packs well needs less, so only the hopeless is refused.
    if disk // 4 > free:
        raise RefusedError(
            f"{place}: {gib(free)} free, up to {gib(disk)} needed for intermediates and shards; free space, or name "
            f"another place by `--work` and `--out` (output: {out})"
        )
