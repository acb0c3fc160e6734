"""Jobs become tasks of even size; every job runs once, and only if it is not done."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.engine.events import Silent
from curation.engine.executor import make_tasks
from curation.engine.local import Serial, Threads
from curation.engine.runner import Runner
from curation.engine.store import Store
from curation.errors import RefusedError
from tests.engine.jobs import FailingJob, NumberJob, RaiseIfRun, ran

STORE = Store("/nowhere")


def jobs_of(costs, folder="/nowhere"):
    return [NumberJob(i, str(folder), cost=cost) for i, cost in enumerate(costs)]


def runner(folder, executor=None, memory=1 << 40, **options):
    return Runner(Store(str(folder / "work")), executor or Serial(), Silent(), memory, **options)


COSTS = st.lists(st.integers(0, 1 << 40), max_size=60)


@given(COSTS, st.integers(1, 64), st.none() | st.integers(1, 1 << 42))
def test_tasks__hold_every_job_once_and_in_order(costs, workers, task_bytes):
    jobs = jobs_of(costs)
    tasks = make_tasks(STORE, jobs, workers=workers, task_bytes=task_bytes)
    assert [job for task in tasks for job in task.jobs] == jobs
    assert all(task.jobs for task in tasks)


@pytest.mark.parametrize("count", [1, 1999, 2000, 2001, 2999, 3001, 20_000])
@pytest.mark.parametrize("task_bytes", [None, 1])
@pytest.mark.parametrize("costs", [[7], [1], [1 << 30], [1, 1000], [0, 0, 5]])
def test_tasks__are_never_more_than_2000(count, task_bytes, costs):
    jobs = jobs_of((costs * count)[:count])
    assert len(make_tasks(STORE, jobs, workers=1000, task_bytes=task_bytes)) <= 2000


@given(st.lists(st.integers(1, 1 << 30), min_size=1, max_size=3000), st.integers(1, 5000))
def test_tasks__are_never_more_than_2000_whatever_they_cost(costs, task_bytes):
    assert len(make_tasks(STORE, jobs_of(costs), workers=64, task_bytes=task_bytes)) <= 2000


def test_tasks__are_about_256_mb_of_a_large_input():
    tasks = make_tasks(STORE, jobs_of([64 << 20] * 400), workers=2)
    assert {sum(job.cost for job in task.jobs) for task in tasks} == {256 << 20}


def test_tasks__give_every_worker_several_of_a_small_input():
    assert len(make_tasks(STORE, jobs_of([1 << 20] * 64), workers=4)) >= 16


def test_run__gives_marks_in_the_order_of_the_jobs(tmp_path):
    jobs = jobs_of([1] * 9, tmp_path)[::-1]
    threads = Threads(4)
    marks = runner(tmp_path, threads, task_bytes=1).run("squares", jobs)
    threads.close()
    assert [mark["square"] for mark in marks] == [n * n for n in range(8, -1, -1)]


def test_run__does_every_job_once(tmp_path):
    here = runner(tmp_path)
    here.run("squares", jobs_of([1] * 5, tmp_path))
    here.run("squares", jobs_of([1] * 7, tmp_path))
    assert ran(tmp_path) == dict.fromkeys(range(7), 1)
    assert [(r.jobs, r.ran) for r in here.records] == [(5, 5), (7, 2)]


def test_run__does_jobs_of_one_key_once(tmp_path):
    job = NumberJob(3, str(tmp_path))
    marks = runner(tmp_path).run("squares", [job, job, job])
    assert [mark["square"] for mark in marks] == [9, 9, 9]
    assert ran(tmp_path) == {3: 1}


def test_run__does_again_what_has_lost_its_data(tmp_path):
    here = runner(tmp_path)
    jobs = jobs_of([1] * 4, tmp_path)
    here.run("squares", jobs)
    here.store.data(jobs[2].key, ".txt").write_text("")
    here.run("squares", jobs)
    assert ran(tmp_path) == {0: 1, 1: 1, 2: 2, 3: 1}


def test_run__needs_no_executor_for_finished_work(tmp_path):
    jobs = jobs_of([1] * 4, tmp_path)
    before = runner(tmp_path).run("squares", jobs)
    assert runner(tmp_path, RaiseIfRun()).run("squares", jobs) == before


def test_run__keeps_the_work_done_before_an_error(tmp_path):
    with pytest.raises(ValueError, match="no square of 2"):
        runner(tmp_path).run("squares", [*jobs_of([1, 1], tmp_path), FailingJob(2, str(tmp_path))])
    assert runner(tmp_path, RaiseIfRun()).run("squares", jobs_of([1, 1], tmp_path)) is not None


def test_run__counts_rows_and_jobs_for_whoever_listens(tmp_path):
    heard: list[tuple[Any, ...]] = []

    class Events(Silent):
        def started(self, phase, *, jobs, done, rows):
            heard.append((phase, jobs, done, rows))

        def advanced(self, phase, *, jobs, rows):
            heard.append((jobs, rows))

    here = Runner(Store(str(tmp_path / "work")), Serial(), Events(), 1 << 40)
    here.run("squares", jobs_of([1], tmp_path))
    here.run("squares", jobs_of([1, 1, 1], tmp_path))
    assert heard[0] == ("squares", 1, 0, 1)
    assert heard[2] == ("squares", 3, 1, 2)
    assert [sum(each[i] for each in heard[3:]) for i in (0, 1)] == [2, 2]


def test_run__refuses_a_job_that_needs_too_much_memory(tmp_path):
    jobs = [NumberJob(1, str(tmp_path), memory=3 << 30)]
    with pytest.raises(
        RefusedError, match=r"3\.3 GiB per worker needed for number 1, 2\.0 GiB allowed; raise `--memory`"
    ):
        runner(tmp_path, RaiseIfRun(), memory=2 << 30).run("squares", jobs)


def test_run__counts_the_memory_of_threads_together(tmp_path):
    jobs = [NumberJob(i, str(tmp_path), memory=1 << 30) for i in range(4)]
    threads = Threads(4)
    runner(tmp_path, memory=2 << 30).run("squares", jobs)
    runner(tmp_path / "one", threads, memory=2 << 30).run("squares", jobs[:1])
    with pytest.raises(RefusedError, match=r"4\.3 GiB per worker needed"):
        runner(tmp_path / "other", threads, memory=2 << 30).run("squares", jobs)
    threads.close()


def test_run__does_not_refuse_what_is_done(tmp_path):
    jobs = [NumberJob(1, str(tmp_path), memory=1 << 30)]
    runner(tmp_path).run("squares", jobs)
    assert runner(tmp_path, RaiseIfRun(), memory=1).run("squares", jobs)[0]["square"] == 1
