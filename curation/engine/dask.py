"""Executor on Dask: a local cluster of worker processes, or any running scheduler.

Dask only schedules. Tasks are independent, results are files, nothing large travels: no shuffle, no persisted
collections, and no memory manager that pauses or kills workers, since tasks are sized to fit beforehand.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from curation.engine.executor import Result, Task, Timings, run_task
from curation.errors import BuildError
from curation.plugins import Plugin

STALL_S = 1800.0
"""Seconds without any finished task after which a run is ended with an error."""

POLL_S = 0.01

_SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.daemon": True,
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": "20s",
    # Libraries size their thread pools when they are imported, so this must stand before a worker starts.
    "distributed.nanny.pre-spawn-environ": {
        "OMP_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "NUMBA_NUM_THREADS": 1,
        "POLARS_MAX_THREADS": 1,
        "MALLOC_TRIM_THRESHOLD_": 65536,
    },
}


class DaskExecutor:
    """Runs tasks on Dask workers.

    Parameters
    ----------
    workers
        Worker processes to start here; ignored with ``address``.
    address
        A running scheduler, ``tcp://host:port``.
    stall_s
        Seconds without a finished task after which the run fails rather than wait for ever.
    """

    name = "dask"

    def __init__(self, workers: int, *, address: str | None = None, stall_s: float = STALL_S) -> None:
        import dask
        import distributed

        self._stall_s = stall_s
        self._cluster: Any = None
        self._settings = dask.config.set(_SETTINGS)
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if address is None:
            self._cluster = self._start(workers)
            self._client = distributed.Client(self._cluster)
        else:
            try:
                self._client = distributed.Client(address, timeout="20s")
            except (OSError, TimeoutError) as error:
                raise BuildError(
                    f"scheduler {address}: no answer within 20 s; check the address, or leave `--scheduler` out to "
                    "run on this machine"
                ) from error
        known = self._client.scheduler_info(n_workers=-1)["workers"].values()
        self.workers = max(1, sum(each["nthreads"] for each in known))

    @staticmethod
    def _start(workers: int) -> Any:
        import distributed

        try:
            with warnings.catch_warnings():
                # The dashboard is switched off, so a port that is taken is nobody's concern.
                warnings.simplefilter("ignore")
                return distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
        except RuntimeError as error:
            raise BuildError(
                "the worker processes did not start; a Python script that builds with workers must do so below "
                '`if __name__ == "__main__":`, since every worker imports it again'
            ) from error

    def probe(self, folder: Path, versions: Mapping[str, str], plugins: Sequence[Plugin] = ()) -> None:
        """Make sure that every worker has these versions and plug-ins, which the bytes depend on, and sees ``folder``.

        Raises
        ------
        BuildError
            If one does not, naming it and what it lacks.
        """
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / ".probe"
        token.write_text(str(os.getpid()), "utf-8")
        try:
            for address, found in self._client.run(_look, str(token)).items():
                other, content = found
                for name, version in versions.items():
                    if other.get(name) != version:
                        raise BuildError(
                            f"worker {address}: has {name} {other.get(name)}, this is {version}, and the bytes of a "
                            "build depend on it; use workers that are alike"
                        )
                if content != str(os.getpid()):
                    raise BuildError(
                        f"worker {address}: cannot see {folder}; use a folder that all workers share (`--work`)"
                    )
        finally:
            token.unlink(missing_ok=True)
        for address, lacks in self._client.run(_lacking, [plugin.wire() for plugin in plugins]).items():
            if lacks:
                raise BuildError(
                    f"worker {address}: {lacks}; install the plug-in where the workers run, or put its folder on their "
                    "PYTHONPATH, and start them anew"
                )

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[list[Result], Timings]]:
        """Run the tasks on the workers."""
        import distributed

        # As bytes, so that the scheduler need not know the stages of plug-ins.
        futures = [self._client.submit(_run, pickle.dumps(task), pure=False, retries=0) for task in tasks]
        waiting = distributed.as_completed(futures)
        left, last = len(futures), time.monotonic()
        try:
            while left:
                batch = waiting.next_batch(block=False)
                for future in batch:
                    yield self._result(future)
                    future.release()
                left -= len(batch)
                if batch:
                    last = time.monotonic()
                elif time.monotonic() - last > self._stall_s:
                    raise BuildError(
                        f"no task has finished for {self._stall_s:.0f} s, {left} are left; the workers hang, or the "
                        "tasks are too large for them"
                    )
                else:
                    time.sleep(POLL_S)
        finally:
            self._client.cancel(futures, force=True)

    @staticmethod
    def _result(future: Any) -> tuple[list[Result], Timings]:
        from distributed.scheduler import KilledWorker

        try:
            result: tuple[list[Result], Timings] = future.result()
        except KilledWorker as error:
            raise BuildError(
                f"worker processes died repeatedly on one task ({error.task}); most often the machine ran out of "
                "memory: use fewer `--workers`, or a smaller `--memory` so that tasks are refused beforehand"
            ) from error
        return result

    def close(self) -> None:
        """Leave the cluster, and stop it if it is ours."""
        self._client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=10)


def _look(token: str) -> tuple[dict[str, str], str]:
    from curation.versions import versions

    try:
        content = Path(token).read_text("utf-8")
    except OSError:
        content = ""
    return versions(), content


def _lacking(plugins: Sequence[tuple[str, ...]]) -> str:
    from curation.plugins import lacking

    return lacking(plugins)


def _run(pickled: bytes) -> tuple[list[Result], Timings]:
    """Run a task in a worker, which may have several threads: the limit on BLAS is set for good, not per task."""
    if not _limited:
        _limited.append(threadpool_limits(limits=1))
    task: Task = pickle.loads(pickled)
    return run_task(task)


_limited: list[Any] = []
