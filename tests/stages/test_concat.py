"""Rows of several tables in one: by column name, with types that hold all values, every row told from every other."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from curation.errors import BuildError, RecipeError
from curation.methods.concat import Concat
from curation.stages import make_stage
from curation.stages.base import BindError, Coming
from tests.flow.helpers import people, run
from tests.stages.tables import lay_out, made, opened, recipe_of, same_by_all, stage_account

BOTH = [{"use": "concat", "from": ["a", "b"]}]
A = pa.table({"n": pa.array([1, 2, None], pa.int32()), "word": ["x", "y", None]})
B = pa.table({"word": pa.array(["z", None], pa.large_string()), "n": pa.array([2**40, 4]), "more": [0.5, 1.5]})


def bound(*schemas, disjoint=True, **options):
    """Schema that goes out of a stage that is bound to what comes in."""
    return make_stage("concat", "both", Concat(**options), 0).bind_all(Coming(schemas, {}, disjoint))[""]


def test_concat__holds_all_rows_by_name_with_nulls_where_a_column_lacks(tmp_path):
    found = made(tmp_path, {"a": A, "b": B}, BOTH).drop_columns(["_row_id"])
    assert found.schema == pa.schema([("n", pa.int64()), ("word", pa.large_string()), ("more", pa.float64())])
    frames = [pl.DataFrame(A).cast({"n": pl.Int64}), pl.DataFrame(B)]
    assert found.to_pylist() == pl.concat(frames, how="diagonal").to_dicts()


def test_concat__balance_counts_the_rows_of_all_tables(tmp_path):
    made(tmp_path, {"a": A, "b": B}, BOTH)
    assert stage_account(tmp_path, "concat") == (5, 0, 5, {})


def test_concat__equal_keys_of_two_inputs_are_two_rows(tmp_path):
    table = pa.table({"id": [1, 2, 3]})
    found = made(tmp_path, {"a": table, "b": table}, BOTH, inputs={"a": {"key": "id"}, "b": {"key": "id"}})
    assert len(set(found.column("_row_id").to_pylist())) == 6
    assert "_copy" not in found.column_names


def test_concat__parts_of_a_split_come_together_without_copies(tmp_path):
    stages: list[dict[str, Any]] = [
        {"use": "split", "shares": {"x": 0.5, "y": 0.5}},
        {"use": "concat", "from": ["split.x", "split.y"]},
    ]
    found = made(tmp_path, {"a": people(60)}, stages)
    assert sorted(found.column("id").to_pylist()) == list(range(60))
    assert "_copy" not in found.column_names


def test_concat__a_row_that_comes_in_twice_is_two_copies(tmp_path):
    stages: list[dict[str, Any]] = [
        {"name": "few", "use": "filter", "from": "a", "where": "n > 1"},
        {"use": "concat", "from": ["a", "few"]},
    ]
    found = made(tmp_path, {"a": A}, stages)
    pairs = sorted(zip(found.column("n").to_pylist(), found.column("_copy").to_pylist(), strict=True), key=str)
    assert pairs == [(1, 0), (2, 0), (2, 1), (None, 0)]


def test_concat__copies_of_drawn_rows_stay_apart(tmp_path):
    drawn = {"use": "sample", "fraction": 2.0, "replacement": True}
    stages = [{"name": "one", "from": "a"} | drawn, {"name": "two", "from": "a"} | drawn]
    stages.append({"use": "concat", "from": ["one", "two"]})
    found = made(tmp_path, {"a": people(30)}, stages)
    rows = list(zip(found.column("_row_id").to_pylist(), found.column("_copy").to_pylist(), strict=True))
    assert len(set(rows)) == len(rows) == 120


def test_concat__adds_empty_lineage_to_rows_that_have_none(tmp_path):
    grow = {"use": "smote", "from": "a", "label": "lang", "features": ["x"], "target": {"is": 20}, "k": 2}
    found = made(tmp_path, {"a": people(60), "b": people(5)}, [grow, {"use": "concat", "from": ["smote", "b"]}])
    assert found.column("_origin").null_count == 65
    assert found.num_rows == 65 + 13


@pytest.mark.parametrize("rows", [0, 1])
def test_concat__takes_tables_of_few_rows(tmp_path, rows):
    found = made(tmp_path, {"a": A.slice(0, rows), "b": B.slice(0, rows)}, BOTH)
    assert found.num_rows == 2 * rows


def test_concat__explains_a_row_that_is_dropped_after_it(tmp_path):
    made(tmp_path, {"a": A, "b": B}, [*BOTH, {"use": "filter", "where": "n > 1"}])
    assert [(fate.verdict, fate.dropped[0].stage) for fate in opened(tmp_path).explain("n=1").fates] == [
        ("dropped", "filter")
    ]


def test_concat__reads_only_columns_that_are_wanted():
    stage = make_stage("concat", "both", Concat(), 0)
    stage.bind_all(Coming((A.schema, B.schema), {}))
    wanted = {"": frozenset(["more", "n"])}
    assert [stage.needs_from(i, wanted) for i in (0, 1)] == [{"n"}, {"more", "n"}]


def test_concat__strict_refuses_a_column_that_one_lacks():
    with pytest.raises(BindError, match="column 'more': expected in every table"):
        bound(A.schema, B.schema, columns="strict")


def test_concat__strict_lets_our_own_columns_differ():
    copied = pa.schema([("n", pa.int8()), ("_row_id", pa.uint64()), ("_copy", pa.uint32())])
    assert bound(copied, copied.remove(2), columns="strict") == copied


def test_concat__names_column_and_both_types_that_do_not_meet(tmp_path):
    lay_out(tmp_path, {"a": A, "b": B.set_column(1, "n", pa.array(["4", "5"]))})
    with pytest.raises(RecipeError, match=r"stages\[0\].from: column 'n': expected one type, got int32 and string"):
        run(tmp_path, recipe_of({"a": {}, "b": {}}, BOTH))


def test_concat__exact_ends_at_a_number_without_an_equal_double(tmp_path):
    whole, real = pa.table({"n": [1, 2**53 + 1]}), pa.table({"n": [0.5]})
    with pytest.raises(BuildError, match=r"table 1 of `from`: column 'n': .*9007199254740993 has no equal double"):
        made(tmp_path, {"a": whole, "b": real}, [BOTH[0] | {"exact": True}])


def test_concat__another_type_in_one_table_is_other_work_for_all():
    stages = [make_stage("concat", "both", Concat(), 0) for _ in range(2)]
    for stage, kind in zip(stages, (pa.int32(), pa.int64()), strict=True):
        stage.bind_all(Coming((pa.schema([("n", pa.int32())]), pa.schema([("n", kind)])), {}))
    assert stages[0].key("concat") != stages[1].key("concat")


def test_concat__leaves_the_same_bytes_by_every_executor(tmp_path):
    stages: list[dict[str, Any]] = [
        {"use": "split", "from": "a", "shares": {"x": 0.4, "y": 0.6}},
        {"use": "concat", "from": ["split.y", "b", "split.x"]},
    ]
    recipe = recipe_of({"a": {"key": "id"}, "b": {}}, stages, shard_rows=16)
    assert same_by_all(tmp_path, {"a": people(80), "b": people(30)}, recipe)
