"""What trainers ask of the loader beside order: reading ahead, forms of columns, weights, pictures, evaluation."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import threading
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import curation
from curation.errors import CurationError
from curation.feed import FeedError, FeedOptions, Loader, Plan, ShardSet, write_plan
from curation.io.manifest import NAME
from tests.cli.project import RECIPE, TWO_OUTPUTS, make_project, people
from tests.feed.test_loader import EXPECTED, SHARD_ROWS, ids, same, table, write_shards


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A finished build of 180 rows in 4 shards; do not change it."""
    recipe = RECIPE.replace("build/tiny}", "build/tiny, shard_rows: 50}")
    return curation.build(make_project(tmp_path_factory.mktemp("ahead"), recipe))


@pytest.fixture
def own(tmp_path):
    """A build that a test may change."""
    return curation.build(make_project(tmp_path, RECIPE.replace("build/tiny}", "build/tiny, shard_rows: 50}")))


def whole(build):
    return ids(build.loader(columns=["id"]))


# Reading ahead


@pytest.mark.parametrize("prefetch", [1, 3, 100])
def test_prefetch__gives_the_same_batches(build, prefetch):
    with build.loader(columns=["id"], prefetch=prefetch) as loader:
        assert ids(loader) == whole(build)


def test_prefetch__state_counts_what_was_handed_out(build):
    with build.loader(columns=["id"], prefetch=5) as loader:
        list(islice(loader, 4))
        state = loader.state_dict()
    assert state["step"] == 4
    ranks = [build.loader(r, 3, ["id"], prefetch=2) for r in range(3)]
    for rank in ranks:
        rank.load_state_dict(state)
    assert [list(chain(*parts)) for parts in zip(*map(ids, ranks), strict=True)] == whole(build)[4:]


def test_prefetch__a_state_that_is_loaded_drops_what_was_read_ahead(build):
    with build.loader(columns=["id"], prefetch=3) as loader:
        first = next(loader)["id"].tolist()
        loader.load_state_dict(loader.state_dict() | {"step": 0})
        assert next(loader)["id"].tolist() == first


class Failing(ShardSet):
    """Shards that fail at one row as long as they are told to."""

    row = -1

    def take(self, positions, columns=None, as_="numpy"):
        if self.row in positions:
            raise OSError("the disk is gone")
        return super().take(positions, columns, as_)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_prefetch__an_error_comes_at_its_batch_and_can_be_tried_again(tmp_path, prefetch):
    write_plan(tmp_path / "plan.json", options=FeedOptions(10, 1), groups=[(None, 100)], seed=1, name="t")
    plan, shards = Plan.open(tmp_path), Failing(write_shards(tmp_path, "arrow"), SHARD_ROWS)
    shards.row = int(plan.batch(2)[0])
    with Loader(plan, shards, columns=["id"], prefetch=prefetch) as loader:
        good = ids(islice(loader, 2))
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)
        assert loader.state_dict()["step"] == 2
        shards.row = -1
        assert good + ids(loader) == [plan.batch(step).tolist() for step in range(10)]


def test_close__ends_the_threads_of_a_consumer_that_stops_early(build):
    before = threading.active_count()
    with build.loader(prefetch=4) as loader:
        next(loader)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_next__threads_share_a_loader(build):
    loader, found = build.loader(columns=["id"], prefetch=2), []
    threads = [threading.Thread(target=lambda: found.extend(ids(loader))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loader.close()
    assert sorted(map(sorted, found)) == sorted(map(sorted, whole(build)))


def test_loader__goes_to_another_process_with_its_place(build):
    loader = build.loader(columns=["id"], prefetch=2)
    next(loader)
    assert ids(pickle.loads(pickle.dumps(loader))) == whole(build)[1:]
    loader.close()


# Epochs


def test_set_epoch__gives_epoch_after_epoch(build):
    loader = build.loader(columns=["id"])
    parts = []
    for epoch in range(build.plan.epochs):
        loader.set_epoch(epoch)
        parts += ids(loader)
        assert len(loader) == build.plan.steps_per_epoch
    assert parts == whole(build)


def test_set_epoch__goes_on_in_the_middle_after_a_state(build):
    loader = build.loader(columns=["id"])
    step = build.plan.first_step(1) + 3
    loader.load_state_dict(loader.state_dict() | {"step": step})
    loader.set_epoch(loader.epoch)
    assert ids(loader) == whole(build)[step:]


# Columns


@pytest.mark.parametrize("form", ["arrow", "parquet"])
@pytest.mark.parametrize("column", EXPECTED)
def test_as_arrow__holds_the_rows_in_the_order_asked(tmp_path, form, column):
    shards = ShardSet(write_shards(tmp_path, form), SHARD_ROWS, form)
    positions = np.array([99, 0, 57, 57, 33, 32, 73, 7, 98, 1])
    found = shards.take(positions, [column], "arrow")[column]
    dtype, value = EXPECTED[column]
    assert isinstance(found, pa.Array) == (dtype is object)
    if dtype is object:
        assert found.type == table().schema.field(column).type
        assert found.to_pylist() == [value(i) for i in positions.tolist()]
    else:
        assert all(same(one, value(i)) for one, i in zip(found.tolist(), positions.tolist(), strict=True)) or (
            found.dtype.kind == "M"
        )
    assert len(shards.take(np.empty(0, np.int64), [column], "arrow")[column]) == 0


def test_weights_and_keys__are_those_of_the_plan(build):
    batch = next(build.loader(1, 2, ["id"], weights=True, keys=True))
    assert list(batch) == ["id", "_weight_factor", "_draw_key"]
    np.testing.assert_array_equal(batch["_weight_factor"], build.plan.batch_weights(0, 1, 2))
    np.testing.assert_array_equal(batch["_draw_key"], build.plan.batch_keys(0, 1, 2))


def test_parquet__bytes_are_read_by_their_places(tmp_path):
    values = [None if i % 9 == 0 else bytes([i % 256]) * (i % 40) for i in range(200)]
    data = pa.table({"id": np.arange(200), "age": np.full(200, 20), "raw": values})
    recipe = RECIPE.partition("stages")[0] + (
        "feed: {batch_size: 16, epochs: 1}\noutput: {path: out, format: parquet, shard_rows: 60}\n"
    )
    build = curation.build(make_project(tmp_path, recipe, data))
    for as_ in ("numpy", "arrow"):
        for batch in build.loader(columns=["id", "raw"], as_=as_):
            assert [values[i] for i in batch["id"]] == list(batch["raw"].tolist())


def picture(size, color, mode="RGB"):
    with io.BytesIO() as to:
        Image.new(mode, size, color).save(to, "PNG")
        return to.getvalue()


@pytest.fixture
def pictures(tmp_path):
    values = [picture((3, 2), (i, 0, 9)) for i in range(20)] + [picture((1, 4), 7, "L"), None, b"no picture"]
    data = pa.table({"id": np.arange(len(values)), "image": pa.array(values, pa.binary())})
    recipe = RECIPE.partition("stages")[0] + "output: {path: out, order: input}\n"
    return curation.build(make_project(tmp_path, recipe, data))


def test_decode__gives_rgb_arrays(pictures):
    loader = pictures.loader(evaluate=True, batch_size=22, decode={"image": "pillow"}, prefetch=2)
    with loader:
        batch = next(loader)
    assert [None if each is None else each.shape for each in batch["image"][18:]] == [(2, 3, 3)] * 2 + [(4, 1, 3), None]
    assert batch["image"][5].dtype == np.uint8
    assert batch["image"][5][0, 0].tolist() == [5, 0, 9]


def test_decode__names_the_row_that_is_no_picture(pictures):
    loader = pictures.loader(evaluate=True, batch_size=50, decode={"image": "pillow"})
    with pytest.raises(FeedError, match="column 'image', row 22: cannot be decoded as a picture"):
        next(loader)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        ({"id": "pillow"}, "expected a column of bytes, got 'id' of type int64"),
        ({"image": "magick"}, "expected pillow for 'image', got 'magick'"),
        ({"nothing": "pillow"}, "expected columns that are read, got 'nothing'"),
    ],
)
def test_decode__refuses(pictures, decode, message):
    with pytest.raises(FeedError, match=f"decode: {message}"):
        pictures.loader(evaluate=True, batch_size=5, decode=decode)


# Evaluation


@pytest.mark.parametrize("world_size", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [1, 16, 64, 1000])
def test_evaluate__every_row_once_in_order(build, world_size, batch_size):
    ranks = [build.loader(r, world_size, ["_row_id"], evaluate=True, batch_size=batch_size) for r in range(world_size)]
    assert {len(rank) for rank in ranks} == {-(-180 // batch_size)}
    found = [np.concatenate([part["_row_id"] for part in parts]) for parts in zip(*ranks, strict=True)]
    assert np.concatenate(found).tolist() == build.table().collect()["_row_id"].to_list()


def test_evaluate__of_an_output_without_a_feed_resumes(tmp_path):
    held_out = curation.build(make_project(tmp_path, TWO_OUTPUTS)).outputs["held_out"]
    loader = held_out.loader(evaluate=True, batch_size=8, columns=["id"])
    first = ids(islice(loader, 2))
    again = held_out.loader(evaluate=True, batch_size=8, columns=["id"])
    again.load_state_dict(loader.state_dict())
    assert list(chain(*first, *ids(again))) == held_out.table().collect()["id"].to_list()


def test_evaluate__has_the_batch_size_of_the_plan_by_default(build):
    assert len(next(build.loader(evaluate=True))["id"]) == 16


# Refusals before the first batch


def shard_of(build, number=1):
    return build.path / build.manifest.shards[number].path


def test_loader__refuses_a_shard_of_another_size(own):
    with shard_of(own).open("ab") as file:
        file.write(b"more")
    with pytest.raises(FeedError, match=r"part-00001\.arrow: expected \d+ bytes by the manifest, got"):
        own.loader()


def test_loader__refuses_a_shard_that_is_missing(own):
    shard_of(own).unlink()
    with pytest.raises(FeedError, match=r"part-00001\.arrow: expected a shard, got No such file"):
        own.loader()


def test_verify__refuses_a_byte_that_has_changed(own):
    path = shard_of(own)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(FeedError, match=r"part-00001\.arrow: expected the xxh3 [0-9a-f]{32}, got"):
        own.loader(verify=True)


def test_loader__refuses_offsets_that_leave_the_shard(tmp_path):
    """A damaged length must not read what is not ours."""
    (path,) = write_shards(tmp_path, "arrow", [100])
    data = bytearray(path.read_bytes())
    with pa.memory_map(str(path)) as source:
        offsets = pa.ipc.open_file(source).get_batch(0).column("blob").buffers()[1].to_pybytes()[:44]
    at = data.index(offsets)
    data[at + 8 : at + 12] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(FeedError, match="row 1: its value does not lie in its shard"):
        ShardSet([path], [100]).take(np.array([0, 1]), ["blob"])


def test_loader__refuses_a_later_manifest(own):
    path = own.path / NAME
    path.write_text(path.read_text("utf-8").replace('"format":1', '"format":99'), "utf-8")
    with pytest.raises(CurationError, match="format 99, this version reads up to 1; upgrade curation"):
        curation.open(own.path).loader()


def test_loader__refuses_the_plan_of_other_groups(own, tmp_path):
    """As many rows, but other languages have them."""
    data = people()
    lang = pa.array(["xx" if each == "en" and i % 3 else each for i, each in enumerate(data["lang"].to_pylist())])
    recipe = make_project(tmp_path / "other", RECIPE, data.set_column(2, "lang", lang))
    other = curation.build(recipe)
    theirs, ours = (Path(str(each.manifest.path("plan"))).parent for each in (other, own))
    for file in theirs.glob("plan*"):
        (ours / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FeedError, match=r"plan: expected row \d+ to be of group '\w+' of lang, got '\w+'"):
        curation.open(own.path).loader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 0}, "rank: expected 0 <= rank < world_size, got rank 0 of 0"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 <= rank < world_size, got rank 2 of 2"),
        ({"columns": ["idd"]}, "columns: expected columns of the shards, got 'idd'; did you mean 'id'"),
        ({"prefetch": -1}, "prefetch: expected a number of batches >= 0, got -1"),
        ({"as_": "pandas"}, "as_: expected numpy or arrow, got 'pandas'"),
        ({"batch_size": 3}, "batch_size: expected none, got 3; the plan says it"),
        ({"evaluate": True, "batch_size": 0}, "batch_size: expected >= 1, got 0"),
        ({"evaluate": True, "epoch": 1}, "epoch: expected 0, got 1; an evaluation is one pass"),
        ({"cache_dir": "x"}, "cache_dir: expected a build in a store"),
    ],
)
def test_loader__refuses(build, options, message):
    with pytest.raises(CurationError, match=message):
        build.loader(**options)


def test_feed__does_not_import_torch():
    code = "import curation.feed, curation.feed.source, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
