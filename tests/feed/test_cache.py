"""Shards of a store through a bounded folder: the same batches, whatever fits, and whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest

import curation
from curation.errors import CurationError
from curation.io import remote
from curation.io.atomic import TEMPORARY
from tests.cli.project import RECIPE, make_project
from tests.feed.test_loader import ids
from tests.s3 import environment, make_bucket, use


@pytest.fixture(scope="module")
def shared(s3):
    with pytest.MonkeyPatch.context() as patch:
        use(s3.url, s3.env, patch)
        yield make_bucket(s3)


def rows(n=250):
    i = np.arange(n)
    return pa.table({"id": i, "age": np.full(n, 20), "lang": ["en"] * n, "raw": [bytes([k % 256]) * 500 for k in i]})


def built(folder, bucket, form):
    """One result of 5 shards in a folder and in S3."""
    output = f"{{path: out, format: {form}, shard_rows: 50}}"
    recipe = RECIPE.partition("stages")[0] + f"feed: {{batch_size: 25, epochs: 1}}\noutput: {output}\n"
    path = make_project(folder, recipe, rows())
    return curation.build(path), curation.build(path, out=f"{bucket.url}/{form}")


@pytest.fixture(scope="module")
def both(shared, tmp_path_factory):
    """Do not change them."""
    return built(tmp_path_factory.mktemp("cache"), shared, "arrow")


def shard_bytes(build):
    return [shard.bytes + (shard.sidecar.bytes if shard.sidecar else 0) for shard in build.manifest.shards]


def held(folder):
    """Bytes of shards and sidecars in a cache, unfinished ones included."""
    total = 0
    for path in folder.rglob("*-part-*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.suffix != ".json" else 0
    return total


def gets(s3, build):
    return [path for path in s3.requests("GET") if str(build.path).partition("://")[2] in path and "part-" in path]


def check_bound(here, there, folder, share, prefetch):
    bound = int(share * sum(shard_bytes(there)))
    with there.loader(cache_dir=folder, cache_bytes=bound, prefetch=prefetch) as loader:
        for ours, theirs in zip(here.loader(), loader, strict=True):
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
            assert held(folder) <= bound


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_cache__gives_the_batches_of_the_local_build_within_its_bound(both, tmp_path, share, prefetch):
    here, there = both
    check_bound(here, there, tmp_path, share, prefetch)


def test_cache__holds_parquet_with_sidecars(shared, tmp_path):
    here, there = built(tmp_path, shared, "parquet")
    check_bound(here, there, tmp_path / "cache", 0.5, 3)


def test_cache__forms_of_columns_are_those_of_the_local_build(both, tmp_path):
    here, there = both
    bound = max(shard_bytes(there))
    for as_ in ("numpy", "arrow"):
        ours = next(here.loader(as_=as_))
        theirs = next(there.loader(as_=as_, cache_dir=tmp_path, cache_bytes=bound))
        assert {name: type(value) for name, value in ours.items()} == {n: type(value) for n, value in theirs.items()}
        assert ours["raw"].tolist() == theirs["raw"].tolist()


def test_cache__a_second_run_fetches_nothing(both, tmp_path, s3):
    _, there = both
    ids(there.loader(cache_dir=tmp_path))
    before = len(gets(s3, there))
    assert ids(there.loader(cache_dir=tmp_path)) == ids(there.loader(cache_dir=tmp_path, verify=True))
    assert len(gets(s3, there)) == before


def test_cache__a_file_that_was_cut_short_or_changed_is_fetched_again(both, tmp_path):
    here, there = both
    ids(there.loader(cache_dir=tmp_path))
    first, second, *_ = sorted(tmp_path.rglob("*.arrow"))
    first.write_bytes(first.read_bytes()[:-10])
    second.write_bytes(bytes(second.stat().st_size))
    assert ids(there.loader(cache_dir=tmp_path, verify=True)) == ids(here.loader())


def test_cache__refuses_a_shard_that_is_another_one(bucket, tmp_path):
    url = f"{bucket.url}/tiny"
    build = curation.build(make_project(tmp_path), out=url)
    (shard, *_) = build.manifest.shards
    remote.put_bytes(bytes(shard.bytes), f"{url}/{shard.path}")
    with pytest.raises(CurationError, match=r"part-00000\.arrow: expected \d+ bytes with the xxh3 [0-9a-f]{32}, got"):
        build.loader(cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*part*"))


def test_cache__refuses_a_bound_below_the_largest_shard(both, tmp_path):
    with pytest.raises(CurationError, match="cache_bytes: expected room for the largest shard of"):
        both[1].loader(cache_dir=tmp_path, cache_bytes=100)
    with pytest.raises(CurationError, match="cache_bytes: expected cache_dir, too"):
        both[1].loader(cache_bytes="1GB")


TRAIN = """
import sys, curation
build = curation.open(sys.argv[1])
loader = build.loader(columns=["id"], cache_dir=sys.argv[2], cache_bytes=int(sys.argv[3]) or None, prefetch=2)
print("began", flush=True)
print(sum(int(batch["id"].sum()) for batch in loader), flush=True)
loader.close()
"""


def train(there, folder, bound, s3):
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, there.path.url, str(folder), str(bound)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**s3.env),
    )


def test_cache__goes_on_after_a_kill(both, tmp_path, s3):
    here, there = both
    bound = int(0.5 * sum(shard_bytes(there)))
    process = train(there, tmp_path, bound, s3)
    ends = time.monotonic() + 30
    while not list(tmp_path.rglob(f"{TEMPORARY}*part-*")) and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert ids(there.loader(columns=["id"], cache_dir=tmp_path, cache_bytes=bound)) == ids(here.loader(columns=["id"]))


def test_cache__a_half_file_of_a_killed_process_never_counts(both, tmp_path):
    here, there = both
    folder = tmp_path / there.manifest.build_id
    folder.mkdir()
    names = [f"{shard.xxh3}-{shard.path.rpartition('/')[2]}" for shard in there.manifest.shards]
    for name in names[:3]:
        (folder / f"{TEMPORARY}dead-{name}").write_bytes(b"half")
        os.utime(folder / f"{TEMPORARY}dead-{name}", (0, 0))
    assert ids(there.loader(columns=["id"], cache_dir=tmp_path)) == ids(here.loader(columns=["id"]))
    assert not list(folder.glob(f"{TEMPORARY}*"))


def test_cache__processes_share_a_folder_without_waiting_for_each_other(both, tmp_path, s3):
    here, there = both
    bound = int(0.5 * sum(shard_bytes(there)))
    processes = [train(there, tmp_path, bound, s3) for _ in range(2)]
    found = [process.communicate(timeout=60) for process in processes]
    expected = sum(chain.from_iterable(ids(here.loader(columns=["id"]))))
    assert [out.split() for out, _ in found] == [["began", str(expected)]] * 2, found


def test_cache__keeps_what_is_needed_first(both, tmp_path, s3):
    """An evaluation needs each shard once, front to back: after the first look none is fetched twice."""
    here, there = both
    bound = 2 * max(shard_bytes(there))
    loader = there.loader(evaluate=True, batch_size=10, columns=["id"], cache_dir=tmp_path, cache_bytes=bound)
    before = len(gets(s3, there))
    assert ids(loader) == ids(here.loader(evaluate=True, batch_size=10, columns=["id"]))
    asked = gets(s3, there)[before:]
    assert 3 <= len(asked) == len(set(asked)) <= 5


def test_cache__serves_torch_workers(both, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    from curation.feed.torch import TorchIterable

    here, there = both
    bound = int(0.5 * sum(shard_bytes(there)))
    data = TorchIterable(there, columns=["id"], cache_dir=tmp_path, cache_bytes=bound)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [batch["id"].tolist() for batch in loader] == ids(here.loader(columns=["id"]))
