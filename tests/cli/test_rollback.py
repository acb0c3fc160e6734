"""``curate rollback``: back, further back, forth; what stays, and what the next build does."""

from __future__ import annotations

import shutil

import pytest

from curation.api import open as open_build
from curation.engine.lock import held
from curation.flow.build import build
from curation.recipe.load import load_recipe
from tests.cli.project import RECIPE, TWO_OUTPUTS, curate, make_project
from tests.flow.helpers import digest_tree

KEEPS = RECIPE.replace("build/tiny}", "build/tiny, keep: 2}")


def recipe(age):
    return KEEPS.replace("age >= 10", f"age >= {age}")


@pytest.fixture(scope="module")
def three_generations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    for age in (10, 20, 30):
        assert curate("build", make_project(folder, recipe(age))).exit_code == 0
    return folder


@pytest.fixture
def out(three_generations, tmp_path):
    shutil.copytree(three_generations, tmp_path / "p")
    return tmp_path / "p/build/tiny"


def rows(out):
    return open_build(out).rows


def test_rollback__makes_the_generation_before_the_current_one(out):
    assert rows(out) == 140
    newest, before, _ = (each.build_id for each in open_build(out).generations)
    result = curate("rollback", out)
    assert (result.exit_code, rows(out)) == (0, 160)
    assert f"the current generation is now {before} (recipe 'tiny', 160 rows, built " in result.stdout
    assert f"--to {newest}` brings it back" in result.stdout
    assert (out / "manifest.json").read_bytes() == (out / "meta" / before / "manifest.json").read_bytes()


def test_rollback__a_second_one_goes_further_back_and_then_there_is_none(out):
    curate("rollback", out)
    assert curate("rollback", out).exit_code == 0
    assert rows(out) == 180
    oldest = open_build(out).manifest.build_id
    result = curate("rollback", out)
    assert (result.exit_code, rows(out)) == (1, 180)
    assert f"no generation before {oldest} stands" in result.stderr


def test_rollback__deletes_nothing(out):
    before = digest_tree(out / "shards")
    curate("rollback", out)
    curate("rollback", out)
    assert digest_tree(out / "shards") == before
    assert [each.rows for each in open_build(out).generations] == [140, 160, 180]


@pytest.mark.parametrize(("at", "expected"), [(0, 140), (1, 160), (2, 180)])
def test_rollback__to_a_generation_by_the_beginning_of_its_id(out, at, expected):
    curate("rollback", out)
    build_id = open_build(out).generations[at].build_id
    assert curate("rollback", out, "--to", build_id[:9]).exit_code == 0
    assert rows(out) == expected
    assert [each.current for each in open_build(out).generations] == [i == at for i in range(3)]


def test_rollback__to_the_current_one_says_so(out):
    build_id = open_build(out).manifest.build_id
    assert f"generation {build_id} is the current one already" in curate("rollback", out, "--to", build_id).stdout


@pytest.mark.parametrize("to", ["ffff", "", "../x"])
def test_rollback__to_no_generation_names_those_that_stand(out, to):
    result = curate("rollback", out, "--to", to)
    assert result.exit_code == 1
    assert all(each.build_id in result.stderr for each in open_build(out).generations)


def test_rollback__list_shows_rows_date_and_recipe(out):
    curate("rollback", out)
    lines = curate("rollback", out, "--list").stdout.splitlines()
    assert lines[0].split() == ["build", "finished", "rows", "recipe"]
    assert [line.split()[-2:] for line in lines[1:]] == [["140", "tiny"], ["160", "tiny"], ["180", "tiny"]]
    assert [line.startswith("*") for line in lines[1:]] == [False, True, False]
    assert open_build(out).manifest.build_id in lines[2]


def test_rollback__list_and_to_are_two_questions(out):
    assert curate("rollback", out, "--list", "--to", "1").exit_code == 2


def test_rollback__the_next_build_publishes_its_own_again_from_finished_work(out):
    whole = digest_tree(out)
    curate("rollback", out)
    result = build(load_recipe(out.parents[1] / "recipe.yaml"))
    assert (result.fresh, set(result.ran.values())) == (True, {0})
    assert rows(out) == 140
    assert digest_tree(out) == whole


def test_rollback__a_build_of_something_else_keeps_the_one_that_was_current(out):
    curate("rollback", out)
    curate("build", make_project(out.parents[1], recipe(40)))
    assert [each.rows for each in open_build(out).generations] == [120, 160, 140]


def test_rollback__a_build_of_the_old_recipe_has_nothing_to_do(out):
    curate("rollback", out)
    assert curate("build", make_project(out.parents[1], recipe(20))).stdout.startswith("up to date")


def test_rollback__of_a_generation_that_is_not_whole_changes_nothing(out):
    before = open_build(out).generations[1].build_id
    next((out / "shards" / before).iterdir()).unlink()
    result = curate("rollback", out)
    assert (result.exit_code, rows(out)) == (1, 140)
    assert f"generation {before} is not whole" in result.stderr


def test_rollback__waits_for_no_build(out):
    with held(out):
        result = curate("rollback", out)
    assert result.exit_code == 4
    assert "held by another build" in result.stderr


def test_rollback__where_no_build_is_leaves_no_trace(tmp_path):
    assert curate("rollback", tmp_path / "none").exit_code == 1
    assert not (tmp_path / "none").exists()


def test_rollback__names_the_other_outputs_that_stay(tmp_path):
    path = make_project(tmp_path, TWO_OUTPUTS)
    curate("build", path)
    curate("build", path, "--set", "seed=4")
    result = curate("rollback", tmp_path / "build/train")
    assert "note: of the same build, held_out stays as it is" in result.stderr


def test_build__rollback_returns_the_older_build(out):
    newest = open_build(out)
    older = newest.rollback()
    assert (newest.rows, older.rows, open_build(out).rows) == (140, 160, 160)
    assert older.table().collect().height == 160
