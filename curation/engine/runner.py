"""Runs the jobs of a phase: those not yet done, grouped into tasks, on whatever executor there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from curation.engine.events import Events
from curation.engine.executor import IDLE_BYTES, Executor, Job, gib, make_tasks
from curation.engine.store import Mark, Store
from curation.errors import RefusedError


@dataclass
class PhaseRecord:
    """What a phase took, for run.json."""

    phase: str
    jobs: int
    ran: int
    tasks: int
    rows: int
    seconds: float
    work_s: float
    peak_bytes: int


@dataclass
class Runner:
    """Carries store, executor and events through a build, and keeps count of what ran.

    ``used`` are the keys that this build depends on, ``made`` those whose work was done now rather than earlier. With
    ``verify``, the bytes of earlier work are hashed before they are used again.
    """

    store: Store
    executor: Executor
    events: Events
    memory: int
    task_bytes: int | None = None
    verify: bool = False
    used: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    records: list[PhaseRecord] = field(default_factory=list)

    def run(self, phase: str, jobs: Sequence[Job]) -> list[Mark]:
        """Bring every job to its done-mark; marks come back in the order of ``jobs``.

        Raises
        ------
        RefusedError
            If a job needs more memory than a worker may use.
        """
        started = time.perf_counter()
        marks = {job.key: self._mark(job.key) for job in jobs}
        left = [job for job in {job.key: job for job in jobs}.values() if marks[job.key] is None]
        self.used.update(marks)
        self.made.update(job.key for job in left)
        self._refuse(phase, left)
        rows = sum(job.rows for job in left)
        self.events.started(phase, jobs=len(marks), done=len(marks) - len(left), rows=rows)
        tasks = make_tasks(self.store, left, workers=self.executor.workers, task_bytes=self.task_bytes)
        work_s, peak = 0.0, 0
        for results, timings in self.executor.run(tasks) if tasks else ():
            marks.update((key, mark) for key, mark, _ in results)
            work_s += timings.seconds
            peak = max(peak, timings.peak_bytes)
            self.events.advanced(phase, jobs=len(results), rows=sum(r[2] for r in results))
        seconds = time.perf_counter() - started
        self.records.append(PhaseRecord(phase, len(marks), len(left), len(tasks), rows, seconds, work_s, peak))
        self.events.finished(phase, seconds=seconds)
        done = [mark for mark in (marks[job.key] for job in jobs) if mark is not None]
        if len(done) < len(jobs):
            raise AssertionError(f"{phase}: {len(jobs) - len(done)} jobs left no mark under their own key")
        return done

    def _mark(self, key: str) -> Mark | None:
        mark = self.store.mark(key)
        if mark is not None and self.verify and "data" in mark and not self.store.intact(key, mark):
            self.store.forget(key)
            return None
        return mark

    def _refuse(self, phase: str, jobs: Sequence[Job]) -> None:
        shared = min(self.executor.workers, len(jobs)) if self.executor.name == "threads" else 1
        largest = max(jobs, key=lambda job: job.memory, default=None)
        if largest is not None and IDLE_BYTES + largest.memory * shared > self.memory:
            raise RefusedError(
                f"{phase}: {gib(IDLE_BYTES + largest.memory * shared)} per worker needed for {largest.describe()}, "
                f"{gib(self.memory)} allowed; raise `--memory`, or use fewer `--workers` where they share it"
            )
