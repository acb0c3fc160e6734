"""Executors inside this process: one task after the other, or a few threads for small inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from threadpoolctl import threadpool_limits

from curation.engine.executor import Result, Task, Timings, run_task


class Serial:
    """Runs tasks in order, in this thread."""

    name = "serial"
    workers = 1

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[list[Result], Timings]]:
        """Run the tasks one by one."""
        yield from map(run_task, tasks)

    def close(self) -> None:
        """Nothing to stop."""


class Threads:
    """Runs tasks in threads of this process; the kernels and Arrow release the interpreter lock."""

    name = "threads"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # BLAS counts its threads per process: one task's end must not lift the limit under another task.
        self._limits = threadpool_limits(limits=1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="curation")

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[list[Result], Timings]]:
        """Run the tasks as threads become free."""
        pending = [self._pool.submit(run_task, task) for task in tasks]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Wait for the tasks under way and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._limits.restore_original_limits()
