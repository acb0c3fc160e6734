from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import curation
from curation.api import parse_bytes
from curation.feed import FeedError, ShardSet
from tests.cli.project import RECIPE, TWO_OUTPUTS, make_project


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return curation.build(make_project(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return curation.build(make_project(tmp_path_factory.mktemp("two"), TWO_OUTPUTS))


def test_build__gives_an_open_result(tiny):
    assert (tiny.rows, tiny.path.name) == (180, "tiny")
    assert tiny.schema.names == ["id", "age", "lang", "x", "pixels", "_row_id"]
    assert tiny.manifest.content["name"] == "tiny"


def test_open__is_what_build_gave(tiny):
    assert curation.open(tiny.path).manifest.content == tiny.manifest.content


def test_open__no_build(tmp_path):
    with pytest.raises(curation.CurationError, match="no build here"):
        curation.open(tmp_path)


def test_open__survives_a_change_of_directory(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.path.parent)
    build = curation.open("tiny")
    monkeypatch.chdir(tmp_path)
    assert build.table().collect().height == 180


def test_table__row_i_is_position_i_of_the_plan(tiny):
    table = tiny.table().collect()
    positions = tiny.plan.rows(0, 0, 16)
    batch = next(tiny.loader(columns=["id"]))
    np.testing.assert_array_equal(batch["id"], table["id"].to_numpy()[positions])


def test_loader__ranks_share_a_batch(tiny):
    whole = next(tiny.loader(columns=["id"]))["id"]
    parts = [next(tiny.loader(rank, 2, columns=["id"]))["id"] for rank in (0, 1)]
    assert sorted(np.concatenate(parts)) == sorted(whole)


def test_loader__one_epoch(tiny):
    assert len(tiny.loader(epoch=1)) == tiny.plan.steps_per_epoch


def test_ledger__lists_what_was_dropped(tiny):
    ledger = tiny.ledger().collect()
    assert ledger.columns == ["row_id", "copy", "stage", "reason", "instead"]
    assert ledger.select("stage", "reason").unique().rows() == [("filter", "filter")]
    assert ledger.height == 20


def test_plan__without_a_feed(two):
    with pytest.raises(curation.CurationError, match="no plan, since its recipe has no `feed:`"):
        _ = two.plan


def test_plan__of_no_rows(tmp_path):
    recipe = RECIPE.replace("age >= 10", "age > 1000").replace("expect:\n  - {min_rows: 5}\n", "")
    build = curation.build(make_project(tmp_path, recipe))
    with pytest.raises(curation.CurationError, match="no plan, since it has no rows"):
        _ = build.plan
    assert build.table().collect().shape == (0, 6)


def test_outputs__name_all_builds(two):
    assert set(two.outputs) == {"train", "held_out"}
    assert two.path.name == "train"
    assert two.outputs["held_out"].rows + two.outputs["train"].rows > 180
    assert set(curation.open(two.outputs["held_out"].path).outputs) == {"train", "held_out"}


def test_build__returns_the_output_that_is_asked_for(two):
    recipe = two.path.parents[1] / "recipe.yaml"
    assert curation.build(recipe, output="held_out").path.name == "held_out"
    with pytest.raises(curation.CurationError, match="output: expected one of train, held_out, got 'test'"):
        curation.build(recipe, output="test")


def test_build__takes_overrides_and_another_place(tmp_path):
    recipe = make_project(tmp_path / "project")
    build = curation.build(recipe, out=tmp_path / "there", overrides=["stages.0.where=age >= 50"], memory="2GB")
    assert (build.rows, build.path) == (100, tmp_path / "there")


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_build__refuses_a_share_that_is_none(share, tmp_path):
    with pytest.raises(curation.CurationError, match=r"sample: expected a share in \(0, 1\]"):
        curation.build(make_project(tmp_path), sample=share)


def test_explain__a_row(tiny):
    found = tiny.explain("id=5")
    assert [(fate.verdict, fate.dropped[0].stage) for fate in found.fates] == [("dropped", "filter")]


def test_repr__says_what_it_is(tiny):
    assert repr(tiny) == f"<Build tiny/output: 180 rows, 6 columns, 1 shards in {tiny.path}, with a plan>"
    assert "<caption><b>tiny / output</b>" in tiny._repr_html_()


def test_repr_html__is_escaped(tmp_path):
    recipe = make_project(tmp_path, RECIPE.replace("name: tiny", "name: <script>x</script>"))
    assert "<script>" not in curation.build(recipe)._repr_html_()


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 << 30), ("1.5 GiB", 3 << 29), ("512mb", 512 << 20), ("7k", 7 << 10), ("1000", 1000)]
)
def test_parse_bytes__reads_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "4 giraffes"])
def test_parse_bytes__refuses_the_rest(text):
    with pytest.raises(curation.CurationError, match="expected a size such as 4GB"):
        parse_bytes(text)


def test_curation__has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = curation.biuld
    assert {"build", "open", "Build"} <= set(dir(curation))
    assert Path(curation.__file__).name == "__init__.py"


def test_loader__of_exact_times_with_nulls_and_of_views(tmp_path):
    table = pa.table(
        {
            "at": pa.array([1, None, 3], pa.timestamp("ns")),
            "far": pa.array([10**7, None, 0], pa.int32()).cast(pa.date32()),
            "text": pa.array(["a", None, "c"], pa.string_view()),
            "blob": pa.array([b"a", b"b", b"c"], pa.binary_view()),
            "words": pa.array([["a"], None, []], pa.list_(pa.string_view())),
            "record": pa.array([{"at": 1}, None, {"at": 2}], pa.struct([("at", pa.timestamp("ns"))])),
        }
    )
    with pa.ipc.new_file(str(tmp_path / "part.arrow"), table.schema) as writer:
        writer.write_table(table)
    shards = ShardSet([tmp_path / "part.arrow"], [3])
    rows = shards.take(np.array([2, 1, 0, 0]), ["at", "far", "text", "blob", "words"])
    first, second = np.datetime64(1, "ns"), np.datetime64(3, "ns")
    assert rows["at"].tolist() == [second, None, first, first]
    assert rows["at"][0].dtype == "datetime64[ns]"
    assert rows["far"].tolist() == [np.datetime64(0, "D"), None, *[np.datetime64(10**7, "D")] * 2]
    assert rows["text"].tolist() == ["c", None, "a", "a"]
    assert rows["blob"].tolist() == [b"c", b"b", b"a", b"a"]
    assert rows["words"].tolist() == [[], None, ["a"], ["a"]]
    with pytest.raises(FeedError, match=r"column 'record' .* holds a value that Python cannot"):
        shards.take(np.array([0]), ["record"])
