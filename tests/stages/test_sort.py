"""Outputs behind a sort hold their rows in order, shard after shard; where the order cannot reach, it is said why."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from curation.errors import RecipeError
from curation.flow import sorting
from curation.flow.bind import bind
from curation.flow.estimate import estimate
from curation.io.manifest import read_manifest
from curation.methods.sort import Sort
from curation.recipe.load import load_recipe
from curation.stages.base import BindError
from tests.flow.helpers import people, read, run
from tests.stages.hands import stage_of
from tests.stages.tables import lay_out, made, opened, recipe_of, same_by_all, stage_account

BY = [{"use": "sort", "by": ["lang", "-score", "text"]}]


@pytest.fixture
def small(monkeypatch):
    """Runs of few rows and samples of few keys, so that small tables have many."""
    monkeypatch.setattr("curation.flow.output.RUN_BYTES", 500)
    monkeypatch.setattr(sorting, "SAMPLE", 4)


def holes(rows, seed):
    """A table with ties, NULL, NaN and both signs of zero."""
    rng = np.random.default_rng(seed)
    real = rng.choice([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan], rows)
    return pa.table(
        {
            "id": np.arange(rows),
            "n": pa.array([None if v == 0 else int(v) for v in rng.integers(-3, 4, rows)], pa.int32()),
            "x": pa.array(real, mask=rng.random(rows) < 0.1),
            "t": pa.array([None if v == 0 else "a\0b"[: int(v) - 1] for v in rng.integers(0, 5, rows)]),
        }
    )


def by_polars(table, *by):
    """Rows in the order that polars gives them, ties by row id."""
    names, down = [*(name for name, _ in by), "_row_id"], [*(d for _, d in by), False]
    return pl.DataFrame(table).sort(names, descending=down, nulls_last=True)["id"].to_list()


@pytest.mark.parametrize("shard_rows", [7, 50, 1000])
@pytest.mark.parametrize(
    "by", [[("n", False), ("x", True), ("t", False)], [("t", True), ("n", True)], [("x", False)]], ids=str
)
def test_sort__agrees_with_polars(tmp_path, small, by, shard_rows):
    table = holes(150, seed=len(by))
    stage = {"use": "sort", "by": [f"-{name}" if down else name for name, down in by]}
    found = made(tmp_path, {"rows": table}, [stage], shard_rows=shard_rows)
    assert found.column("id").to_pylist() == by_polars(found, *by)
    sizes = [shard.rows for shard in read_manifest(tmp_path / "out").shards]
    assert sizes == [shard_rows] * (150 // shard_rows) + [150 % shard_rows] * bool(150 % shard_rows)


@pytest.mark.parametrize(("order", "down"), [("n", False), ("-n", True)])
def test_output_order__a_column_sorts_without_a_stage(tmp_path, small, order, down):
    found = made(tmp_path, {"rows": holes(60, 1)}, [], order=order, shard_rows=16)
    assert found.column("id").to_pylist() == by_polars(found, ("n", down))


def test_sort__changes_no_row_and_balances(tmp_path):
    found = made(tmp_path, {"rows": people(40)}, BY)
    assert sorted(found.column("id").to_pylist()) == list(range(40))
    assert stage_account(tmp_path, "sort") == (40, 0, 40, {})


def test_sort__reaches_an_output_through_stages_that_keep_its_columns(tmp_path, small):
    stages: list[dict[str, Any]] = [
        *BY,
        {"use": "filter", "where": "id > 5"},
        {"use": "rename", "columns": {"lang": "score", "score": "lang"}},
        {"use": "derive", "columns": {"more": "id * 2"}},
        {"use": "select", "columns": ["score", "lang", "text", "id"]},
        {"use": "split", "shares": {"a": 0.7, "b": 0.3}},
    ]
    outputs = {part: {"from": f"split.{part}", "path": f"out/{part}", "shard_rows": 9} for part in "ab"}
    lay_out(tmp_path, {"rows": people(60)})
    run(tmp_path, recipe_of({"rows": {}}, stages, outputs))
    for part in "ab":
        found = read(tmp_path / "out" / part)
        assert found.column("id").to_pylist() == by_polars(found, ("score", False), ("lang", True), ("text", False))


def test_sort__keeps_copies_in_order(tmp_path, small):
    drawn = {"use": "sample", "fraction": 2.0, "replacement": True}
    stages: list[dict[str, Any]] = [drawn, {"use": "sort", "by": ["lang"]}]
    found = made(tmp_path, {"rows": people(30)}, stages, shard_rows=8)
    places = list(zip(*(found.column(n).to_pylist() for n in ("lang", "_row_id", "_copy")), strict=True))
    assert places == sorted(places)


def test_sort__the_last_of_two_counts(tmp_path):
    found = made(tmp_path, {"rows": people(30)}, [BY[0] | {"name": "first"}, {"use": "sort", "by": ["-id"]}])
    assert found.column("id").to_pylist() == list(range(29, -1, -1))


@pytest.mark.parametrize("rows", [0, 1])
def test_sort__takes_tables_of_few_rows(tmp_path, rows):
    assert made(tmp_path, {"rows": people(rows)}, BY).num_rows == rows


def test_sort__explains_rows_where_they_stand(tmp_path, small):
    made(tmp_path, {"rows": people(30)}, [{"use": "sort", "by": ["-id"]}, {"use": "filter", "where": "id <> 4"}])
    kept, dropped = (opened(tmp_path).explain(f"id={i}").fates[0] for i in (29, 4))
    assert (kept.verdict, dropped.dropped[0].stage) == ("kept", "filter")


SORT: dict[str, Any] = {"name": "s", "use": "sort", "from": "a", "by": ["lang"]}


@pytest.mark.parametrize(
    ("after", "output", "text"),
    [
        ([{"use": "select", "drop": ["lang"]}], {}, r"stages\[0\]: .* ends at stage 'select', which does not"),
        ([{"use": "derive", "columns": {"lang": "'x'"}}], {}, "ends at stage 'derive'"),
        ([{"use": "concat", "from": ["s", "b"]}], {}, "ends at stage 'concat', which puts its rows together"),
        ([], {"order": "shuffled"}, "got shuffled, but the output reads from a stage `sort`"),
        ([], {"from": "b"}, r"stages\[0\]: no output reads from it"),
        ([], {"order": "langu"}, "no column 'langu'"),
        ([], {"order": "-x"}, "column 'x' is fixed_size_list.*, whose values have no order"),
    ],
)  # fmt: skip
def test_sort__says_where_the_order_ends(tmp_path, after, output, text):
    lay_out(tmp_path, {"a": people(5), "b": people(5)})
    with pytest.raises(RecipeError, match=text):
        run(tmp_path, recipe_of({"a": {}, "b": {}}, [SORT, *after], **output))


@pytest.mark.parametrize(
    ("stages", "order", "text"),
    [([SORT], {}, r"outputs.one.feed: a feed visits rows"), ([], {"order": "lang"}, "a feed visits rows")],
    ids=["stage", "order"],
)
def test_sort__a_feed_is_refused(tmp_path, stages, order, text):
    lay_out(tmp_path, {"a": people(5)})
    feed = {"batch_size": 2, "epochs": 1}
    with pytest.raises(RecipeError, match=text):
        run(tmp_path, recipe_of({"a": {}}, stages, {"one": {"path": "out", "feed": feed} | order}))


@pytest.mark.parametrize(
    ("by", "text"), [("langu", "no column 'langu'"), ("x", "'x' is .*, whose values have no order")]
)
def test_sort__refuses_columns_without_order(by, text):
    with pytest.raises(BindError, match=text):
        stage_of("sort", Sort(by=[by]), people(1).schema)


def test_sort__reads_nothing_beyond_what_is_wanted():
    assert stage_of("sort", Sort(by=["lang"]), people(1).schema).needs(frozenset(["id"])) == {"id"}


def test_sort__states_more_memory_for_keys_than_a_shuffle_takes(tmp_path):
    lay_out(tmp_path, {"rows": people(50)})
    needs = []
    for order in ("shuffled", "lang"):
        path = tmp_path / f"{order}.yaml"
        path.write_text(recipe_of({"rows": {}}, [], order=order))
        needs.append({line.phase: line.memory for line in estimate(bind(load_recipe(path)))})
    assert all(needs[1][phase] > needs[0][phase] for phase in ("output: scatter", "output: shards"))


def test_sort__leaves_the_same_bytes_by_every_executor(tmp_path, small):
    recipe = recipe_of({"rows": {"key": "id"}}, BY, shard_rows=16, format="parquet")
    same_by_all(tmp_path, {"rows": people(80)}, recipe)


def test_sort__leaves_the_same_bytes_by_runs_of_any_size(tmp_path, monkeypatch):
    found = []
    for size in (1, 3000, 1 << 30):
        monkeypatch.setattr("curation.flow.output.RUN_BYTES", size)
        made(tmp_path / str(size), {"rows": people(80)}, BY, shard_rows=16)
        found.append(read_manifest(tmp_path / str(size) / "out").content["shards"])
    assert found[0] == found[1] == found[2]
