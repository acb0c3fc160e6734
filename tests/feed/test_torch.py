"""The adapters for torch, with real workers and ranks: the batches of the plain loader, from any state."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import curation
from curation.feed import FeedError
from tests.cli.project import RECIPE, environment, make_project

torch = pytest.importorskip("torch", reason="needs the extra torch")

from torch.utils.data import DataLoader  # noqa: E402

from curation.feed.ring import SLOTS  # noqa: E402
from curation.feed.torch import (  # noqa: E402
    PlanBatchSampler,
    Ragged,
    TorchDataset,
    TorchIterable,
    collate,
    plan_state,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:'set_vital' is deprecated", "ignore:This DataLoader will create 3 worker processes"
)
STEPS = 20
SIZES = [0, 1, 5000]


def rows(n=160):
    """Bytes of 0 to 5,000, so that a batch is small or large."""
    i = np.arange(n)
    return pa.table(
        {
            "id": i,
            "age": np.full(n, 20),
            "x": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(i, 3).astype(np.float32)), 3),
            "raw": [None if k % 50 == 7 else bytes([k % 256]) * (SIZES[k % 3]) for k in i.tolist()],
            "text": [f"é{k}" for k in i.tolist()],
            "tokens": pa.array([list(range(k % 4)) for k in i.tolist()], pa.list_(pa.int32())),
            "maybe": [None if k % 5 == 0 else k for k in i.tolist()],
        }
    )


def built(folder, form):
    """160 rows, two epochs of 10 batches."""
    recipe = RECIPE.partition("stages")[0] + (
        f"feed: {{batch_size: 16, epochs: 2}}\noutput: {{path: out, format: {form}, shard_rows: 60}}\n"
    )
    return curation.build(make_project(folder, recipe, rows()))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Do not change it."""
    return built(tmp_path_factory.mktemp("torch"), "arrow")


def plain(build, **options):
    return [batch["id"].tolist() for batch in build.loader(columns=["id"], **options)]


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


def iterable(build, workers, context=None, **options):
    data = TorchIterable(build, **options)
    return DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=context)


def mapped(build, workers, context=None, **options):
    data, sampler = TorchDataset(build, **options), PlanBatchSampler(build)
    return DataLoader(
        data, batch_sampler=sampler, collate_fn=collate, num_workers=workers, multiprocessing_context=context
    )


def check(batch):
    """Every value of a batch belongs to its row."""
    whole = rows().take(pa.array(batch["id"].numpy()))
    assert batch["x"].tolist() == whole["x"].to_pylist()
    assert list(batch["raw"]) == whole["raw"].to_pylist()
    assert list(batch["text"]) == whole["text"].to_pylist()
    assert [each.tolist() for each in batch["tokens"]] == whole["tokens"].to_pylist()
    assert batch["maybe"] == whole["maybe"].to_pylist()


# Order


@pytest.mark.parametrize("make", [iterable, mapped])
@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (3, "fork"), (2, "spawn")])
def test_loader__gives_the_batches_of_the_plain_one(build, make, workers, context):
    batches = list(make(build, workers, context))
    assert ids(batches) == plain(build)
    for batch in batches[:4]:
        check(batch)


@pytest.mark.parametrize("make", [iterable, mapped])
def test_loader__reads_parquet_in_workers(tmp_path, make):
    parquet = built(tmp_path, "parquet")
    batches = list(make(parquet, 2, "fork"))
    assert ids(batches) == plain(parquet)
    for batch in batches:
        check(batch)


@pytest.mark.parametrize(
    ("ring", "shared"), [(0, 1 << 40), (1 << 40, 0), (1 << 40, 1 << 40)], ids=["ring", "fresh memory", "message"]
)
def test_batches__arrive_the_same_by_every_way(build, monkeypatch, ring, shared):
    monkeypatch.setattr("curation.feed.torch.RING_BYTES", ring)
    monkeypatch.setattr("curation.feed.torch.SHARED_BYTES", shared)
    for batch in iterable(build, 2, "fork"):
        check(batch)


def test_batches__that_are_kept_stay_what_they_are(build, monkeypatch):
    """More batches than a ring has slots, all of them in use at the end."""
    monkeypatch.setattr("curation.feed.torch.RING_BYTES", 0)
    kept = list(iterable(build, 1, "fork"))
    assert len(kept) == STEPS > SLOTS
    for batch in kept:
        check(batch)


def test_batches__parts_that_are_kept_hold_their_slot(build, monkeypatch):
    monkeypatch.setattr("curation.feed.torch.RING_BYTES", 0)
    kept = [batch["x"][3:5] for batch in islice(iterable(build, 1, "fork", columns=["id", "x"]), 15)]
    expected = [batch["x"][3:5].tolist() for batch in islice(build.loader(columns=["x"]), 15)]
    assert [each.tolist() for each in kept] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_iterable__ranks_together_are_one(build, workers):
    ranks = [ids(iterable(build, workers, rank=r, world_size=2)) for r in range(2)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == plain(build)


@pytest.mark.parametrize("workers", [0, 2])
def test_iterable__set_epoch_reaches_workers_that_persist(build, workers):
    data = TorchIterable(build, columns=["id"])
    loader = DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    found = []
    for epoch in (1, 0, 1):
        data.set_epoch(epoch)
        found.append(ids(loader))
        assert len(loader) == 10
    assert found == [plain(build, epoch=epoch) for epoch in (1, 0, 1)]


def test_sampler__set_epoch(build):
    loader = mapped(build, 2)
    loader.batch_sampler.set_epoch(1)
    assert ids(loader) == plain(build, epoch=1)
    assert len(loader) == 10


def test_sampler__positions_serve_other_data_sets(build):
    sampler = PlanBatchSampler(build, positions=True)
    assert list(sampler) == [build.plan.batch(step).tolist() for step in range(STEPS)]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluate__every_row_once_in_order(build, workers):
    found = list(chain(*ids(iterable(build, workers, evaluate=True, batch_size=7))))
    assert found == build.table().collect()["id"].to_list()


# Rows and batches


def test_dataset__is_indexed_by_row(build):
    data = TorchDataset(build, columns=["id", "raw"])
    table = build.table().collect()
    assert len(data) == 160
    assert [data[i]["id"].item() for i in (0, 63, -1)] == [table["id"][i] for i in (0, 63, 159)]
    assert data[3]["raw"] == table["raw"][3]
    with pytest.raises(IndexError, match="row: expected 0 <= row < 160, got 160"):
        data[160]


def test_dataset__works_with_torchs_own_collate(build):
    loader = DataLoader(TorchDataset(build, columns=["id", "x"]), batch_sampler=PlanBatchSampler(build))
    assert ids(loader) == plain(build)


def test_weights_and_keys__come_as_tensors(build):
    batch = next(iter(mapped(build, 1, "fork", columns=["id"], weights=True, keys=True)))
    assert batch["_draw_key"].tolist() == build.plan.batch_keys(0).tolist()
    assert batch["_weight_factor"].dtype == torch.float64


def test_decode__gives_tensors_of_pictures(tmp_path):
    with io.BytesIO() as to:
        Image.new("RGB", (4, 2), (1, 2, 3)).save(to, "PNG")
        data = pa.table({"id": range(6), "image": [to.getvalue()] * 6})
    recipe = RECIPE.partition("stages")[0] + "feed: {batch_size: 3, epochs: 1}\noutput: {path: out}\n"
    build = curation.build(make_project(tmp_path, recipe, data))
    for workers in (0, 1):
        (batch, _) = iterable(build, workers, decode={"image": "pillow"})
        assert [each.shape for each in batch["image"]] == [(2, 4, 3)] * 3
        assert batch["image"][0][0, 0].tolist() == [1, 2, 3]


def test_ragged__holds_values_without_copies():
    values = Ragged.of(pa.array(["a", None, "bcé"])[1:])
    assert (len(values), list(values), values[-1]) == (2, [None, "bcé"], "bcé")
    assert [torch.as_tensor(each).tolist() for each in Ragged.of(pa.array([[1.5], []]))] == [[1.5], []]
    with pytest.raises(IndexError):
        values[2]


# States


@pytest.mark.parametrize("make", [iterable, mapped])
def test_state__of_the_plain_loader_is_loaded(build, make):
    loader = make(build, 2)
    (loader.dataset if make is iterable else loader.batch_sampler).load_state_dict(
        {"plan": build.plan.fingerprint, "step": 13}
    )
    assert ids(loader) == plain(build)[13:]


@pytest.mark.parametrize("make", [iterable, mapped])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_stateful_loader__resumes_in_the_middle(build, make, workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def start():
        made = make(build, 0, columns=["id"])
        if make is iterable:
            return stateful(made.dataset, batch_size=None, num_workers=workers), made.dataset
        sampler = made.batch_sampler
        return stateful(made.dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers), sampler

    loader, _ = start()
    first = ids(islice(loader, 7))
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    again, _ = start()
    again.load_state_dict(state)
    assert first + ids(again) == plain(build)
    assert plan_state(state) == {"plan": build.plan.fingerprint, "step": 7}


@pytest.mark.parametrize("make", [iterable, mapped])
def test_stateful_loader__resumes_with_other_workers_and_ranks(build, make):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    made = make(build, 0, columns=["id"])
    options = {"batch_size": None} if make is iterable else {"batch_sampler": made.batch_sampler, "collate_fn": collate}
    loader = stateful(made.dataset, num_workers=2, **options)
    first = ids(islice(loader, 5))
    state = plan_state(loader.state_dict())
    ranks = []
    for rank in range(2):
        data = TorchIterable(build, rank, 2, columns=["id"])
        data.load_state_dict(state)
        ranks.append(ids(stateful(data, batch_size=None, num_workers=3)))
    assert first + [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == plain(build)


def test_state__of_something_else_is_refused(build):
    data = TorchIterable(build)
    with pytest.raises(FeedError, match="expected the state of plan"):
        data.load_state_dict({"plan": "other", "step": 1})
    with pytest.raises(FeedError, match="expected that of a plan or of a StatefulDataLoader"):
        data.load_state_dict({"epoch": 3})


# Ranks

RANK = """
import json, sys, torch.distributed as dist
from torch.utils.data import DataLoader
import curation
from curation.feed.torch import TorchIterable, TorchDataset, PlanBatchSampler, collate

def main():
    out, path, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    build = curation.open(out)
    steps = [b["id"].tolist() for b in DataLoader(TorchIterable(build, columns=["id"]), batch_size=None, num_workers=1)]
    loader = DataLoader(TorchDataset(build, columns=["id"]), batch_sampler=PlanBatchSampler(build), collate_fn=collate)
    same = steps == [b["id"].tolist() for b in loader]
    both = [None, None]
    dist.all_gather_object(both, steps)
    if rank == 0:
        print(json.dumps([same, both]))
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def test_distributed__two_processes_share_the_plan(build, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK, "utf-8")
    command = [sys.executable, str(script), str(build.path), str(tmp_path / "meet")]
    env = environment() | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for r in range(2)
    ]
    (out, errors), (_, other) = (rank.communicate(timeout=120) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0], errors + other
    same, both = json.loads(out.strip().splitlines()[-1])
    assert same
    assert [list(chain(*parts)) for parts in zip(*both, strict=True)] == plain(build)


def test_workers__leave_no_shared_memory_behind(build):
    before = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    for _ in islice(iterable(build, 2), 3):
        pass
    after = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    assert {name for name in after - before if name.startswith("torch")} == set()
