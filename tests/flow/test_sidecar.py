"""The sidecar of Parquet shards in a whole build: published, listed, checked, and the same on any number of workers."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.engine.store import digest_of
from curation.io import commits
from curation.io.manifest import read_manifest
from tests.flow.helpers import digest_tree, people, run, write

RECIPE = """
recipe: 1
name: pictures
seed: 5
inputs: {a: {path: data, key: id}}
output: {path: out, format: parquet, order: shuffled, shard_rows: 40}
"""


def pictures(rows=100):
    draw = np.random.default_rng(0)
    blobs = [None if i % 9 == 4 else draw.bytes(int(draw.integers(0, 3000))) for i in range(rows)]
    return people(rows).append_column("image", pa.array(blobs, pa.binary()))


@pytest.fixture
def built(tmp_path):
    write(tmp_path / "data/a.parquet", pictures())
    run(tmp_path, RECIPE)
    return tmp_path


def sidecars(root):
    """Sidecars of all shards, as the manifest lists them."""
    found = [shard.sidecar for shard in read_manifest(root).shards]
    assert all(found)
    return [each for each in found if each is not None]


def test_build__every_value_is_where_the_sidecar_says(built):
    out = built / "out"
    for shard, sidecar in zip(read_manifest(out).shards, sidecars(out), strict=True):
        table, places = pq.read_table(out / shard.path), pa.ipc.open_file(out / sidecar.path).read_all()
        assert places.num_rows == table.num_rows == shard.rows
        with (out / shard.path).open("rb") as file:
            for row, value in enumerate(table.column("image").to_pylist()):
                offset, length = (places.column(f"image.{part}")[row].as_py() for part in ("offset", "length"))
                found = None if length == 2**32 - 1 else os.pread(file.fileno(), length, offset)
                assert found == value


def test_build__lists_the_sidecars_with_their_hash(built):
    found = sidecars(built / "out")
    assert [each.path.rpartition("/")[2] for each in found] == [f"part-{i:05d}.offsets.arrow" for i in range(3)]
    for each in found:
        path = built / "out" / each.path
        assert (path.stat().st_size, digest_of(path)) == (each.bytes, each.xxh3)


def test_build__without_bytes_has_no_sidecar(tmp_path):
    write(tmp_path / "data/a.parquet", people(100))
    run(tmp_path, RECIPE)
    assert all(shard.sidecar is None for shard in read_manifest(tmp_path / "out").shards)
    assert not list((tmp_path / "out").rglob("*.offsets.arrow"))


def test_build__gives_the_same_sidecars_by_threads(built):
    whole = digest_tree(built / "out")
    run(built, RECIPE, executor="threads", workers=3, force=True)
    assert digest_tree(built / "out") == whole


@pytest.mark.parametrize("change", [Path.unlink, partial(Path.write_bytes, data=b"")])
def test_build__mends_a_sidecar_that_is_damaged(built, change):
    manifest = read_manifest(built / "out")
    whole = digest_tree(built / "out")
    change(built / "out" / sidecars(built / "out")[1].path)
    assert not manifest.complete()
    assert run(built, RECIPE).fresh
    assert digest_tree(built / "out") == whole


def test_build__makes_work_anew_whose_sidecar_is_gone(built):
    whole = digest_tree(built / "out")
    for path in [*(built / "out.work").rglob("*.offsets.arrow"), built / "out/manifest.json"]:
        path.unlink()
    result = run(built, RECIPE)
    assert result.ran["output: shards"] == 3
    assert digest_tree(built / "out") == whole


def test_build__cleans_sidecars_with_their_generation(built):
    first = read_manifest(built / "out").build_id
    for seed in (6, 7):
        run(built, RECIPE.replace("seed: 5", f"seed: {seed}"))
    folders = {path.parent.name for path in (built / "out").rglob("*.offsets.arrow")}
    assert len(folders) == 2
    assert first not in folders


@pytest.mark.parametrize(
    ("point", "time"), [("object:written", 4), ("object:named", 3), ("mark:written", 4), ("shard:published", 2)]
)
def test_build__stopped_near_a_sidecar_goes_on_to_the_same_bytes(built, monkeypatch, point, time):
    whole = digest_tree(built / "out")
    for folder in ("out", "out.work"):
        shutil.rmtree(built / folder)
    left = [time]

    def stop(reached):
        left[0] -= reached == point
        if not left[0]:
            raise KeyboardInterrupt(reached)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "hook", stop)
        with pytest.raises(KeyboardInterrupt, match=point):
            run(built, RECIPE)
    run(built, RECIPE)
    assert digest_tree(built / "out") == whole
