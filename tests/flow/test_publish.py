"""A result in a store: the bytes of a local one, whole at every moment, sent once."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from curation.flow.build import BuildOptions, BuildResult, build, work_folder
from curation.io import commits, remote
from curation.io import manifest as manifests
from curation.io.atomic import TEMPORARY
from curation.io.location import RemotePath
from curation.io.manifest import ManifestError, clean_up, read_manifest
from curation.recipe.load import load_recipe
from curation.testing.builds import VARIES
from tests.flow.helpers import digest_tree, people, write
from tests.s3 import SECRET, environment

RECIPE = """
recipe: 1
name: one
seed: {seed}
inputs: {{people: {{path: data, key: id}}}}
stages:
  - {{use: filter, where: "score > -1"}}
feed: {{batch_size: 16, epochs: 2, groups: lang}}
output: {{path: "{path}", shard_rows: 100, keep: {keep}}}
"""

DRIVER = """
import os, signal, sys
from pathlib import Path
from curation.io import commits
from tests.flow.test_publish import publish
folder, url, point, number, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
seen = 0
def hook(reached):
    global seen
    seen += reached == point
    if reached == point and seen == number:
        os.kill(os.getpid(), signal.SIGKILL)
commits.hook = hook
publish(folder, url, seed=seed)
"""


def publish(folder: Path, url: str, *, seed: int = 1, keep: int = 1, **options) -> BuildResult:
    """Build into a store. The recipe says a relative path, as with ``--out``, so that it is the same everywhere."""
    if not (folder / "data").exists():
        write(folder / "data/0.parquet", people(600), row_group_size=100)
    (folder / "recipe.yaml").write_text(RECIPE.format(seed=seed, keep=keep, path="out"))
    recipe = load_recipe(folder / "recipe.yaml")
    out = (recipe.outputs[0].model_copy(update={"path": url}),)
    return build(recipe.model_copy(update={"outputs": out}), BuildOptions(executor="serial", **options))


def killed_at(folder: Path, bucket, point: str, number: int, seed: int = 1) -> None:
    """Build in another process that kills itself when it reaches a commit point for the n-th time."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), f"{bucket.url}/out", point, str(number), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**bucket.endpoint.env),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


class StoppedError(Exception):
    """The build was stopped by a test."""


def stopped_at(folder: Path, url: str, point: str) -> None:
    """Build in this process until a commit point is reached."""

    def stop(reached: str) -> None:
        if reached == point:
            raise StoppedError(point)

    commits.hook = stop
    try:
        with pytest.raises(StoppedError, match=point):
            publish(folder, url)
    finally:
        commits.hook = None


def digests(url: str) -> dict[str, str]:
    """Hash of every file of a result in a store that must not vary."""
    return {
        path: hashlib.sha256(remote.read_bytes(f"{url}/{path}")).hexdigest()
        for path in remote.sizes(url)
        if path.rpartition("/")[2] not in VARIES
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a local build leaves."""
    folder = tmp_path_factory.mktemp("expected")
    publish(folder, str(folder / "out"))
    return digest_tree(folder / "out")


@pytest.fixture
def memory():
    return f"memory://{uuid.uuid4().hex}/out"


@pytest.fixture(params=["memory", "s3"])
def store(request):
    return (
        request.getfixturevalue("memory")
        if request.param == "memory"
        else f"{request.getfixturevalue('bucket').url}/out"
    )


def test_publish__leaves_the_bytes_of_a_local_build(store, expected, tmp_path):
    publish(tmp_path, store)
    assert digests(store) == expected
    assert not list(tmp_path.rglob("outgoing"))


def test_publish__reaches_all_points(memory, tmp_path):
    reached: list[str] = []
    commits.hook = reached.append
    try:
        publish(tmp_path, memory)
    finally:
        commits.hook = None
    assert set(commits.REMOTE_POINTS) <= set(reached)


def test_second_run__asks_little(bucket, tmp_path):
    publish(tmp_path, f"{bucket.url}/out")
    before = sum(len(bucket.endpoint.requests(method)) for method in ("GET", "HEAD"))
    publish(tmp_path, f"{bucket.url}/out")
    assert sum(len(bucket.endpoint.requests(method)) for method in ("GET", "HEAD")) - before < 10


def test_second_run__sends_nothing(bucket, tmp_path):
    publish(tmp_path, f"{bucket.url}/out")
    before = bucket.tags(), bucket.endpoint.requests("PUT"), bucket.endpoint.requests("POST")
    assert not publish(tmp_path, f"{bucket.url}/out").fresh
    assert (bucket.tags(), bucket.endpoint.requests("PUT"), bucket.endpoint.requests("POST")) == before


@pytest.mark.parametrize("point", commits.REMOTE_POINTS)
def test_kill__at_every_upload_point_is_made_good(bucket, tmp_path, expected, point):
    killed_at(tmp_path, bucket, point, 4 if point == "upload:object" else 1)
    shown = point in ("upload:manifest", "upload:cleaned")
    assert remote.exists(f"{bucket.url}/out/manifest.json") is shown
    publish(tmp_path, f"{bucket.url}/out")
    assert digests(f"{bucket.url}/out") == expected


def test_next_run__sends_only_what_is_missing(bucket, tmp_path):
    stopped_at(tmp_path, f"{bucket.url}/out", "upload:generation")
    already = len(bucket.endpoint.requests("PUT"))
    publish(tmp_path, f"{bucket.url}/out")
    sent = {path.rpartition("/")[2] for path in bucket.endpoint.requests("PUT")[already:] if bucket.name in path}
    assert {name for name in sent if "probe" not in name} == {"run.json", "manifest.json"}


def test_object__of_other_content_is_sent_again(bucket, tmp_path, expected):
    stopped_at(tmp_path, f"{bucket.url}/out", "upload:generation")
    (shard, *_) = [path for path in bucket.tags() if "part-00001" in path]
    size = remote.sizes(f"{bucket.url}/out")[shard.removeprefix("out/")]
    remote.put_bytes(bytes(size), f"{bucket.url}/{shard}")
    publish(tmp_path, f"{bucket.url}/out")
    assert digests(f"{bucket.url}/out") == expected


def test_lost_object__is_made_good(store, tmp_path, expected):
    publish(tmp_path, store)
    (shard, *_) = [path for path in remote.sizes(store) if "part-00001" in path]
    remote.delete(f"{store}/{shard}")
    assert publish(tmp_path, store).fresh
    assert digests(store) == expected


def test_reader__sees_whole_generations_only(bucket, tmp_path):
    url = f"{bucket.url}/out"
    old = publish(tmp_path, url, seed=2).manifests["output"].build_id
    seen: dict[str, set[str]] = {}
    stop, failures = threading.Event(), []

    def look() -> None:
        try:
            while not stop.is_set():
                manifest = read_manifest(RemotePath(url))
                for shard in manifest.shards:
                    content = hashlib.sha256(remote.read_bytes(f"{url}/{shard.path}")).hexdigest()
                    seen.setdefault(f"{manifest.build_id} {shard.path}", set()).add(content)
        except Exception as error:
            failures.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        killed_at(tmp_path, bucket, "upload:generation", 1)
        new = publish(tmp_path, url).manifests["output"].build_id
        time.sleep(0.2)
    finally:
        stop.set()
        reader.join()
    assert not failures
    assert {name.partition(" ")[0] for name in seen} == {old, new}
    assert all(len(contents) == 1 for contents in seen.values())


@pytest.mark.parametrize(("keep", "standing"), [(0, 1), (1, 2), (2, 3)])
def test_generations__are_kept_as_asked(memory, tmp_path, keep, standing):
    ids = [publish(tmp_path, memory, seed=seed, keep=keep).manifests["output"].build_id for seed in (1, 2, 3, 4)]
    found = {path.split("/")[1] for path in remote.sizes(memory) if "/" in path}
    assert found == set(ids[-standing:])


def test_generation__that_is_kept_can_be_put_back(memory, tmp_path):
    publish(tmp_path, memory, seed=1)
    old = read_manifest(RemotePath(memory))
    publish(tmp_path, memory, seed=2)
    remote.put_bytes(remote.read_bytes(f"{memory}/meta/{old.build_id}/manifest.json"), f"{memory}/manifest.json")
    assert read_manifest(RemotePath(memory)).content == old.content
    assert old.complete()


def test_clean_up__leaves_what_is_not_ours_and_what_is_being_sent(memory, monkeypatch):
    sent, given_up = "a" * 16, "b" * 16
    for path in ("notes.txt", "meta/notes/n.txt", f"shards/{sent}/part-00000.arrow"):
        remote.put_bytes(b"x", f"{memory}/{path}")
    remote.put_bytes(b"x", f"{memory}/meta/{TEMPORARY}probe")
    for path in (f"meta/{given_up}/manifest.json", f"shards/{given_up}/part-00000.arrow"):
        remote.put_bytes(b"x", f"{memory}/{path}")
    clean_up(RemotePath(memory), ["c" * 16])
    mine, probe = {"notes.txt", "meta/notes/n.txt"}, f"meta/{TEMPORARY}probe"
    assert set(remote.sizes(memory)) == mine | {probe, f"shards/{sent}/part-00000.arrow"}
    monkeypatch.setattr(manifests, "UNFINISHED_S", -1)
    clean_up(RemotePath(memory), ["c" * 16])
    assert set(remote.sizes(memory)) == mine


def test_two_builds__to_one_place_are_whole_each(memory, tmp_path, expected):
    """Another build cleans up between our upload and our manifest; what it took is sent again."""
    published = []

    def interrupt(point: str) -> None:
        if point == "upload:generation":
            commits.hook = None
            published.append(publish(tmp_path / "other", memory, seed=2, keep=0).manifests["output"])

    (tmp_path / "other").mkdir()
    commits.hook = interrupt
    try:
        result = publish(tmp_path, memory)
    finally:
        commits.hook = None
    assert read_manifest(RemotePath(memory)).complete()
    assert {path: digests(memory)[path] for path in expected} == expected
    assert result.manifests["output"].build_id != published[0].build_id


def test_outputs__in_a_store_and_a_folder_follow_one_recipe(memory, tmp_path):
    write(tmp_path / "data/0.parquet", people(100))
    (tmp_path / "recipe.yaml").write_text(
        f"""
recipe: 1
name: two
seed: 1
inputs: {{people: {{path: data}}}}
outputs:
  far: {{from: people, path: "{memory}"}}
  near: {{from: people, path: near}}
"""
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    found = build(recipe, BuildOptions(executor="serial")).manifests
    assert found["far"].content["data_fingerprint"] == found["near"].content["data_fingerprint"]
    assert not build(recipe, BuildOptions(executor="serial")).fresh
    assert work_folder(recipe, BuildOptions()) == tmp_path / "build/two.work"


def test_manifest__holds_no_secret_of_a_url(memory, tmp_path):
    write(tmp_path / "data/0.parquet", people(100))
    path = memory.replace("memory://", f"memory://me:{SECRET}@")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(seed=1, keep=1, path=path))
    build(load_recipe(tmp_path / "recipe.yaml"), BuildOptions(executor="serial"))
    files = {name: remote.read_bytes(f"{path}/{name}") for name in remote.sizes(path)}
    assert json.loads(files["manifest.json"])["recipe"]["outputs"]["output"]["path"] == memory
    assert not [name for name, content in files.items() if SECRET.encode() in content]


def test_http__cannot_be_published_to(tmp_path):
    with pytest.raises(remote.RemoteError, match="https:// can only be read; name a store such as s3://"):
        publish(tmp_path, "https://127.0.0.1:1/out", force=True)


def test_build__without_a_right_to_write_ends_before_it_works(bucket, tmp_path):
    with pytest.raises(remote.RemoteError, match="there is no such bucket"):
        publish(tmp_path, "s3://no-such-bucket/out", force=True)
    assert not list(tmp_path.rglob("objects"))


def test_place__without_a_result_says_so(store):
    with pytest.raises(ManifestError, match=r"/out: no build here \(no manifest\.json\)"):
        read_manifest(RemotePath(store))
