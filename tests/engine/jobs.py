"""Jobs that tests run: they do little, and remember in files that they ran."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from curation.engine.executor import Result, Task, Timings
from curation.engine.store import Mark, Store


@dataclass(frozen=True)
class NumberJob:
    """Leaves the square of its number, and one line in a file for every time that it ran."""

    number: int
    folder: str
    cost: int = 1
    memory: int = 0
    rows: int = 1

    @property
    def key(self) -> str:
        return f"{self.number:08d}"

    def describe(self) -> str:
        return f"number {self.number}"

    def run(self, store: Store) -> Mark:
        with (Path(self.folder) / f"ran-{self.number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"square": self.number**2} | store.write(self.key, ".txt", lambda path: self.fill(path))

    def fill(self, path: Path) -> None:
        path.write_text(str(self.number**2), "utf-8")


class FailingJob(NumberJob):
    """Cannot be done."""

    def run(self, store: Store) -> Mark:
        raise ValueError(f"no square of {self.number}")


class SleepingJob(NumberJob):
    """Hangs."""

    def run(self, store: Store) -> Mark:
        time.sleep(30)
        return {}


class DyingJob(NumberJob):
    """Takes its process down, as the system does when memory runs out."""

    def run(self, store: Store) -> Mark:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


class BlasJob(NumberJob):
    """Tells how many threads BLAS may use, after a while."""

    def run(self, store: Store) -> Mark:
        time.sleep(0.05 * self.number)
        return {"threads": blas_threads()}


def blas_threads() -> list[int]:
    """Threads that each BLAS library of this process may use."""
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


class RaiseIfRun:
    """An executor that nobody may use: it proves that nothing is computed."""

    name = "serial"
    workers = 1

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[list[Result], Timings]]:
        raise AssertionError(f"{len(tasks)} tasks were to be run")

    def close(self) -> None:
        """Nothing to stop."""


def ran(folder: Path) -> dict[int, int]:
    """How often each number ran."""
    return {int(p.name[4:]): len(p.read_text().splitlines()) for p in folder.glob("ran-*")}


def squares(results: Any) -> dict[str, int]:
    """Marks of finished tasks, by key."""
    return {key: mark["square"] for done, _ in results for key, mark, _ in done}
