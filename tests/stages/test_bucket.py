"""Buckets become columns: no size no bucket, rows above the last edge stay or go, only the sizes are read."""

from typing import Any

import pyarrow as pa
import pytest

from curation.errors import BuildError
from curation.methods.bucket import AspectBuckets, Bucket, LengthBuckets
from curation.stages.base import BindError
from curation.types import ids_of
from tests.flow.helpers import people, read, run, write
from tests.stages.hands import rows_of, stage_of

SIDES: dict[str, Any] = {"w": [1000, 300, None, 64, 50], "h": [800, 900, 5, None, 500]}
EDGES = [2, 8, 16]


def by_aspect(add=(), **options):
    return Bucket(aspect=AspectBuckets(width="w", height="h", add=list(add), **options))


def by_length(column="n", *, over="keep", into="bucket"):
    return Bucket(length=LengthBuckets(column=column, edges=EDGES, over=over), into=into)


def applied(params, table):
    stage = stage_of("bucket", params, table.schema)
    found = stage.apply(table, None)
    assert found.tables[""].select(stage.bind(table.schema).names).schema == stage.bind(table.schema)
    return found


def buckets(params, column="bucket", **columns):
    return applied(params, rows_of(len(next(iter(columns.values()))), **columns)).tables[""].column(column).to_pylist()


def test_bucket__of_an_aspect_is_the_nearest():
    assert buckets(by_aspect(), **SIDES) == ["1152x896", "576x1792", None, None, "512x2048"]


def test_bucket__adds_the_columns_asked():
    table = applied(by_aspect(["crop", "width", "height"]), rows_of(5, **SIDES)).tables[""]
    assert table.column_names[-3:] == ["bucket_crop", "bucket_width", "bucket_height"]
    assert table.column("bucket_width").to_pylist() == [1152, 576, None, None, 512]
    assert table.column("bucket_height").to_pylist() == [896, 1792, None, None, 2048]
    crop = [1 - (1000 * 896) / (800 * 1152), 1 - (576 * 900) / (300 * 1792)]
    assert table.column("bucket_crop").to_pylist()[:4] == [
        pytest.approx(abs(crop[0])),
        pytest.approx(crop[1]),
        None,
        None,
    ]


def test_bucket__without_upscaling_is_of_a_smaller_area_or_none():
    found = buckets(by_aspect(["crop"], no_upscale=True), **SIDES)
    assert found == ["768x640", "192x640", None, None, None]
    assert buckets(by_aspect(["crop"], no_upscale=True), "bucket_crop", **SIDES)[2:] == [None] * 3


@pytest.mark.parametrize("kind", [pa.int16(), pa.uint64(), pa.dictionary(pa.int8(), pa.int32())])
def test_bucket__of_every_integer_is_the_same(kind):
    width = pa.array(SIDES["w"], pa.int32())
    width = width.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else width.cast(kind)
    assert buckets(by_aspect(), w=width, h=SIDES["h"]) == buckets(by_aspect(), **SIDES)


@pytest.mark.parametrize("bad", [0, -3])
def test_bucket__of_a_size_below_one_ends_the_build_naming_the_row(bad):
    row = ids_of(rows_of(2))[1]
    with pytest.raises(BuildError, match=f"stage 'here', column 'h', row id {row}: expected a size >= 1, got {bad}"):
        buckets(by_aspect(), w=[1, 1], h=[1, bad])


def test_bucket__of_a_length_is_the_first_edge_that_holds_it():
    found = buckets(by_length(), n=[0, 2, 3, 8, 16, 17, None, -1])
    assert found == ["<=02", "<=02", "<=08", "<=08", "<=16", ">16", None, "<=02"]


def test_bucket__of_a_length_beyond_signed_integers():
    assert buckets(by_length(), n=pa.array([1, 2**64 - 1, None], pa.uint64())) == ["<=02", ">16", None]


TEXTS = ["", "é…", "abc", None, "x" * 17]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_bucket__of_a_text_counts_characters(kind):
    assert buckets(by_length("t"), t=pa.array(TEXTS).cast(kind)) == ["<=02", "<=02", "<=08", None, ">16"]


@pytest.mark.parametrize("kind", [pa.list_(pa.int8()), pa.large_list(pa.string())])
def test_bucket__of_a_list_counts_its_values(kind):
    assert buckets(by_length("t"), t=pa.array([[], [None] * 3, None], kind)) == ["<=02", "<=08", None]


def test_bucket__of_fixed_lists_is_one():
    assert buckets(by_length("t"), t=pa.array([[1, 2, 3], None], pa.list_(pa.int8(), 3))) == ["<=08", None]


def test_bucket__of_growing_edges():
    params = Bucket(length=LengthBuckets(column="n", growth=2.0, min=50, max=150))
    assert buckets(params, n=[50, 51, 150, 151]) == ["<=050", "<=100", "<=150", ">150"]


def test_bucket__drops_what_is_too_long_if_asked():
    table = rows_of(4, n=[1, 17, None, 99])
    found = applied(by_length(over="drop"), table)
    assert found.tables[""].column("bucket").to_pylist() == ["<=02", None]
    assert [(drop.reason, drop.row_id.tolist()) for drop in found.drops] == [
        ("longer than the last bucket", ids_of(table)[[1, 3]].tolist())
    ]


def test_bucket__has_no_drops_where_nothing_is_too_long():
    assert applied(by_length(over="drop"), rows_of(2, n=[1, None])).drops == ()


@pytest.mark.parametrize("params", [by_aspect(["width", "height", "crop"]), by_aspect(no_upscale=True), by_length("w")])
def test_bucket__of_no_rows_and_of_nulls_has_all_columns(params):
    for rows in (0, 3):
        nothing = pa.nulls(rows, pa.int64())
        found = applied(params, rows_of(rows, w=nothing, h=nothing)).tables[""]
        assert found.column("bucket").null_count == found.num_rows == rows


def test_bucket__needs_the_sizes_if_a_bucket_is_wanted():
    table = rows_of(1, w=[1], h=[1], n=[1])
    aspect = stage_of("bucket", by_aspect(["crop"]), table.schema)
    assert aspect.needs(frozenset(["bucket_crop", "x"])) == {"w", "h", "x"}
    assert aspect.needs(frozenset(["w"])) == {"w"}
    assert stage_of("bucket", by_length(), table.schema).needs(frozenset(["x"])) == {"x"}
    half = table.select(["w", "_row_id"])
    assert aspect.apply(half, None).tables[""] is half


def test_bucket__that_drops_always_needs_the_length():
    stage = stage_of("bucket", by_length(over="drop"), rows_of(1, n=[1]).schema)
    assert stage.needs(frozenset(["x"])) == {"n", "x"}


@pytest.mark.parametrize(
    ("params", "path", "message"),
    [
        (by_length("m"), ("length", "column"), "no column 'm'"),
        (by_length("f"), ("length", "column"), "column 'f' is double, expected an integer, text or a list"),
        (by_length(into="x"), ("into",), "column 'x' is there already"),
        (by_length(into="_copy"), ("into",), "'_copy' is used by the build itself"),
        (
            Bucket(aspect=AspectBuckets(width="w", height="f")),
            ("aspect", "height"),
            "'f' is double, expected an integer$",
        ),
        (Bucket(aspect=AspectBuckets(width="w", height="x", add=["crop"]), into="y"), ("into",), "'y_crop' is there"),
    ],
)
def test_bucket__refuses(params, path, message):
    schema = rows_of(1, w=[1], n=[1], x=[1], f=[0.5], y_crop=[1]).schema
    with pytest.raises(BindError, match=message) as caught:
        stage_of("bucket", params, schema)
    assert [fault.path for fault in caught.value.faults] == [path]


def test_bucket__gives_the_feed_its_groups(tmp_path):
    write(tmp_path / "data/a.parquet", people(200))
    recipe = (
        "recipe: 1\nname: lengths\nseed: 1\ninputs: {a: {path: data, key: id}}\noutput: {path: out}\nstages:\n"
        '  - {use: filter, where: "text is not null"}\n'
        "  - {use: bucket, length: {column: text, edges: [7, 8], over: drop}, into: size}\n"
        "feed: {batch_size: 8, epochs: 2, groups: size}\n"
    )
    run(tmp_path, recipe)
    table = read(tmp_path / "out").to_pydict()
    texts = [text for text in people(200).column("text").to_pylist() if text and len(text) <= 8]
    assert sorted(table["text"]) == sorted(texts)
    assert table["size"] == ["<=7" if len(text) <= 7 else "<=8" for text in table["text"]]
    assert table["size"] == sorted(table["size"])  # groups lie together
