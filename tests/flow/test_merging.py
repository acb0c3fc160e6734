"""Partial states merge in one tree, whether the driver merges them or jobs do, and large ones are files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.flow import jobs, passes
from curation.flow.jobs import merge_tree
from tests.flow.helpers import digest_tree, people, run
from tests.stages.tables import lay_out, recipe_of

STAGES: list[dict[str, Any]] = [
    {"use": "group_stats", "by": "lang"},
    {"use": "sample", "by": "lang", "fraction": 0.5, "weight": "weight"},
]
OUTPUTS = {"rows": {"from": "sample", "path": "out/rows"}, "table": {"from": "group_stats.table", "path": "out/table"}}


def built(folder: Path, **options: Any) -> tuple[dict[str, str], dict[str, int]]:
    """Hashes of the result, and jobs by phase, of a build with several chunks."""
    lay_out(folder, {"rows": people(200)}, files=3)
    found = run(folder, recipe_of({"rows": {"key": "id"}}, STAGES, OUTPUTS), **options)
    return digest_tree(folder / "out"), found.ran


class Shown:
    """A stage whose states show how they were merged."""

    def merge(self, left: str, right: str) -> str:
        return f"({left} {right})"


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 33, 70])
@pytest.mark.parametrize("block", [2, 4, 8])
def test_tree__of_blocks_is_the_whole_tree(count, block):
    whole = merge_tree(Shown(), [str(i) for i in range(count)])  # type: ignore[arg-type]
    parts = [str(i) for i in range(count)]
    while len(parts) > block:
        parts = [merge_tree(Shown(), parts[i : i + block]) for i in range(0, len(parts), block)]  # type: ignore[arg-type]
    assert merge_tree(Shown(), parts) == whole  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"executor": "threads", "workers": 2, "task_bytes": 1}], ids=str)
def test_merge__by_jobs_and_files_gives_the_same_bytes(tmp_path, monkeypatch, options):
    monkeypatch.setattr("curation.io.chunks.CHUNK_ROWS", 16)
    expected, ran = built(tmp_path / "driver")
    assert not any("merge" in phase for phase in ran)
    monkeypatch.setattr(passes, "MERGE_PARTS", 2)
    monkeypatch.setattr("curation.engine.store.LARGE_STATE", 10)
    found, ran = built(tmp_path / "jobs", **options)
    assert found == expected
    assert ran["group_stats: merge, round 1"] > 1
    assert list((tmp_path / "jobs/out.work/objects").glob("*/*.state"))


def test_merge__is_not_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr("curation.io.chunks.CHUNK_ROWS", 16)
    monkeypatch.setattr(passes, "MERGE_PARTS", 2)
    monkeypatch.setattr("curation.engine.store.LARGE_STATE", 10)
    built(tmp_path)
    recipe = recipe_of({"rows": {"key": "id"}}, STAGES, OUTPUTS | {"more": {"from": "sample", "path": "out/more"}})
    ran = run(tmp_path, recipe).ran
    assert {n for phase, n in ran.items() if "merge" in phase or "fit" in phase} == {0}


def test_merge_parts__are_a_power_of_two():
    assert jobs.MERGE_PARTS & (jobs.MERGE_PARTS - 1) == 0
