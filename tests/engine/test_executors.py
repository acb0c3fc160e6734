"""Serial, threads and Dask run the same tasks to the same results; errors say where, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from curation.engine.dask import DaskExecutor
from curation.engine.executor import make_tasks
from curation.engine.local import Serial, Threads
from curation.engine.store import Store
from curation.errors import BuildError
from curation.versions import versions
from tests.engine.jobs import BlasJob, DyingJob, FailingJob, NumberJob, SleepingJob, blas_threads, ran, squares

ROOT = Path(__file__).parents[2]

SCHEDULER = """
import asyncio, sys
from distributed import Nanny, Scheduler, Worker
import curation
curation.__version__ = {version!r}
async def main():
    options = dict(dashboard=False, dashboard_address=None)
    async with Scheduler(host="127.0.0.1", port=0, **options) as scheduler:
        async with Worker(scheduler.address, nthreads=1, memory_limit=0, **options):
            print(scheduler.address, flush=True)
            await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@contextmanager
def cluster(folder, version=None):
    """A scheduler with one worker in a process of its own, whose working directory is ``folder``."""
    from curation import __version__

    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    script = textwrap.dedent(SCHEDULER.format(version=version or __version__))
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def dask():
    executor = DaskExecutor(2)
    yield executor
    executor.close()


@contextmanager
def opened(kind, dask):
    if kind == "dask":
        yield dask
        return
    executor = Serial() if kind == "serial" else Threads(3)
    yield executor
    executor.close()


def tasks_of(folder, jobs, **options):
    options.setdefault("task_bytes", 3)
    return make_tasks(Store(str(folder / "work")), jobs, workers=2, **options)


@pytest.mark.parametrize("kind", ["serial", "threads", "dask"])
def test_executor__runs_every_job_once(tmp_path, dask, kind):
    jobs = [NumberJob(n, str(tmp_path)) for n in range(20)]
    with opened(kind, dask) as executor:
        results = list(executor.run(tasks_of(tmp_path, jobs)))
    assert squares(results) == {job.key: job.number**2 for job in jobs}
    assert ran(tmp_path) == dict.fromkeys(range(20), 1)
    assert all(timings.seconds >= 0 and timings.peak_bytes > 1 << 20 for _, timings in results)


@pytest.mark.parametrize("kind", ["serial", "threads", "dask"])
def test_error__carries_the_place_as_a_note(tmp_path, dask, kind):
    jobs = [NumberJob(1, str(tmp_path)), FailingJob(7, str(tmp_path))]
    with opened(kind, dask) as executor, pytest.raises(ValueError, match="no square of 7") as caught:
        list(executor.run(tasks_of(tmp_path, jobs, task_bytes=1)))
    assert caught.value.__notes__ == ["while working on number 7"]


@pytest.mark.parametrize("kind", ["serial", "threads", "dask"])
def test_executor__goes_on_after_an_error(tmp_path, dask, kind):
    with opened(kind, dask) as executor:
        with pytest.raises(ValueError, match="no square"):
            list(executor.run(tasks_of(tmp_path, [FailingJob(7, str(tmp_path))])))
        assert squares(executor.run(tasks_of(tmp_path, [NumberJob(5, str(tmp_path))]))) == {"00000005": 25}


def test_threads__keep_blas_on_one_thread_until_the_last_task_ends(tmp_path):
    before = blas_threads()
    jobs = [BlasJob(n, str(tmp_path)) for n in (1, 2, 3, 4)]
    threads = Threads(4)
    results = list(threads.run(tasks_of(tmp_path, jobs, task_bytes=1)))
    threads.close()
    assert {n for done, _ in results for _, mark, _ in done for n in mark["threads"]} == {1}
    assert blas_threads() == before


def test_dask__ends_a_run_that_makes_no_progress(tmp_path):
    executor = DaskExecutor(1, stall_s=0.5)
    started = time.monotonic()
    try:
        with pytest.raises(BuildError, match="no task has finished for 0 s, 1 are left; the workers hang"):
            list(executor.run(tasks_of(tmp_path, [SleepingJob(1, str(tmp_path))])))
    finally:
        executor.close()
    assert time.monotonic() - started < 25


def test_dask__names_memory_when_workers_die(tmp_path):
    executor = DaskExecutor(1)
    try:
        with pytest.raises(BuildError, match=r"worker processes died repeatedly .* ran out of memory: use fewer"):
            list(executor.run(tasks_of(tmp_path, [DyingJob(1, str(tmp_path))])))
    finally:
        executor.close()


def test_dask__starts_as_many_processes_as_asked(tmp_path, dask):
    assert dask.workers == 2
    jobs = [NumberJob(n, str(tmp_path)) for n in range(40)]
    list(dask.run(tasks_of(tmp_path, jobs, task_bytes=1)))
    pids = {path.read_text() for path in tmp_path.glob("ran-*")}
    assert len(pids) == 2
    assert f"{os.getpid()}\n" not in pids


def test_dask__works_with_a_scheduler_that_runs_elsewhere(tmp_path):
    jobs = [NumberJob(n, str(tmp_path)) for n in range(5)]
    with cluster(tmp_path) as address:
        executor = DaskExecutor(7, address=address)
        executor.probe(tmp_path / "work", versions())
        assert executor.workers == 1
        assert squares(executor.run(tasks_of(tmp_path, jobs))) == {job.key: job.number**2 for job in jobs}
        executor.close()


def test_probe__leaves_nothing_behind(tmp_path, dask):
    dask.probe(tmp_path / "work", versions())
    assert list((tmp_path / "work").iterdir()) == []


def test_probe__refuses_a_worker_that_does_not_see_the_folder(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with cluster(elsewhere) as address:  # a relative path means another folder there
        executor = DaskExecutor(1, address=address)
        with pytest.raises(BuildError, match=r"worker tcp://.*: cannot see work; use a folder that all workers share"):
            executor.probe(Path("work"), versions())
        executor.close()


def test_probe__refuses_a_worker_of_another_version(tmp_path):
    with cluster(tmp_path, version="0.0.1") as address:
        executor = DaskExecutor(1, address=address)
        with pytest.raises(BuildError, match=r"has curation 0\.0\.1, this is .*; use workers that are alike"):
            executor.probe(tmp_path, versions())
        executor.close()
