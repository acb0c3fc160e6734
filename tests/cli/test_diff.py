"""``curate diff``: what it prints, its JSON, and its exit codes."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from curation.api import open as open_build
from tests.cli.project import RECIPE, curate, make_project, people


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory):
    """Output with a generation of age >= 10, and a newer one of age >= 20; do not change it."""
    folder = tmp_path_factory.mktemp("two")
    curate("build", make_project(folder))
    curate("build", make_project(folder, RECIPE.replace(">= 10", ">= 20")))
    return folder / "build/tiny"


@pytest.fixture
def sides(two_generations):
    return f"{two_generations}@{open_build(two_generations).generations[1].build_id}", two_generations


def test_diff__says_what_differs_and_exits_0(sides):
    result = curate("diff", *sides)
    assert result.exit_code == 0, result.output
    assert "only in A 20 · only in B 0 · changed 0 · equal 160" in result.stdout
    assert 'stages.filter.where  "age >= 10"  "age >= 20"' in result.stdout
    shares = result.stdout.partition("shares of lang")[2].split()
    assert shares[:9] == ["lang", "rows", "A", "rows", "B", "share", "A", "share", "B"]


def test_diff__of_a_result_with_itself_is_short(sides):
    text = curate("diff", sides[0], sides[0]).stdout
    assert "only in A 0 · only in B 0 · changed 0 · equal 180" in text
    assert "settings" not in text


def test_diff__shows_rows(sides):
    text = curate("diff", *sides, "--rows", 2).stdout.partition("only in A\n")[2]
    assert [line.partition(" ")[0] for line in text.splitlines() if line.startswith("row")] == ["row", "row"]
    assert text.count("  lang: '") == 2


def test_diff__json_is_one_line_with_everything(sides):
    found = json.loads(curate("diff", *sides, "--json", "--rows", 1).stdout)
    assert (found["event"], found["only_a"], found["equal"], found["group_column"]) == ("diff", 20, 160, "lang")
    assert {"key": "stages.filter.where", "a": "age >= 10", "b": "age >= 20"} in found["settings"]
    assert found["examples"]["only_a"][0]["values"]["age"][1] is None
    assert found["b"]["build_id"] == open_build(sides[1]).manifest.build_id


def test_diff__where_no_build_is_exits_1(sides, tmp_path):
    result = curate("diff", sides[0], tmp_path)
    assert (result.exit_code, result.stderr) == (
        1,
        f"{tmp_path}: no build here (no manifest.json); name the output directory of a build\n",
    )


@pytest.mark.parametrize("options", [["--erased", "x.csv"], ["--on", "id"]])
def test_diff__erased_needs_a_column(sides, options):
    result = curate("diff", *sides, *options)
    assert result.exit_code == 2
    assert "--erased LIST and --on COLUMN belong together" in result.stderr


@pytest.fixture(scope="module")
def erased(tmp_path_factory):
    """Folder of results before and after rows 57 and 58 were erased, and with a list of them."""
    folder = tmp_path_factory.mktemp("erased")
    keyed = RECIPE.replace("people.parquet}", "people.parquet, key: id}")
    curate("build", make_project(folder, keyed))
    table = people()
    pq.write_table(table.take([i for i in range(200) if i not in (57, 58)]), folder / "data/people.parquet")
    curate("build", folder / "recipe.yaml", "--out", folder / "after")
    (folder / "gone.csv").write_text("id\n57\n58\n")
    (folder / "more.csv").write_text("id\n57\n60\n")
    return folder


def test_erased__holds_and_exits_0(erased):
    result = curate("diff", erased / "build/tiny", erased / "after", "--erased", erased / "gone.csv", "--on", "id")
    assert result.exit_code == 0, result.output
    assert "keys 2, of which A has 2" in result.stdout
    assert result.stdout.endswith("the erasure holds: the rows are gone, all others are there\n")


def test_erased__does_not_hold_and_exits_1(erased):
    result = curate("diff", erased / "build/tiny", erased / "after", "--erased", erased / "more.csv", "--on", "id")
    assert result.exit_code == 1
    assert result.stdout.count("must be 0") == 2  # row 60 is still there, row 58 is lost
    assert result.stdout.endswith("the erasure does not hold\n")


def test_erased__json_has_the_counts(erased):
    sides = erased / "build/tiny", erased / "after"
    result = curate("diff", *sides, "--erased", erased / "more.csv", "--on", "id", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["event"], found["holds"]) == (1, "erasure", False)
    assert (found["listed_a"], found["listed_b"], found["missing"]) == (2, 1, 1)
