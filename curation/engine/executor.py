"""Where tasks run: one protocol, and jobs that are independent, idempotent and leave files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from threadpoolctl import threadpool_limits

from curation.engine.store import Mark, Store

GIB = 1 << 30
IDLE_BYTES = 350 << 20
"""What a worker process holds before it has any rows: interpreter and libraries."""


def gib(size: int) -> str:
    """Write bytes as GiB with one decimal."""
    return f"{size / GIB:.1f} GiB"


@runtime_checkable
class Job(Protocol):
    """A piece of work that can be done alone and twice without harm; must be picklable."""

    @property
    def key(self) -> str:
        """Content key of the result."""

    @property
    def rows(self) -> int:
        """Rows it goes through, for progress."""

    @property
    def cost(self) -> int:
        """Bytes it goes through, for making tasks of even size."""

    @property
    def memory(self) -> int:
        """Peak memory [bytes] above an idle worker."""

    def describe(self) -> str:
        """Place for messages: stage, file, rows."""

    def run(self, store: Store) -> Mark:
        """Do the work, write the data, and return the mark."""


@dataclass(frozen=True)
class Task:
    """Jobs that run one after the other in one worker."""

    store: Store
    jobs: tuple[Job, ...]


Result = tuple[str, Mark, int]
"""Key, mark and rows of a finished job."""


@dataclass(frozen=True)
class Timings:
    """Seconds of work and the peak memory of the worker [bytes], for run.json."""

    seconds: float
    peak_bytes: int


AFTER_TASK: list[Callable[[], None]] = []
"""Called when a task ends, so that a worker that lives on keeps no file open and no rows."""


def run_task(task: Task) -> tuple[list[Result], Timings]:
    """Run the jobs of a task; what runs in a worker."""
    try:
        return _run_jobs(task)
    finally:
        for clean in AFTER_TASK:
            clean()


def _run_jobs(task: Task) -> tuple[list[Result], Timings]:
    started, results = time.perf_counter(), []
    # One thread: the last bit of a sum depends on how BLAS divides the work.
    with threadpool_limits(limits=1):
        for job in task.jobs:
            mark = task.store.mark(job.key)
            if mark is None:
                try:
                    mark = task.store.finish(job.key, job.run(task.store))
                except Exception as error:
                    error.add_note(f"while working on {job.describe()}")
                    raise
            results.append((job.key, mark, job.rows))
    return results, Timings(time.perf_counter() - started, peak_bytes())


def peak_bytes() -> int:
    """Peak resident memory of this process [bytes]."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class Executor(Protocol):
    """Runs tasks somewhere. Scheduling only: what a task does never depends on it."""

    name: str
    workers: int

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[list[Result], Timings]]:
        """Run independent tasks; results come in order of completion. An error ends the run."""

    def close(self) -> None:
        """Stop the workers."""


def make_tasks(store: Store, jobs: Sequence[Job], *, workers: int, task_bytes: int | None = None) -> list[Task]:
    """Group jobs, in order, into tasks of about equal cost.

    A task is about 256 MB (a task costs about 3 ms of scheduling), at most 2,000 tasks, and small enough that each
    worker gets several.
    """
    total = sum(job.cost for job in jobs)
    limit = task_bytes or min(256 << 20, max(total // (4 * workers), 1))
    # Two neighbouring tasks together exceed the limit, so this makes fewer than 2,000.
    limit = max(limit, total // 1000 + 1)
    tasks: list[Task] = []
    held: list[Job] = []
    weight = 0
    for job in jobs:
        if held and weight + job.cost > limit:
            tasks.append(Task(store, tuple(held)))
            held, weight = [], 0
        held.append(job)
        weight += job.cost
    if held:
        tasks.append(Task(store, tuple(held)))
    return tasks
