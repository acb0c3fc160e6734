"""Several tables in one recipe: put together, joined, erased, described and sorted, the same by every executor."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from curation.io.manifest import read_manifest
from tests.flow.helpers import digest_tree, people, read, run
from tests.stages.tables import lay_out, recipe_of

STAGES: list[dict[str, Any]] = [
    {"name": "clean", "use": "erase", "from": "old", "keys": "gone", "on": "id"},
    {"name": "all", "use": "concat", "from": ["clean", "new"]},
    {"name": "known", "use": "join", "right": "langs", "left_on": "lang", "right_on": "code", "how": "left"},
    {"name": "stats", "use": "group_stats", "by": "family"},
    {"use": "split", "shares": {"a": 0.6, "b": 0.4}},
    {"name": "first", "use": "sort", "from": "split.a", "by": ["family", "-score"]},
    {"name": "wide", "use": "filter", "from": "stats.table", "where": "column <> 'id'"},
    {
        "name": "top",
        "use": "join",
        "from": "split.b",
        "right": "wide",
        "on": "family",
        "matches": "all",
        "columns": ["max"],
    },
]
OUTPUTS = {
    "sorted": {"from": "first", "path": "out/sorted", "shard_rows": 16},
    "top": {"from": "top", "path": "out/top", "shard_rows": 30},
}
TABLES = {
    "old": people(120),
    "new": people(40, start=500).drop_columns(["text"]).append_column("more", pa.array(range(40), pa.int16())),
    "gone": pa.table({"id": pa.array([3, 5, 7, 1000], pa.int32())}),
    "langs": pa.table({"code": ["en", "fr"], "family": ["germanic", "romance"], "lang": ["English", "French"]}),
}
RECIPE = recipe_of({"old": {"key": "id"}, "new": {}, "gone": {}, "langs": {}}, STAGES, OUTPUTS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curation.stages.lookup.PARTITION_BYTES", 300)
        folder = tmp_path_factory.mktemp("tables")
        lay_out(folder, TABLES)
        run(folder, RECIPE)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"executor": "serial", "task_bytes": 1},
        {"executor": "threads", "workers": 3},
        {"executor": "dask", "workers": 2},
    ],
    ids=["serial-small-tasks", "threads", "dask-2"],
)
def test_tables__same_bytes_by_every_executor(expected, tmp_path, monkeypatch, options):
    monkeypatch.setattr("curation.stages.lookup.PARTITION_BYTES", 300)
    lay_out(tmp_path, TABLES)
    run(tmp_path, RECIPE, **options)
    assert digest_tree(tmp_path / "out") == digest_tree(expected / "out")


def test_tables__every_row_is_accounted_for(expected):
    content = read_manifest(expected / "out/sorted").content
    for account in content["inputs"].values():
        assert account["read"] == account["kept"] + account["dropped"]
    assert (content["stages"]["clean"]["dropped"], content["stages"]["clean"]["looked_up"]) == ({"erased": 3}, 4)
    assert (content["stages"]["known"]["dropped"], content["stages"]["known"]["looked_up"]) == ({}, 2)
    assert content["notes"]["clean"]["found"] == [{"keys": 4, "found": 3, "not_found": 1}]


def test_tables__rows_are_what_they_should_be(expected):
    rows = read(expected / "out/sorted").to_pylist()
    assert not {3, 5, 7} & {row["id"] for row in rows}
    family = {"en": "germanic", "fr": "romance", "is": None}
    assert all(row["family"] == family[row["lang"]] for row in rows)
    assert all((row["more"] is None) == (row["id"] < 500) for row in rows)
    places = [(row["family"] is None, row["family"], row["score"] is None, -(row["score"] or 0.0)) for row in rows]
    assert places == sorted(places, key=lambda each: (each[0], each[1] or "", *each[2:]))


def test_tables__looked_up_statistics_come_as_copies(expected):
    rows = read(expected / "out/top").to_pylist()
    assert {row["_copy"] for row in rows} == {0, 1, 2}  # of score, weight and more
    assert {row["family"] for row in rows} == {"germanic", "romance"}
