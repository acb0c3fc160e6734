"""Whole builds of small tables: recipes as data, results as rows, and the same bytes by every executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from curation.api import Build
from curation.io.manifest import Manifest, read_manifest
from tests.flow.helpers import digest_tree, read, run, write

EXECUTORS: list[dict[str, Any]] = [
    {"executor": "serial", "task_bytes": 1},
    {"executor": "threads", "workers": 3, "task_bytes": 1 << 40},
]
"""Ways to build besides the serial one with the usual tasks; processes take long to start, so one test tries them."""


def recipe_of(
    inputs: Mapping[str, Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, Mapping[str, Any]] | None = None,
    **output: Any,
) -> str:
    """Text of a recipe whose inputs lie in folders of their names."""
    goal = {"outputs": dict(outputs)} if outputs else {"output": {"path": "out"} | output}
    named = {name: {"path": f"data/{name}"} | dict(options) for name, options in inputs.items()}
    whole = {"recipe": 1, "name": "tables", "seed": 5, "inputs": named, "stages": [dict(s) for s in stages]} | goal
    return yaml.safe_dump(whole, sort_keys=False)


def lay_out(folder: Path, tables: Mapping[str, pa.Table], *, files: int = 2, group: int = 7) -> None:
    """Write each table as several files of small row groups."""
    for name, table in tables.items():
        each = max(1, -(-table.num_rows // files))
        for i in range(files):
            write(folder / f"data/{name}/{i}.parquet", table.slice(i * each, each), row_group_size=group)


def made(
    folder: Path,
    tables: Mapping[str, pa.Table],
    stages: Sequence[Mapping[str, Any]],
    *,
    out: str = "out",
    **options: Any,
) -> pa.Table:
    """Rows of the output of a build over the tables."""
    keyed = options.pop("inputs", {name: {} for name in tables})
    lay_out(folder, tables)
    run(folder, recipe_of(keyed, stages, **options))
    return read(folder / out)


def stage_account(folder: Path, name: str, out: str = "out") -> tuple[int, int, int, dict[str, int]]:
    """Rows in, created, out and dropped of a stage; those of a table beside the flow are counted apart."""
    stage = read_manifest(folder / out).content["stages"][name]
    return stage["in"], stage["created"], stage["out"], stage["dropped"]


def notes_of(folder: Path, name: str, out: str = "out") -> Any:
    """What a stage has noted in the manifest."""
    return read_manifest(folder / out).content["notes"][name]


def opened(folder: Path, out: str = "out") -> Build:
    """The build, to ask it questions."""
    return Build(Manifest(folder / out, read_manifest(folder / out).content))


def same_by_all(base: Path, tables: Mapping[str, pa.Table], recipe: str) -> dict[str, str]:
    """Hashes of the files of a build that every executor must leave."""
    found = []
    for i, options in enumerate([{}, *EXECUTORS]):
        folder = base / f"by{i}"
        lay_out(folder, tables)
        run(folder, recipe, **options)
        found.append(digest_tree(folder / "out"))
    assert all(each == found[0] for each in found)
    return found[0]
