"""Stages that touch columns alone: derive, select, rename, and what they do to each other."""

import pyarrow as pa
import pytest

from curation.methods.derive import Derive
from curation.methods.rename import Rename
from curation.methods.select import Select
from curation.stages import make_stage
from curation.stages.base import BindError
from tests.flow.helpers import people, read, run, write
from tests.stages.hands import rows_of, stage_of

TABLE = rows_of(3, a=[1, 2, None], b=["x", None, "z"])
HEAD = "recipe: 1\nname: columns\nseed: 1\ninputs: {a: {path: data}}\noutput: {path: out}\nstages:\n"


def bound(use, params, schema=TABLE.schema):
    return make_stage(use, "here", params, 0).bind(schema)


def built(folder, stages):
    write(folder / "data/a.parquet", people(40))
    run(folder, HEAD + stages)
    return read(folder / "out")


# derive


def test_derive__reads_columns_as_they_come_in():
    stage = stage_of("derive", Derive(columns={"a": "a + 10", "c": "a * 2"}), TABLE.schema)
    table = stage.apply(TABLE, None).tables[""]
    assert table.column("a").to_pylist() == [11, 12, None]
    assert table.column("c").to_pylist() == [2, 4, None]


def test_derive__puts_new_columns_behind_the_old_and_before_ours():
    schema = bound("derive", Derive(columns={"c": "a * 2", "b": "a > 1"}))
    assert schema.names == ["a", "b", "c", "_row_id"]
    assert [schema.field(name).type for name in "bc"] == [pa.bool_(), pa.int64()]


def test_derive__needs_what_wanted_columns_are_made_of():
    stage = stage_of("derive", Derive(columns={"c": "a", "d": "b", "b": "a"}), TABLE.schema)
    assert stage.needs(frozenset(["c"])) == {"a"}
    assert stage.needs(frozenset(["d", "b"])) == {"a", "b"}
    assert stage.needs(frozenset(["a"])) == {"a"}


def test_derive__skips_what_nobody_wants():
    stage = stage_of("derive", Derive(columns={"c": "a", "d": "b"}), TABLE.schema)
    assert stage.apply(TABLE.select(["b", "_row_id"]), None).tables[""].column_names == ["b", "_row_id", "d"]


def test_derive__of_a_constant_reads_nothing(tmp_path):
    table = built(tmp_path, '  - {use: derive, columns: {c: "7"}}\n  - {use: select, columns: [c]}\n')
    assert table.column("c").to_pylist() == [7] * 40


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"c": "x + 1"}, "x"),
        ({"c": "now()"}, "clock|time|moment"),
        ({"_row_id": "a"}, "'_row_id' is used by the build itself"),
    ],
)
def test_derive__refuses(columns, message):
    with pytest.raises(BindError, match=message):
        bound("derive", Derive(columns=columns))


def test_derive__reports_every_fault():
    with pytest.raises(BindError, match="x") as caught:
        bound("derive", Derive(columns={"c": "x", "_copy": "a", "d": "y"}))
    assert sorted(fault.path for fault in caught.value.faults) == [("columns", n) for n in ("_copy", "c", "d")]


# select


def test_select__keeps_columns_in_the_order_asked_and_ours():
    assert bound("select", Select(columns=["b", "a"])).names == ["b", "a", "_row_id"]


def test_select__drops_columns_but_not_ours():
    assert bound("select", Select(drop=["a", "_row_id"])).names == ["b", "_row_id"]


def test_select__names_the_nearest_column():
    schema = pa.schema([("caption", pa.string()), ("score", pa.float64())])
    with pytest.raises(BindError, match="no column 'scores'") as caught:
        bound("select", Select(columns=["caption", "scores"]), schema)
    assert [(f.path, f.hint) for f in caught.value.faults] == [(("columns", 1), "did you mean 'score'?")]


def test_select__keeps_metadata():
    assert bound("select", Select(drop=["a"]), TABLE.schema.with_metadata({"k": "v"})).metadata == {b"k": b"v"}


# rename


def test_rename__changes_names_and_nothing_else():
    table = stage_of("rename", Rename(columns={"a": "c"}), TABLE.schema).apply(TABLE, None).tables[""]
    assert table.column_names == ["c", "b", "_row_id"]
    assert table.column("c").equals(TABLE.column("a"))


def test_rename__can_swap_names():
    stage = stage_of("rename", Rename(columns={"a": "b", "b": "a"}), TABLE.schema)
    assert stage.apply(TABLE, None).tables[""].column("a").equals(TABLE.column("b"))
    assert stage.needs(frozenset(["a"])) == {"b"}


def test_rename__keeps_nullability_and_metadata_of_fields():
    field = pa.field("a", pa.int8(), nullable=False, metadata={"unit": "m"})
    new = bound("rename", Rename(columns={"a": "c"}), pa.schema([field])).field("c")
    assert new.equals(field.with_name("c"), check_metadata=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"z": "c"}, "no column 'z'"),
        ({"a": "b"}, "two columns would be named 'b'"),
        ({"a": "_copy"}, "'_copy' is used by the build itself"),
        ({"_row_id": "a2"}, "'_row_id' is a column of the build itself"),
    ],
)
def test_rename__refuses(columns, message):
    with pytest.raises(BindError, match=message):
        bound("rename", Rename(columns=columns))


# together


def test_dropped__column_that_was_read_gives_its_name_away(tmp_path):
    stages = '  - {use: filter, where: "score > 0"}\n  - {use: select, drop: [score]}\n'
    table = built(tmp_path, stages + "  - {use: rename, columns: {weight: score}}\n")
    weights = dict(zip(people(40).column("id").to_pylist(), people(40).column("weight").to_pylist(), strict=True))
    assert table.column("score").to_pylist() == [weights[i] for i in table.column("id").to_pylist()]


def test_unselected__constant_gives_its_name_away(tmp_path):
    stages = '  - {use: derive, columns: {d: "1"}}\n  - {use: select, columns: [score]}\n'
    table = built(tmp_path, stages + "  - {use: rename, columns: {score: d}}\n")
    assert table.column("d").to_pylist() == people(40).column("score").to_pylist()
