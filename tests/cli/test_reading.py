"""The verbs that read: validate, plan, inspect, explain, methods, schema, report, clean."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from curation.api import open as open_build
from curation.methods import METHODS
from tests.cli.project import RECIPE, TWO_OUTPUTS, curate, make_project, people


def test_validate__says_ok_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    result = curate("validate", "recipe.yaml")
    assert (result.exit_code, result.stdout) == (
        0,
        "recipe.yaml: OK: people 200 rows → 1 stage → output in build/tiny\n",
    )


def test_validate__binds_to_the_data(tmp_path):
    result = curate("validate", make_project(tmp_path, RECIPE.replace("groups: lang", "groups: langs")))
    assert result.exit_code == 2
    assert "feed.groups" in result.stderr
    assert "lang" in result.stderr


def test_plan__shows_passes_and_computes_nothing(tmp_path):
    result = curate("plan", make_project(tmp_path))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["pass", "rows", "≤", "jobs", "memory", "≤", "disk", "≤"]
    assert "census and ledger" in result.stdout
    assert not (tmp_path / "build").exists()


def test_plan__refuses_with_3(tmp_path):
    result = curate("plan", make_project(tmp_path), "--memory", "300MB", "--workers", "2")
    assert result.exit_code == 3
    assert "2 processes, 315 MB allowed per worker" in result.stdout
    assert "raise `--memory`" in result.stderr


def test_plan__knows_a_standing_result(tiny):
    assert "(up to date)" in curate("plan", tiny / "recipe.yaml").stdout


def test_inspect__shows_a_balance_that_closes(two):
    result = curate("inspect", two / "build/train")
    manifest = open_build(two / "build/train").manifest.content
    assert result.exit_code == 0, result.output
    assert manifest["build_id"] in result.stdout
    assert manifest["data_fingerprint"] in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("people"))
    numbers = [int(word) for word in line.split()[3:]]
    assert numbers == [200, 180, 0, 20, 0]
    assert numbers[0] == sum(numbers[1:])
    assert "free it with `curate clean`" in result.stdout


def test_inspect__no_build(tmp_path):
    result = curate("inspect", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path}: no build here" in result.stderr


# explain


def test_explain__kept_by_value_names_source_and_place(tiny):
    text = curate("explain", tiny / "build/tiny", "id=57").stdout
    assert ": kept" in text
    assert "source: input 'people', people.parquet, row 57" in text
    assert "in output 'output': shards/" in text
    assert "values: id = 57, age = 57, lang = 'fr'" in text


def test_explain__dropped_by_value_names_stage_and_reason(tiny):
    text = curate("explain", tiny / "build/tiny", "id=105").stdout
    assert ": dropped" in text
    assert "source: input 'people', people.parquet, row 105" in text
    assert "dropped by stage 'filter': filter" in text


def test_explain__a_row_id_answers_like_its_value(tiny):
    by_value = curate("explain", tiny / "build/tiny", "id=105").stdout
    row_id = by_value.split()[1].rstrip(":")
    assert curate("explain", tiny / "build/tiny", row_id).stdout == by_value


def test_explain__position_is_that_of_the_table(tiny):
    build = open_build(tiny / "build/tiny")
    table = build.table().collect()
    for position in (0, 91, build.rows - 1):
        row = table.row(position, named=True)
        kept = build.explain(row["_row_id"]).fates[0].kept[0]
        assert (kept.place.position, kept.values["id"]) == (position, row["id"])


def test_explain__looks_into_the_other_outputs(two):
    other = open_build(two / "build/held_out").table().collect()["id"][0]
    text = curate("explain", two / "build/train", f"id={other}").stdout
    assert "in output 'held_out'" in text


def test_explain__rows_outside_where_are_not_selected(two):
    text = curate("explain", two / "build/train", "id=95").stdout
    assert ": not selected" in text
    assert "outside `where: age < 90`" in text


def test_explain__synthetic_rows_name_their_parents(two):
    table = open_build(two / "build/train").table().collect()
    made = table.filter(table["_parent_a"].is_not_null()).row(0, named=True)
    text = curate("explain", two / "build/train", made["_row_id"]).stdout
    parent = table.filter(table["_row_id"] == made["_parent_a"]).row(0, named=True)
    assert ": kept (synthetic)" in text
    assert f"made by stage 'smote': a + {made['_mix']:.6g} · (b - a)" in text
    assert f"a: row {made['_parent_a']}, input 'people', people.parquet, row {parent['id']}" in text


def test_explain__many_rows_are_counted(tiny):
    text = curate("explain", tiny / "build/tiny", "lang=is").stdout
    assert text.count(": kept") + text.count(": dropped") == 20
    assert text.splitlines()[-1] == "… and 30 more rows"


def test_explain__never_seen(tiny):
    assert ": never seen" in curate("explain", tiny / "build/tiny", "id=9999").stdout
    assert "row 12345: never seen" in curate("explain", tiny / "build/tiny", "12345").stdout


def test_explain__a_question_that_is_none(tiny):
    result = curate("explain", tiny / "build/tiny", "abc")
    assert (result.exit_code, result.stderr) == (1, "ROW: expected a row id or column=value, got 'abc'\n")
    result = curate("explain", tiny / "build/tiny", "idd=3")
    assert "no column 'idd'; there are id, age, lang, x, pixels" in result.stderr


def test_explain__quarantined_repeats_of_a_key(tmp_path):
    table = pa.concat_tables([people(20), people(1)])
    recipe = RECIPE.replace(
        "{path: data/people.parquet}", "{path: data/people.parquet, key: id, on_bad_rows: quarantine, max_bad: 0.5}"
    )
    assert curate("build", make_project(tmp_path, recipe, table)).exit_code == 0
    text = curate("explain", tmp_path / "build/tiny", "id=0").stdout
    assert "row: quarantined\n  source: input 'people', people.parquet, row 20\n  duplicate key id = 0" in text


def test_explain__says_what_it_could_not_search(tmp_path):
    path = make_project(tmp_path)
    curate("build", path)
    (tmp_path / "data/people.parquet").unlink()
    result = curate("explain", tmp_path / "build/tiny", "age=57")
    assert ": kept" in result.stdout
    assert "note: input 'people': 1 of 1 files were not found" in result.stderr


# methods, schema


def test_methods__lists_all_with_shape(tmp_path):
    result = curate("methods")
    listed = [line.split()[:2] for line in result.stdout.splitlines()[1 : len(METHODS) + 1]]
    assert [name for name, _ in listed] == list(METHODS)
    assert ["smote", "artifact"] in listed
    assert ["temperature", "plan"] in listed


def test_methods__card_has_the_options():
    text = curate("methods", "split").stdout
    assert text.startswith("# split\n")
    assert "| `shares` | required |" in text


def test_methods__unknown_names_the_nearest():
    result = curate("methods", "smoet")
    assert result.exit_code == 2
    assert "no method is called 'smoet'; did you mean 'smote'?" in result.stderr


def test_schema__is_json():
    assert json.loads(curate("schema").stdout)["title"] == "curation recipe"


# report, clean


def test_report__prints_its_path_and_knows_the_inputs(tiny, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny, folder)
    result = curate("report", folder / "build/tiny")
    path = open_build(folder / "build/tiny").manifest.path("report")
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    assert path is not None
    assert "in the input files" in path.read_text("utf-8")


def test_clean__frees_the_work_directory_alone(tmp_path):
    path = make_project(tmp_path)
    curate("build", path)
    assert "would free" in curate("clean", tmp_path / "build/tiny", "--dry-run").stdout
    assert (tmp_path / "build/tiny.work").is_dir()
    result = curate("clean", tmp_path / "build/tiny")
    assert result.stdout.startswith("freed ")
    assert not (tmp_path / "build/tiny.work").exists()
    assert curate("build", path).stdout.startswith("up to date")
    assert "nothing to free" in curate("clean", path).stdout


def test_clean__by_recipe(tmp_path):
    path = make_project(tmp_path, TWO_OUTPUTS)
    curate("build", path)
    assert curate("clean", path).exit_code == 0
    assert not (tmp_path / "build/train.work").exists()


def test_clean__touches_no_other_folder(tmp_path):
    path = make_project(tmp_path)
    curate("build", path)
    result = curate("clean", path, "--work", tmp_path / "data")
    assert result.exit_code == 1
    assert "is no work directory of a build; nothing is removed" in result.stderr
    assert pq.read_table(tmp_path / "data/people.parquet").num_rows == 200
