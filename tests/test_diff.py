"""Differences of two results, and the proof of an erasure, against the same question asked of whole tables."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import diff as module
from curation.api import open as open_build
from curation.diff import diff, erasure, open_side, read_keys
from curation.errors import CurationError
from tests.flow.helpers import people, run, write

RECIPE = """
recipe: 1
name: two
seed: 5
inputs: {{p: {{path: {path}, key: id}}}}
stages:
  - use: filter
    where: "id % 10 <> {left_out}"
  - use: derive
    columns: {{double: "score * {factor}"}}
feed: {{batch_size: 4, epochs: 1, groups: lang}}
output: {{path: {out}, format: {format}, shard_rows: 70}}
"""


def made(folder, out, table=None, *, left_out=3, factor=2, format="arrow", recipe=RECIPE):
    write(folder / out / "data.parquet", people(300) if table is None else table)
    text = recipe.format(
        path=f"{out}/data.parquet", left_out=left_out, factor=factor, out=f"build/{out}", format=format
    )
    run(folder, text, out=out)
    return open_build(folder / "build" / out).manifest


@pytest.fixture(params=[1, 8], ids=["one part", "eight parts"])
def parts(request, monkeypatch):
    monkeypatch.setattr(module, "_parts", lambda rows, row_bytes: request.param)


def changed(table, rows):
    text = [f"new {i}" if i in rows else value for i, value in enumerate(table.column("text").to_pylist())]
    return table.set_column(table.column_names.index("text"), "text", pa.array(text, pa.string()))


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_diff__counts_as_a_join_of_whole_tables_does(tmp_path, parts, format):
    a = made(tmp_path, "a")
    b = made(tmp_path, "b", changed(people(320), range(40, 60)), left_out=4, factor=3, format=format)
    found = diff(a, b)
    left, right = (open_build(side.root).table().collect() for side in (a, b))
    both = left.join(right, on="_row_id", suffix="_b")
    assert found.only_a == left.join(right, on="_row_id", how="anti").height > 0
    assert found.only_b == right.join(left, on="_row_id", how="anti").height > 0
    counts = {name: both.filter(pl.col(name).ne_missing(pl.col(f"{name}_b"))).height for name in ("text", "double")}
    assert found.columns == counts
    assert (
        found.changed
        == both.filter(
            pl.col("text").ne_missing(pl.col("text_b")) | pl.col("double").ne_missing(pl.col("double_b"))
        ).height
    )
    assert found.equal + found.changed + found.only_b == found.rows_b


def test_diff__of_a_result_with_itself_is_nothing(tmp_path):
    a = made(tmp_path, "a")
    found = diff(a, a, examples=3)
    assert (found.only_a, found.only_b, found.changed, found.equal) == (0, 0, 0, a.rows)
    assert found.columns == {}
    assert not any(found.examples.values())
    assert (found.settings, found.stages_only_a, found.notes) == ([], [], [])


def test_diff__names_columns_of_one_side_and_of_another_type(tmp_path):
    other = people(300).drop_columns(["weight"]).append_column("extra", pa.array(range(300)))
    index = other.column_names.index("score")
    other = other.set_column(index, "score", other.column("score").cast(pa.float32()))
    found = diff(made(tmp_path, "a"), made(tmp_path, "b", other))
    assert (found.columns_only_a, found.columns_only_b) == (["weight"], ["extra"])
    assert found.retyped["score"] == ("double", "float")


def test_diff__shows_the_shares_of_groups(tmp_path, parts):
    a, b = made(tmp_path, "a"), made(tmp_path, "b", people(300).slice(0, 100))
    found = diff(a, b)
    counts = [open_build(side.root).table().collect()["lang"].value_counts() for side in (a, b)]
    expected = [dict(each.iter_rows()) for each in counts]
    assert found.group_column == "lang"
    assert {each.group: each.rows_a for each in found.shares} == expected[0]
    assert {each.group: each.rows_b for each in found.shares} == expected[1]
    assert sum(each.share_b for each in found.shares) == pytest.approx(1)
    shifts = [abs(each.share_b - each.share_a) for each in found.shares]
    assert shifts == sorted(shifts, reverse=True)


def test_diff__names_settings_and_stages_that_differ(tmp_path):
    plain = RECIPE.replace(
        '  - use: derive\n    columns: {{double: "score * {factor}"}}\n', "  - {{use: split, shares: {{x: 1}}}}\n"
    )
    plain = plain.replace("output: {{", "output: {{from: split.x, ")
    a, b = made(tmp_path, "a"), made(tmp_path, "b", left_out=4, recipe=plain)
    found = diff(a, b)
    settings = {each.key: (each.a, each.b) for each in found.settings}
    assert settings["stages.filter.where"] == ("id % 10 <> 3", "id % 10 <> 4")
    assert settings["inputs.p.path"] == ("a/data.parquet", "b/data.parquet")
    assert not any(key.startswith("stages.derive") or key == "seed" for key in settings)
    assert (found.stages_only_a, found.stages_only_b) == (["derive"], ["split"])


def test_diff__examples_are_the_rows_with_the_smallest_ids(tmp_path, parts):
    a, b = made(tmp_path, "a"), made(tmp_path, "b", changed(people(300), range(40, 60)), left_out=4)
    found = diff(a, b, examples=2).examples
    left, right = (open_build(side.root).table().collect() for side in (a, b))
    only = left.join(right, on="_row_id", how="anti").sort("_row_id").head(2)
    assert [each.row_id for each in found["only_a"]] == only["_row_id"].to_list()
    assert [each.values["id"] for each in found["only_a"]] == [(i, None) for i in only["id"]]
    both = (
        left.join(right, on="_row_id", suffix="_b").filter(pl.col("text").ne_missing(pl.col("text_b"))).sort("_row_id")
    )
    assert [each.values for each in found["changed"]] == [
        {"text": (row["text"], row["text_b"])} for row in both.head(2).iter_rows(named=True)
    ]


def test_diff__copies_are_rows_of_their_own(tmp_path):
    drawn = RECIPE.replace("feed:", "  - {{use: sample, n: {factor}, replacement: true}}\nfeed:")
    a, b = made(tmp_path, "a", factor=900, recipe=drawn), made(tmp_path, "b", factor=900, left_out=4, recipe=drawn)
    left, right = (open_build(side.root).table().collect() for side in (a, b))
    found = diff(a, b)
    assert left.filter(pl.col("_copy") > 2).height
    assert found.only_a == left.join(right, on=["_row_id", "_copy"], how="anti").height


def test_diff__says_where_ids_are_places(tmp_path):
    placed = RECIPE.replace(", key: id", "")
    a, b = made(tmp_path, "a", recipe=placed), made(tmp_path, "b", people(300).slice(5), recipe=placed)
    assert "input 'p' has no `key` and its files differ" in diff(a, b).notes[0]
    assert diff(a, a).notes == []


@pytest.mark.parametrize("rows", [(0, 300), (300, 0), (0, 0)], ids=str)
def test_diff__of_empty_results(tmp_path, rows):
    a, b = (made(tmp_path, name, people(300).slice(0, n)) for name, n in zip("ab", rows, strict=True))
    found = diff(a, b, examples=1)
    assert (found.only_a, found.only_b, found.changed) == (a.rows, b.rows, 0)


def test_open_side__takes_a_generation_by_its_id(tmp_path):
    first = made(tmp_path, "a")
    made(tmp_path, "a", left_out=4)
    assert open_side(f"{first.root}@{first.build_id}").content == first.content
    assert open_side(str(first.root)).build_id != first.build_id
    with pytest.raises(CurationError, match="no generation 'abc' stands here"):
        open_side(f"{first.root}@abc")


# Erasure

GONE = [7, 11, 12, 250]


def without(table, ids):
    return table.filter(pa.compute.invert(pa.compute.is_in(table.column("id"), pa.array(ids, pa.int64()))))


def listed(folder, ids=GONE):
    path = folder / "gone.csv"
    pl.DataFrame({"id": [*ids, 9999]}).write_csv(path)
    return path


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.replace(", key: id", "")], ids=["keyed", "by place"])
@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_erasure__holds_where_the_rows_alone_are_gone(tmp_path, parts, recipe, format):
    a = made(tmp_path, "a", recipe=recipe)
    b = made(tmp_path, "b", without(people(300), GONE), recipe=recipe, format=format)
    found = erasure(a, b, listed(tmp_path), "id")
    assert (found.keys, found.found, found.listed_a) == (5, 4, 4)
    assert (found.listed_b, found.missing, found.added, found.holds) == (0, 0, 0, True)


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.replace(", key: id", "")], ids=["keyed", "by place"])
def test_erasure__fails_where_a_row_is_left(tmp_path, parts, recipe):
    a = made(tmp_path, "a", recipe=recipe)
    b = made(tmp_path, "b", without(people(300), GONE[1:]), recipe=recipe)
    found = erasure(a, b, listed(tmp_path), "id")
    assert (found.listed_b, found.missing, found.holds) == (1, 0, False)


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.replace(", key: id", "")], ids=["keyed", "by place"])
def test_erasure__fails_where_another_row_is_lost(tmp_path, parts, recipe):
    a = made(tmp_path, "a", recipe=recipe)
    b = made(tmp_path, "b", without(people(301), [*GONE, 100]), recipe=recipe)
    found = erasure(a, b, listed(tmp_path), "id")
    assert (found.listed_b, found.missing, found.added, found.holds) == (0, 1, 1, False)


def test_erasure__fails_where_the_row_hides_behind_another_key(tmp_path):
    a = made(tmp_path, "a")
    renames = "  - {{use: rename, columns: {{id: was}}}}\n"
    renames += "  - {{use: derive, name: new, columns: {{id: 'was + 1000'}}}}\n"
    hides = RECIPE.replace("feed:", renames + "feed:")
    found = erasure(a, made(tmp_path, "b", recipe=hides), listed(tmp_path), "id")
    assert (found.listed_b, found.renamed_b, found.holds) == (0, 4, False)


SMOTE = """
recipe: 1
name: made
seed: 5
inputs: {{p: {{path: {path}, key: id}}}}
stages:
  - {{use: smote, label: lang, features: [x], target: {{is: 90}}, k: 3}}
output: {{path: {out}}}
"""


def test_erasure__synthetic_rows_with_an_erased_parent_must_go(tmp_path):
    a = made(tmp_path, "a", recipe=SMOTE)
    table = open_build(a.root).table().collect()
    children = table.filter(pl.col("_parent_a").is_not_null())
    parent = children["_parent_a"][0]
    gone = [table.filter(pl.col("_row_id") == parent)["id"][0]]
    expected = children.filter((pl.col("_parent_a") == parent) | (pl.col("_parent_b") == parent)).height
    found = erasure(a, a, listed(tmp_path, gone), "id")
    assert (found.listed_b, found.derived_a, found.derived_b, found.holds) == (1, expected, expected, False)
    b = made(tmp_path, "b", without(people(300), gone), recipe=SMOTE)
    found = erasure(a, b, listed(tmp_path, gone), "id")
    assert (found.listed_b, found.derived_b) == (0, 0)


def test_erasure__names_what_may_still_hold_the_rows(tmp_path):
    a = made(tmp_path, "a")
    b = made(tmp_path, "a", without(people(300), GONE))
    found = erasure(open_side(f"{a.root}@{a.build_id}"), b, listed(tmp_path), "id")
    assert found.holds
    assert f"keeps other generations, which may hold the rows: {a.build_id}" in found.notes[0]


@pytest.mark.parametrize(
    ("kind", "keys", "expected"),
    [
        (pa.int64(), ["7", "", "7", "12"], [7, 12]),
        (pa.large_string(), ["007", "7"], ["007", "7"]),
        (pa.float64(), ["1.5"], [1.5]),
    ],
    ids=str,
)
def test_keys__are_read_as_the_type_of_the_column(tmp_path, kind, keys, expected):
    (tmp_path / "l.csv").write_text("any\n" + "\n".join(f'"{key}"' if key else "" for key in keys) + "\n")
    pq.write_table(pa.table({"k": [key or None for key in keys], "x": keys}), tmp_path / "l.parquet")
    assert sorted(read_keys(tmp_path / "l.csv", "k", kind).to_pylist()) == expected
    assert sorted(read_keys(tmp_path / "l.parquet", "k", kind).to_pylist()) == expected


SHAPES = {
    "a,b\n1,2\n": r"expected the column 'id', or one column alone, got \['a', 'b'\]",
    "id\nx\n": "are not of the type of 'id', int64",
}


@pytest.mark.parametrize(("text", "error"), SHAPES.items())
def test_keys__of_another_shape_are_refused(tmp_path, text, error):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(CurationError, match=error):
        read_keys(tmp_path / "l.csv", "id", pa.int64())


def test_keys__of_no_file_are_refused(tmp_path):
    with pytest.raises(CurationError, match="cannot be read as a list of keys"):
        read_keys(tmp_path / "none.csv", "id", pa.int64())


def test_erasure__of_no_column_is_refused(tmp_path):
    a = made(tmp_path, "a")
    with pytest.raises(CurationError, match="no column 'idd'; --on names a column of both results"):
        erasure(a, a, listed(tmp_path), "idd")


@pytest.mark.parametrize(("rows", "expected"), [(0, 1), (1000, 1), (3_000_000, 8), (10**10, 256)])
def test_parts__are_powers_of_two_of_bounded_size(rows, expected):
    assert module._parts(rows, 80) == expected
