"""Exports hold the rows of the plan in its order, appear whole, and are written once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curation
from curation.engine.lock import held
from curation.errors import CurationError
from curation.io import remote
from tests.cli.project import curate
from tests.export.project import expected, make_build, mixed, npy, read_mds, read_tars
from tests.flow.helpers import digest_tree


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return make_build(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def drawn(build):
    """Rows that the first two epochs draw; some come twice."""
    return expected(build, range(build.plan.first_step(2)))


def ids(folder, reader=pq.read_table):
    return [i for path in sorted(folder.glob("part-*")) for i in reader(path)["id"].to_pylist()]


def read_arrow(path):
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def test_plan__the_rows_of_the_tests_come_more_than_once(drawn):
    assert len({row["id"] for row in drawn}) < len(drawn) == 60


# Formats


def test_webdataset__holds_every_value(build, drawn, tmp_path):
    build.export(tmp_path / "out", "webdataset", epochs=(0, 2), shard_rows=25)
    samples = read_tars(tmp_path / "out")
    assert len(samples) == len(drawn)
    for sample, row in zip(samples, drawn, strict=True):
        rest = json.loads(sample["json"])
        assert rest["id"] == row["id"]
        assert (rest["score"], rest["good"], rest["maybe"], rest["more"]) == tuple(
            row[name] for name in ("score", "good", "maybe", "more")
        )
        assert rest["when"].startswith(row["when"].isoformat(sep=" "))
        assert sample.get("note.txt", b"").decode() == (row["note"] or "")
        assert int(sample["cls"]) == row["cls"]
        assert npy(sample["tokens.npy"]) == row["tokens"]
        assert npy(sample["latent.npy"]) == row["latent"]


def test_webdataset__pictures_have_the_suffix_of_their_first_bytes(build, drawn, tmp_path):
    build.export(tmp_path / "out", "webdataset", epochs=(0, 2), columns=["picture"])
    found = [next(iter(sample.items())) for sample in read_tars(tmp_path / "out")]
    suffix = {0x89: "picture.png", 0xFF: "picture.jpg"}
    assert found == [(suffix[row["picture"][0]], row["picture"]) for row in drawn]


def test_webdataset__keys_differ_where_a_row_comes_twice(build, tmp_path):
    build.export(tmp_path / "out", "webdataset", epochs=(0, 2), columns=["id"], shard_rows=13)
    assert [len(sample) for sample in read_tars(tmp_path / "out")] == [1] * 60


def test_webdataset__is_read_back_by_our_own_input(build, drawn, tmp_path):
    build.export(tmp_path / "out", "webdataset", epochs=(0, 2), columns=["lang", "cls"])
    head = "recipe: 1\nname: back\nseed: 1\ninputs: {rows: {path: out/*.tar}}\nstages: []\noutput: {path: back}\n"
    (tmp_path / "recipe.yaml").write_text(head, "utf-8")
    table = curation.build(tmp_path / "recipe.yaml").table().collect()
    assert table["lang.txt"].to_list() == [row["lang"] for row in drawn]
    assert table["cls"].to_list() == [row["cls"] for row in drawn]


def test_mds__holds_every_value(build, drawn, tmp_path):
    build.export(tmp_path / "out", "mds", epochs=(0, 2), shard_rows=25)
    samples = read_mds(tmp_path / "out")
    assert len(samples) == len(drawn)
    for sample, row in zip(samples, drawn, strict=True):
        assert sample.pop("when").startswith(str(row["when"]))
        assert sample == {name: row[name] for name in sample}


def test_mds__a_column_with_null_is_json(build, tmp_path):
    build.export(tmp_path / "out", "mds", epochs=(0, 1), columns=["id", "maybe", "note", "good"])
    shard = json.loads((tmp_path / "out/index.json").read_text("utf-8"))["shards"][0]
    assert dict(zip(shard["column_names"], shard["column_encodings"], strict=True)) == {
        "good": "uint8",
        "id": "int64",
        "maybe": "json",
        "note": "json",
    }


def test_parquet__keeps_types_and_order(build, drawn, tmp_path):
    build.export(tmp_path / "out", "parquet", epochs=(0, 2), shard_rows=25)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet")))
    assert table.schema.remove_metadata().equals(build.schema.remove_metadata())
    assert table.to_pylist() == drawn


def test_arrow__keeps_types_and_order(build, drawn, tmp_path):
    build.export(tmp_path / "out", "arrow", epochs=(0, 2), shard_rows=25)
    table = pa.concat_tables(read_arrow(path) for path in sorted((tmp_path / "out").glob("*.arrow")))
    assert table.schema.equals(build.schema.remove_metadata())
    assert table.to_pylist() == drawn


# What is exported


def test_rows__of_parquet_shards_come_in_the_same_order(build, drawn, tmp_path):
    other = make_build(tmp_path / "parquet", form="parquet")
    other.export(tmp_path / "out", "parquet", epochs=(0, 2))
    rows = [i for step in range(other.plan.first_step(2)) for i in other.plan.batch(step).tolist()]
    assert ids(tmp_path / "out") == other.table().collect()["id"].gather(rows).to_list()


def test_steps__count_over_the_training(build, tmp_path):
    build.export(tmp_path / "out", "parquet", steps=(3, 11))
    assert ids(tmp_path / "out") == [row["id"] for row in expected(build, range(3, 11))]


def test_steps__with_epochs_are_those_in_both(build, tmp_path):
    build.export(tmp_path / "out", "parquet", epochs=(1, 2), steps=(0, 7))
    assert ids(tmp_path / "out") == [row["id"] for row in expected(build, range(5, 7))]


def test_stored__is_every_row_once_in_the_order_of_the_shards(build, tmp_path):
    build.export(tmp_path / "out", "parquet", order="stored", shard_rows=17)
    assert ids(tmp_path / "out") == build.table().collect()["id"].to_list()
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("*.parquet"))] == [17, 17, 17, 9]


def test_stored__is_what_a_build_without_a_plan_gives(tmp_path):
    make_build(tmp_path, feed=False).export(tmp_path / "out", "arrow")
    assert ids(tmp_path / "out", read_arrow) == mixed()["id"].to_pylist()


def test_mark__says_epoch_and_step_of_every_row(build, tmp_path):
    build.export(tmp_path / "out", "parquet", epochs=(1, 3), mark=True, shard_rows=4)
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet")))
    steps = [step for step in range(5, 15) for _ in build.plan.batch(step)]
    assert table["_step"].to_pylist() == steps
    assert table["_epoch"].to_pylist() == [step // 5 for step in steps]


# Places


def test_export__is_the_same_bytes_every_time(build, tmp_path):
    for form in ("webdataset", "mds", "parquet", "arrow"):
        for name in ("a", "b"):
            build.export(tmp_path / name / form, form, epochs=(0, 2), shard_rows=25)
    assert digest_tree(tmp_path / "a") == digest_tree(tmp_path / "b")


def test_export__a_second_time_writes_nothing(build, tmp_path):
    first = build.export(tmp_path / "out", "mds", epochs=(0, 1))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    second = build.export(tmp_path / "out", "mds", epochs=(0, 1))
    assert (first.fresh, second.fresh, second.content) == (False, True, first.content)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_export__leaves_another_export_alone(build, tmp_path):
    build.export(tmp_path / "out", "arrow", epochs=(0, 1))
    before = digest_tree(tmp_path / "out")
    with pytest.raises(CurationError, match=r"expected no export, got one with steps \[0, 5\] instead of \[0, 10\]"):
        build.export(tmp_path / "out", "arrow", epochs=(0, 2))
    assert digest_tree(tmp_path / "out") == before


def test_export__leaves_a_folder_of_somebody_alone(build, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(CurationError, match="got one with files"):
        build.export(tmp_path, "arrow", epochs=(0, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    """A build with a NULL for the last picture, and one inside of the last list."""
    made = make_build(tmp_path_factory.mktemp("gaps"), feed=False)
    folder, table = Path(str(made.path)).parent, mixed().select(["id", "picture", "tokens"])
    pictures, tokens = (table[name].to_pylist()[:-1] for name in ("picture", "tokens"))
    table = table.set_column(1, "picture", pa.array([*pictures, None]))
    pq.write_table(table.set_column(2, "tokens", pa.array([*tokens, [1, None]])), folder / "rows.parquet")
    return curation.build(folder / "recipe.yaml")


def test_export__that_fails_on_its_way_leaves_nothing(gaps, tmp_path):
    with pytest.raises(
        CurationError, match="webdataset: column 'tokens' holds a NULL inside a list; leave the column out"
    ):
        gaps.export(tmp_path / "out", "webdataset", shard_rows=10)
    assert not list(tmp_path.iterdir())


def test_mds__bytes_with_null_are_refused(gaps, tmp_path):
    with pytest.raises(CurationError, match="mds: column 'picture' of bytes holds a NULL"):
        gaps.export(tmp_path / "out", "mds")


def test_mds__lists_with_a_gap_are_json(gaps, tmp_path):
    gaps.export(tmp_path / "out", "mds", columns=["tokens"])
    assert read_mds(tmp_path / "out")[-1] == {"tokens": [1, None]}


def test_webdataset__has_no_member_for_a_missing_picture(gaps, tmp_path):
    gaps.export(tmp_path / "out", "webdataset", columns=["id", "picture"])
    assert [len(sample) for sample in read_tars(tmp_path / "out")] == [2] * 59 + [1]


def test_webdataset__loses_no_row_of_which_nothing_is_there(gaps, tmp_path):
    gaps.export(tmp_path / "out", "webdataset", columns=["picture"])
    samples = read_tars(tmp_path / "out")
    assert (len(samples), samples[-1]) == (60, {"json": b"{}"})


def test_export__that_was_killed_is_begun_anew(build, drawn, tmp_path):
    rest = tmp_path / ".tmp-out"
    rest.mkdir()
    (rest / "part-000099.parquet").write_bytes(b"half")
    build.export(tmp_path / "out", "parquet", epochs=(0, 2))
    assert ids(tmp_path / "out") == [row["id"] for row in drawn]
    assert not rest.exists()


def test_export__waits_for_nobody(build, tmp_path):
    with held(tmp_path / ".tmp-out"), pytest.raises(CurationError, match="held by another"):
        build.export(tmp_path / "out", "arrow", epochs=(0, 1))


def test_export__with_a_shard_cut_short_is_refused(build, tmp_path):
    build.export(tmp_path / "out", "arrow", epochs=(0, 1))
    (tmp_path / "out/part-000000.arrow").write_bytes(b"")
    with pytest.raises(CurationError, match="expected whole shards"):
        build.export(tmp_path / "out", "arrow", epochs=(0, 1))


def test_store__holds_the_same_files_and_a_part_is_begun_anew(build, bucket, tmp_path):
    build.export(tmp_path / "out", "mds", epochs=(0, 1), shard_rows=10)
    url = f"{bucket.url}/e"
    for name in (".tmp-export.json", "shard.00099.mds"):
        remote.put_bytes(b"{}", f"{url}/{name}")
    assert not build.export(url, "mds", epochs=(0, 1), shard_rows=10).fresh
    assert build.export(url, "mds", epochs=(0, 1), shard_rows=10).fresh
    found = {name: remote.read_bytes(f"{url}/{name}") for name in remote.sizes(url)}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_store__with_files_of_somebody_is_refused(build, bucket):
    remote.put_bytes(b"mine", f"{bucket.url}/e/mine")
    with pytest.raises(CurationError, match="expected nothing below it, got 'mine'"):
        build.export(f"{bucket.url}/e", "arrow", epochs=(0, 1))


@pytest.mark.parametrize("options", [{"epochs": (0, 1)}, {"order": "stored"}])
def test_store__a_build_in_one_is_exported_as_a_local_one_is(build, bucket, tmp_path, options):
    root = Path(str(build.path))
    for path in (each for each in root.rglob("*") if each.is_file()):
        remote.put_file(path, f"{bucket.url}/b/{path.relative_to(root)}")
    build.export(tmp_path / "local", "parquet", **options)
    curation.open(f"{bucket.url}/b").export(tmp_path / "fetched", "parquet", **options)
    assert digest_tree(tmp_path / "local") == digest_tree(tmp_path / "fetched")


# Refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "epochs: expected some of the 4 epochs"),
        ({"epochs": (2, 2)}, "expected 0 <= start < stop <= 4, got 2:2"),
        ({"epochs": (0, 5)}, "expected 0 <= start < stop <= 4, got 0:5"),
        ({"steps": (0, 21)}, "expected 0 <= start < stop <= 20, got 0:21"),
        ({"epochs": (0, 1), "steps": (5, 9)}, "expected some of 0:5, the steps of epochs 0:1, got 5:9"),
        ({"order": "stored", "epochs": (0, 1)}, "expected plan with epochs"),
        ({"epochs": (0, 1), "columns": ["idd"]}, "expected columns of the build, got 'idd'"),
        ({"epochs": (0, 1), "columns": ["id", "id"]}, "each once"),
        ({"epochs": (0, 1), "shard_rows": 0}, "shard_rows: expected >= 1"),
    ],
)
def test_options__that_do_not_fit_are_refused(build, tmp_path, options, says):
    with pytest.raises(CurationError, match=says):
        build.export(tmp_path / "out", "arrow", **options)
    assert not list(tmp_path.iterdir())


# Command


def test_command__exports_and_says_so(build, tmp_path):
    args = ("export", build.path, "--epochs", "0:2", "--format", "webdataset", "--out", tmp_path / "out")
    first, second = curate(*args), curate(*args)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.startswith("exported 60 rows in 1 file (webdataset, ")
    assert second.stdout.startswith("up to date: 60 rows in 1 file (webdataset, ")


def test_command__takes_columns_and_marks(build, tmp_path):
    args = ("--steps", "2:4", "--format", "parquet", "--columns", "id,lang", "--mark", "--shard-rows", "5")
    assert curate("export", build.path, *args, "--out", tmp_path / "out").exit_code == 0
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("*.parquet"))] == [5, 5, 4]
    assert pq.read_schema(tmp_path / "out/part-000000.parquet").names == ["id", "lang", "_epoch", "_step"]


def test_command__a_stretch_that_is_none_is_a_mistake_of_usage(build, tmp_path):
    result = curate("export", build.path, "--epochs", "3", "--format", "mds", "--out", tmp_path / "out")
    assert (result.exit_code, "expected START:STOP such as 0:3, got '3'" in result.stderr) == (2, True)


def test_source__order_is_not_that_of_the_shards(build, drawn):
    stored = build.table().collect()["id"].to_list()
    assert not np.array_equal([row["id"] for row in drawn], (stored * 2)[: len(drawn)])
