"""The same bytes, whoever computes them, in whatever pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.io.manifest import read_manifest
from curation.testing import check_build
from tests.flow.helpers import ALL_STAGES, people, read, run, write


def lay_out(folder: Path, rows: int = 800, files: int = 3) -> None:
    each = rows // files
    for i in range(files):
        count = rows - each * (files - 1) if i == files - 1 else each
        write(folder / f"data/{i}.parquet", people(count, start=i * each), row_group_size=50)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    lay_out(folder)
    run(folder, ALL_STAGES)
    return folder


def test_bytes__do_not_depend_on_executor_workers_or_tasks():
    tables = check_build(ALL_STAGES, {"data": people(800)})
    assert list(tables) == ["train", "held_out"]


def test_fingerprint__survives_another_layout_of_keyed_files(expected, tmp_path):
    table = people(800).take(list(range(799, -1, -1)))
    write(tmp_path / "data/a/all.parquet", table.slice(0, 500), row_group_size=333)
    write(tmp_path / "data/b/rest.parquet", table.slice(500), row_group_size=7)
    run(tmp_path, ALL_STAGES)
    for name in ("train", "held_out"):
        again = read_manifest(tmp_path / "out" / name).content
        assert again["data_fingerprint"] == read_manifest(expected / "out" / name).content["data_fingerprint"]


def test_fingerprint__sees_one_changed_value(expected, tmp_path):
    table = people(800)
    at = table.column("id").to_pylist().index(read(expected / "out/held_out").column("id")[0].as_py())
    captions = table.column("text").to_pylist()
    captions[at] = "changed it"
    write(tmp_path / "data/all.parquet", table.set_column(2, "text", [captions]))
    run(tmp_path, ALL_STAGES)
    again = read_manifest(tmp_path / "out/held_out").content["data_fingerprint"]
    assert again != read_manifest(expected / "out/held_out").content["data_fingerprint"]


def test_draws__of_other_stages_do_not_change_with_an_inserted_stage(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        lay_out(tmp_path / folder)
    inserted = ALL_STAGES.replace(
        "  - use: split\n",
        '  - {name: nothing, use: derive, columns: {one: "1"}}\n'
        "  - {name: less, use: select, drop: [one]}\n  - use: split\n",
    )
    run(tmp_path / "a", ALL_STAGES)
    run(tmp_path / "b", inserted)
    for name in ("train", "held_out"):
        a, b = (read_manifest(tmp_path / x / "out" / name).content["data_fingerprint"] for x in "ab")
        assert a == b
