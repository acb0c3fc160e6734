from __future__ import annotations

import json
import time

import pyarrow.parquet as pq
import pytest

from curation.engine.lock import held
from tests.cli.project import RECIPE, TWO_OUTPUTS, curate, curate_process, events, make_project, people


def test_build__ends_with_rows_path_and_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    result = curate("build", "recipe.yaml")
    manifest = json.loads((tmp_path / "build/tiny/manifest.json").read_text())
    assert result.exit_code == 0, result.output
    first, place, report = result.stdout.splitlines()
    assert first.startswith("built tiny: 180 rows in ")
    assert place == "  180 rows in build/tiny"
    assert report == f"    report: build/tiny/meta/{manifest['build_id']}/report.html"
    assert (tmp_path / report.removeprefix("    report: ")).is_file()


def test_build__says_each_finished_phase_where_there_is_no_terminal(tmp_path):
    result = curate("build", make_project(tmp_path))
    assert result.stderr.splitlines()[0].startswith("building ")
    assert any(line.startswith("  census: 200 rows in ") for line in result.stderr.splitlines())


def test_build__again_says_so_in_one_line(tiny):
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny.rglob("*"))
    result = curate("build", tiny / "recipe.yaml")
    assert (result.exit_code, result.stdout) == (0, f"up to date: 180 rows in {tiny}/build/tiny\n")
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny.rglob("*")) == before


def test_build__json_ends_with_paths_and_counts(tmp_path):
    found = events(curate("build", make_project(tmp_path), "--json").stdout)
    assert [found[0]["event"], found[-1]["event"]] == ["start", "done"]
    done = found[-1]["outputs"]["output"]
    assert (found[-1]["fresh"], done["rows"], done["path"]) == (True, 180, str(tmp_path / "build/tiny"))
    phases = [(each["phase"], each["status"]) for each in found if each["event"] == "phase"]
    assert ("census", "started") in phases
    assert ("census", "finished") in phases


def test_build__json_tells_problems(tmp_path):
    result = curate("build", make_project(tmp_path, RECIPE.replace("age >=", "agee >=")), "--json")
    last = events(result.stdout)[-1]
    assert (result.exit_code, last["event"], last["exit_code"]) == (2, "error", 2)
    assert (last["problems"][0]["line"], last["problems"][0]["path"]) == (8, "stages[0].where")


def test_build__a_failed_gate_is_1_and_leaves_the_old_result(tmp_path):
    path = make_project(tmp_path)
    curate("build", path)
    before = (tmp_path / "build/tiny/manifest.json").read_bytes()
    result = curate("build", path, "--set", "expect.0.min_rows=1000")
    assert result.exit_code == 1
    assert "all rows: 180 rows, at least 1000 expected" in result.stderr
    assert (tmp_path / "build/tiny/manifest.json").read_bytes() == before


def test_build__too_little_memory_is_3(tmp_path):
    result = curate("build", make_project(tmp_path), "--memory", "300MB")
    assert result.exit_code == 3
    assert "0.3 GiB allowed" in result.stderr
    assert not (tmp_path / "build/tiny/manifest.json").exists()


def test_build__a_held_output_is_4(tmp_path):
    path = make_project(tmp_path)
    with held(tmp_path / "build/tiny"):
        result = curate("build", path)
    assert result.exit_code == 4
    assert "held by another build (process " in result.stderr


def test_build__missing_recipe_is_2(tmp_path):
    result = curate("build", tmp_path / "absent.yaml")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        f"{tmp_path}/absent.yaml: cannot be read: No such file or directory",
    )


def test_out__moves_the_result_and_changes_no_byte_of_it(tiny, tmp_path):
    result = curate("build", tiny / "recipe.yaml", "--out", tmp_path / "else")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "else/manifest.json").read_bytes() == (tiny / "build/tiny/manifest.json").read_bytes()
    assert (tmp_path / "else.work").is_dir()


def test_out__is_refused_for_several_outputs(tmp_path):
    result = curate("build", make_project(tmp_path, TWO_OUTPUTS), "--out", tmp_path / "else")
    assert result.exit_code == 2
    assert "here say --set outputs.train.path=DIR --set outputs.held_out.path=DIR" in result.stderr


def test_out__may_not_hold_an_input(tmp_path):
    result = curate("build", make_project(tmp_path), "--out", tmp_path / "data")
    assert result.exit_code == 2
    assert "the output and the input 'people' lie in each other" in result.stderr


def test_work__is_where_it_is_asked_to_be(tmp_path):
    curate("build", make_project(tmp_path), "--work", tmp_path / "there")
    assert (tmp_path / "there/objects").is_dir()
    assert not (tmp_path / "build/tiny.work").exists()


def test_sample__takes_a_share_of_the_rows(tmp_path):
    result = curate("build", make_project(tmp_path), "--sample", "0.5")
    rows = json.loads((tmp_path / "build/tiny/manifest.json").read_text())["rows"]
    assert result.exit_code == 0, result.output
    assert 50 < rows < 130


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sample", "0", "0.0 is not in the range 0<x<=1"),
        ("--sample", "2", "2.0 is not in the range 0<x<=1"),
        ("--workers", "0", "0 is not in the range x>=1"),
        ("--memory", "much", "expected a size such as 4GB, got 'much'"),
    ],
)
def test_options__out_of_range_are_usage(option, value, message, tmp_path):
    result = curate("build", make_project(tmp_path), option, value)
    assert result.exit_code == 2
    assert message in result.stderr


def test_options__workers_or_scheduler(tmp_path):
    result = curate("build", make_project(tmp_path), "--workers", "1", "--scheduler", "tcp://localhost:1")
    assert result.exit_code == 2
    assert "give one of them" in result.stderr


def test_force__builds_anew(tmp_path):
    path = make_project(tmp_path)
    curate("build", path)
    result = curate("build", path, "--force")
    assert result.stdout.startswith("built tiny: 180 rows")


def test_changed_input__is_built_again(tmp_path):
    path = make_project(tmp_path)
    curate("build", path)
    pq.write_table(people(300), tmp_path / "data/people.parquet")
    assert curate("build", path).stdout.startswith("built tiny: 270 rows")


def test_process__moves_within_two_seconds_and_exits_0(tmp_path):
    make_project(tmp_path)
    started = time.monotonic()
    run = curate_process("build", "recipe.yaml", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("building recipe.yaml\n")
    assert "\x1b" not in run.stdout + run.stderr  # no colours in a log
    assert time.monotonic() - started < 60
