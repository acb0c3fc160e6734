"""The loader: the rows of the plan, whole, in order, from any state and for any number of ranks."""

from __future__ import annotations

import datetime as dt
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.feed import FeedError, FeedOptions, Loader, Plan, ShardSet, write_plan
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2

N = 100
SHARD_ROWS = [33, 40, 27]
GROUPS = [("a", 60), ("b", 40)]


def table():
    """Row i holds i in every column, in one way or another."""
    i = np.arange(N)
    pixels = pa.array(np.repeat(i, 6).astype(np.float32))
    square = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pixels, 3), 2)
    return pa.table(
        {
            "id": pa.array(i),
            "half": pa.array(i.astype(np.float16)),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(i, 4).astype(np.float32)), 4),
            "square": square,
            "odd": pa.array(i % 2 == 1),
            "when": pa.array(i, pa.timestamp("ms")),
            "day": pa.array(i.astype(np.int32), pa.date32()),
            "text": pa.array([f"row {k}" for k in i]),
            "blob": pa.array([bytes([k]) * (k + 1) for k in i.tolist()]),
            "word": pa.array([f"w{k % 3}" for k in i]).dictionary_encode(),
            "tokens": pa.array([list(range(k % 5)) for k in i], pa.list_(pa.int32())),
            "maybe": pa.array([None if k % 7 == 0 else k for k in i.tolist()]),
            "maybe_text": pa.array([None if k % 7 == 0 else str(k) for k in i.tolist()]),
            "maybe_list": pa.array([None if k == 99 else [k, k] for k in i.tolist()], pa.list_(pa.int64(), 2)),
            "record": pa.array([{"x": k, "y": None} for k in i.tolist()]),
        }
    )


EXPECTED: dict[str, tuple[Any, Any]] = {
    "id": (np.int64, lambda i: i),
    "half": (np.float16, lambda i: i),
    "features": (np.float32, lambda i: [i] * 4),
    "square": (np.float32, lambda i: [[i] * 3] * 2),
    "odd": (np.bool_, lambda i: i % 2 == 1),
    "when": ("datetime64[ms]", lambda i: np.datetime64(i, "ms")),
    "day": ("datetime64[D]", lambda i: np.datetime64(i, "D")),
    "text": (object, lambda i: f"row {i}"),
    "blob": (object, lambda i: bytes([i]) * (i + 1)),
    "word": (object, lambda i: f"w{i % 3}"),
    "tokens": (object, lambda i: list(range(i % 5))),
    "maybe": (object, lambda i: None if i % 7 == 0 else i),
    "maybe_text": (object, lambda i: None if i % 7 == 0 else str(i)),
    "maybe_list": (object, lambda i: None if i == 99 else [i, i]),
    "record": (object, lambda i: {"x": i, "y": None}),
}


def write_shards(path, form, rows=tuple(SHARD_ROWS), data=None):
    data = table() if data is None else data
    paths, start = [], 0
    path.mkdir(exist_ok=True)
    for k, n in enumerate(rows):
        part = data.slice(start, n)
        file = path / f"part-{k:05d}.{form}"
        if form == "arrow":
            with pa.ipc.new_file(str(file), part.schema) as writer:
                writer.write_table(part, max_chunksize=10)
        else:
            pq.write_table(part, file, row_group_size=10)
        paths.append(file)
        start += n
    return paths


@pytest.fixture(scope="module", params=["arrow", "parquet"])
def shards(request, tmp_path_factory):
    paths = write_shards(tmp_path_factory.mktemp(request.param), request.param)
    return ShardSet(paths, SHARD_ROWS, request.param, max_open=2, cache_bytes=4000)


OPTIONS = {
    "mixture": FeedOptions(batch_size=16, epochs=3, groups="g", mixture=Cooldown()),
    "rs2": FeedOptions(batch_size=16, epochs=5, subset=RS2(fraction=0.3, tail="short")),
    "drop last": FeedOptions(batch_size=16, epochs=2, drop_last=True),
}


@pytest.fixture(params=OPTIONS)
def plan(request, tmp_path):
    write_plan(tmp_path / "plan.json", options=OPTIONS[request.param], groups=GROUPS, seed=7, name="t")
    return Plan.open(tmp_path)


def same(value, expected):
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return value == (expected.item() if isinstance(expected, np.datetime64) else expected)


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


# columns


@pytest.mark.parametrize("column", EXPECTED)
def test_take__gives_every_type_in_the_order_asked(shards, column):
    positions = np.array([99, 0, 57, 57, 33, 32, 73, 7, 98, 1])
    dtype, value = EXPECTED[column]
    got = shards.take(positions, [column])[column]
    assert got.dtype == dtype
    assert len(got) == len(positions)
    assert all(
        same(one.item() if isinstance(one, np.generic) else one, value(i))
        for one, i in zip(got, positions.tolist(), strict=True)
    )


def test_take__nothing_keeps_types_and_shapes(shards):
    none = shards.take(np.empty(0, dtype=np.int64))
    assert {name: array.dtype for name, array in none.items()} == {
        name: np.dtype(dtype) for name, (dtype, _) in EXPECTED.items()
    }
    assert none["features"].shape == (0, 4)
    assert none["square"].shape == (0, 2, 3)


def test_take__a_type_does_not_depend_on_the_rows_asked_for(shards):
    """Rows 1 to 5 hold no null in ``maybe``."""
    assert shards.take(np.arange(1, 6), ["maybe"])["maybe"].dtype == object


def test_take__result_is_writable_and_apart_from_the_file(shards):
    shards.take(np.arange(5), ["id"])["id"][:] = -1
    assert shards.take(np.arange(5), ["id"])["id"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_take__time_zones_become_utc(tmp_path, form):
    when = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    data = pa.table({"when": pa.array([when] * 3, pa.timestamp("us", tz="Europe/Paris"))})
    got = ShardSet(write_shards(tmp_path, form, [3], data), [3], form).take(np.array([1]))["when"]
    assert got[0] == np.datetime64("2024-05-01T12:00", "us")


@pytest.mark.parametrize("positions", [[-1], [100]])
def test_take__refuses_positions_outside(shards, positions):
    with pytest.raises(FeedError, match="positions: expected 0 <= position < 100, got"):
        shards.take(np.array(positions))


# order


def test_loader__follows_the_plan(plan, shards):
    loader = Loader(plan, shards, columns=["id", "text"])
    batches = list(loader)
    assert len(loader) == len(batches) == plan.n_steps
    assert ids(batches) == [plan.batch(step).tolist() for step in range(plan.n_steps)]
    assert list(batches[0]) == ["id", "text"]
    assert all(batch["text"].tolist() == [f"row {i}" for i in batch["id"]] for batch in batches)


def test_loader__all_columns_by_default(plan, shards):
    assert list(next(Loader(plan, shards))) == list(EXPECTED)


def test_loader__one_epoch(plan, shards):
    loader = Loader(plan, shards, columns=["id"], epoch=1)
    steps = range(plan.first_step(1), plan.first_step(2))
    assert ids(loader) == [plan.batch(step).tolist() for step in steps]
    assert len(loader) == len(steps)
    assert list(loader) == []


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_loader__ranks_together_are_one(plan, shards, world_size):
    whole = ids(Loader(plan, shards, columns=["id"]))
    ranks = [ids(Loader(plan, shards, rank=r, world_size=world_size, columns=["id"])) for r in range(world_size)]
    assert all(len(rank) == len(whole) for rank in ranks)
    assert [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)] == whole


def test_state__saved_at_every_step_gives_the_rest(plan, shards):
    loader = Loader(plan, shards, columns=["id"])
    states, whole = [loader.state_dict()], []
    for batch in loader:
        whole.append(batch["id"].tolist())
        states.append(loader.state_dict())
    for step, state in enumerate(states):
        resumed = Loader(plan, shards, columns=["id"])
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert ids(resumed) == whole[step:]


def test_state__goes_to_another_world_size_twice(plan, shards):
    whole = ids(Loader(plan, shards, columns=["id"]))
    first = Loader(plan, shards, rank=1, world_size=2, columns=["id"])
    next(first)
    seconds = [Loader(plan, shards, rank=r, world_size=3, columns=["id"]) for r in range(3)]
    for loader in seconds:
        loader.load_state_dict(first.state_dict())
    assert list(chain.from_iterable(next(loader)["id"].tolist() for loader in seconds)) == whole[1]
    third = Loader(plan, shards, columns=["id"])
    third.load_state_dict(seconds[2].state_dict())
    assert ids(third) == whole[2:]


def test_loader__a_break_goes_on_where_it_stopped(plan, shards):
    loader = Loader(plan, shards, columns=["id"])
    first = [batch for _, batch in zip(range(3), loader, strict=False)]
    assert ids(first) + ids(loader) == ids(Loader(plan, shards, columns=["id"]))


# refusals


def test_state__of_another_plan_is_refused(plan, shards):
    loader = Loader(plan, shards)
    with pytest.raises(FeedError, match=r"state: expected the state of plan .*, got one of other"):
        loader.load_state_dict({"plan": "other", "step": 0})


@pytest.mark.parametrize("step", [-1, 10**6, None, "3"])
def test_state__of_a_step_that_does_not_exist_is_refused(plan, shards, step):
    loader = Loader(plan, shards)
    with pytest.raises(FeedError, match="state: expected 0 <= step <= "):
        loader.load_state_dict(loader.state_dict() | {"step": step})


def test_state__of_another_epoch_is_refused(plan, shards):
    with pytest.raises(FeedError, match=r"state: expected .* got 0; set another epoch"):
        Loader(plan, shards, epoch=1).load_state_dict(Loader(plan, shards).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank: expected 0 <= rank < world_size, got rank 2 of 2"),
        ({"columns": ["txt"]}, "columns: expected columns of the shards, got 'txt'; did you mean 'text'"),
        ({"columns": ["zzzzz"]}, "got 'zzzzz'; there are id, half"),
        ({"epoch": 99}, "epoch: expected 0 <= epoch <"),
    ],
)
def test_loader__refuses(plan, shards, options, message):
    with pytest.raises(FeedError, match=message):
        Loader(plan, shards, **options)


def test_loader__refuses_shards_of_another_build(tmp_path, plan):
    paths = write_shards(tmp_path, "arrow", [33, 40])
    with pytest.raises(FeedError, match="plan: expected 73 rows as in the shards, got 100"):
        Loader(plan, ShardSet(paths, [33, 40]))


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_shards__missing_short_and_damaged_are_refused_before_the_first_batch(tmp_path, plan, form):
    paths = write_shards(tmp_path, form)
    with pytest.raises(FeedError, match=f"part-00001.{form}: expected 41 rows by the manifest, got 40"):
        Loader(plan, ShardSet(paths, [33, 41, 26], form))
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeedError, match=f"part-00001.{form}: expected a readable {form} file"):
        Loader(plan, ShardSet(paths, SHARD_ROWS, form))
    paths[1].unlink()
    with pytest.raises(FeedError, match=f"part-00001.{form}: expected a shard, got no such file"):
        Loader(plan, ShardSet(paths, SHARD_ROWS, form))


def test_shards__of_another_schema_are_refused(tmp_path, plan):
    first = write_shards(tmp_path / "a", "arrow", [60])
    second = write_shards(tmp_path / "b", "arrow", [40], table().drop_columns("odd"))
    with pytest.raises(FeedError, match=r"expected the schema of part-00000\.arrow, got another"):
        Loader(plan, ShardSet([*first, *second], [60, 40]))


@pytest.mark.parametrize(
    ("paths", "rows", "form", "message"),
    [
        (["a"], [1, 2], "arrow", "rows: expected one number per shard, got 2 for 1 shards"),
        ([], [], "csv", "format: expected arrow or parquet, got csv"),
    ],
)
def test_shards__refuse(paths, rows, form, message):
    with pytest.raises(FeedError, match=message):
        ShardSet(paths, rows, form)


def test_shards__none_at_all_are_refused():
    with pytest.raises(FeedError, match="paths: expected at least one shard, got none"):
        ShardSet([], []).check()
