"""Inputs at URLs: the rows, ids and bytes of the same files in a folder, read in little, and told as they are."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3fs.core import S3File

import curation
from curation.engine.events import Silent
from curation.errors import BuildError, CurationError, InputError, RecipeError
from curation.explain import Origin
from curation.flow.build import BuildOptions, BuildResult, build
from curation.io import commits, files, formats, remote
from curation.io.files import find_files
from curation.io.location import location_of
from curation.recipe.load import load_recipe
from tests.engine.test_executors import cluster
from tests.flow.helpers import digest_tree, people, read
from tests.s3 import SECRET

RECIPE = """
recipe: 1
name: far
seed: 1
inputs: {{a: {{path: "{path}"{options}}}}}
output: {{path: out, shard_rows: 100}}
"""


def built(folder, path, *, options="", events=None, **how) -> BuildResult:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(path=path, options=options))
    how = how or {"executor": "serial"}
    return build(load_recipe(folder / "recipe.yaml"), BuildOptions(work=folder / "work", **how), events)


class Meanwhile(Silent):
    """Does something once, when the inputs are bound and the first phase begins."""

    def __init__(self, action):
        self._actions = [action]

    def started(self, phase, **_):
        """Begin a phase."""
        while self._actions:
            self._actions.pop()()


def sent(folder, url):
    """Put all files of a folder into a store."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        remote.put_file(path, f"{url}/{path.relative_to(folder).as_posix()}")
    return url


def shards(folder):
    return {name.rpartition("/")[2]: each for name, each in digest_tree(folder / "out").items() if "shards/" in name}


def account(folder):
    return json.loads((folder / "out/manifest.json").read_text())["inputs"]["a"]


def set_aside(folder):
    (path,) = (folder / "out/quarantine").rglob("rows.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


# Formats: how to write 2 x 130 rows


def parquet(folder, name, table):
    pq.write_table(table, folder / f"{name}.parquet", row_group_size=50)


def arrow(folder, name, table):
    with pa.ipc.new_file(folder / f"{name}.arrow", table.schema) as file:
        file.write_table(table, 50)


def stream(folder, name, table):
    with pa.ipc.new_stream(folder / f"{name}.arrow", table.schema) as file:
        file.write_table(table, 50)


def jsonl(folder, name, table):
    rows = table.select(["id", "lang", "text"]).to_pylist()
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def zstd(folder, name, table):
    jsonl(folder, name, table)
    plain = folder / f"{name}.jsonl"
    with pa.CompressedOutputStream(str(plain) + ".zst", "zstd") as file:
        file.write(plain.read_bytes())
    plain.unlink()


def csv(folder, name, table):
    pc.write_csv(table.select(["id", "lang"]), folder / f"{name}.csv")


def webdataset(folder, name, table):
    with tarfile.open(folder / f"{name}.tar", "w") as archive:
        for row in table.select(["id", "lang"]).to_pylist():
            info = tarfile.TarInfo(f"{name}-{row['id']:05d}.json")
            content = json.dumps(row).encode()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def images(folder, name, table):
    (folder / name).mkdir()
    for i in table.column("id").to_pylist()[:10]:
        Image.new("RGB", (4 + i % 3, 5), (i % 256, 3, 5)).save(folder / name / f"{i}.png")


def hugging_face(folder, name, table):
    stream(folder, name, table)
    files = [{"filename": each.name} for each in sorted(folder.glob("*.arrow"))]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_indices_data_files": None}))
    (folder / "dataset_info.json").write_text("{}")


FORMATS = [parquet, arrow, stream, jsonl, zstd, csv, webdataset, images, hugging_face]


def each_of(*writers):
    return pytest.mark.parametrize("write", writers, ids=lambda each: each.__name__)


@each_of(*FORMATS)
def test_build__gives_the_bytes_of_a_local_input(bucket, tmp_path, write):
    (tmp_path / "data").mkdir()
    for name, start in (("x", 0), ("y", 500)):
        write(tmp_path / "data", name, people(130, start=start))
    built(tmp_path / "near", tmp_path / "data")
    built(tmp_path / "far", sent(tmp_path / "data", f"{bucket.url}/data"))
    assert shards(tmp_path / "far") == shards(tmp_path / "near")
    assert account(tmp_path / "far")["read"] in (20, 260)


PATTERNS = ["", "/a.jsonl", "/*.jsonl", "/**/*.jsonl", "/[ab].*", "/sub*/*.jsonl", "/s?b", "/none*", "/v[1]", "/sub/"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern__names_the_files_that_it_names_in_a_folder(bucket, tmp_path, pattern):
    for name in ("a.jsonl", "b.csv", "_c.jsonl", ".d.jsonl", "sub/e.jsonl", "sub/deep/f.jsonl", "sub2/g.jsonl", "n.md"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    url = sent(tmp_path / "data", f"{bucket.url}/data")
    assert relatives(f"{url}{pattern}") == relatives(f"{tmp_path}/data{pattern}")


def relatives(pattern):
    try:
        return [file.relative for file in find_files([pattern])]
    except InputError:
        return "refused"


@pytest.fixture
def one(bucket, tmp_path):
    """URL of a folder with one Parquet file."""
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data", "x", people(130))
    return sent(tmp_path / "data", f"{bucket.url}/data")


@pytest.fixture
def fetched(monkeypatch):
    """Sizes of the ranges that are asked for."""
    sizes: list[int] = []
    fetch = S3File._fetch_range

    def counted(file, start, end):
        sizes.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    return sizes


@each_of(parquet, arrow)
def test_columns__that_are_not_asked_for_do_not_travel(bucket, tmp_path, fetched, write):
    noise = np.random.default_rng(0).bytes(15 << 20)
    raw = [noise[i * 120_000 :][:120_000] for i in range(128)]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "x", pa.table({"raw": raw, "id": range(128)}))
    size = sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    built(tmp_path, sent(tmp_path / "data", f"{bucket.url}/data"), options=", columns: [id]")
    # An Arrow file tells the size of its rows by its first batch alone, which is fetched whole: 50 of 128 rows.
    allowed = size // 4 if write is parquet else size * 3 // 4
    assert 0 < sum(fetched) < allowed


def test_images__are_fetched_several_at_a_time(bucket, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    images(tmp_path / "data", "x", people(10))
    url, meet = sent(tmp_path / "data", f"{bucket.url}/data"), threading.Barrier(5)
    fetch = S3File._fetch_range

    def together(file, start, end):
        meet.wait(20)  # until five are on their way
        return fetch(file, start, end)

    monkeypatch.setattr(S3File, "_fetch_range", together)
    built(tmp_path, url)
    assert read(tmp_path / "out").column("label").to_pylist() == ["x"] * 10


def test_stream__is_held_a_batch_at_a_time(bucket, tmp_path, fetched):
    (tmp_path / "data").mkdir()
    with pa.ipc.new_stream(tmp_path / "data/x.arrow", pa.schema([("raw", pa.binary())])) as file:
        for _ in range(8):
            file.write_table(pa.table({"raw": [bytes(1 << 20)]}))
    url = sent(tmp_path / "data", f"{bucket.url}/data")
    built(tmp_path, url)
    assert max(fetched) < 2 << 20


# What comes and changes


@each_of(parquet, jsonl)
def test_next_build__reads_the_objects_that_are_new_or_overwritten(bucket, tmp_path, write):
    (tmp_path / "data").mkdir()
    url, jobs = f"{bucket.url}/data", []
    for name, start in (("x", 0), ("y", 130), ("x", 260)):
        write(tmp_path / "data", name, people(130, start=start))
        sent(tmp_path / "data", url)
        jobs.append(built(tmp_path, url).ran)
    reading = "census" if write is parquet else "a: read"
    assert [each[reading] for each in jobs] == [each["census"] for each in jobs] == [1, 1, 1]
    assert sorted(read(tmp_path / "out").column("id").to_pylist()) == list(range(130, 390))


def test_object__that_is_overwritten_is_read_anew(one, tmp_path):
    built(tmp_path, one)
    assert not built(tmp_path, one).fresh
    parquet(tmp_path / "data", "x", people(130, start=7))
    sent(tmp_path / "data", one)
    assert built(tmp_path, one).ran["census"] == 1
    assert read(tmp_path / "out").column("id").to_pylist() == list(range(7, 137))


@pytest.mark.parametrize("gone", [False, True])
@each_of(parquet, jsonl)
def test_object__that_changes_before_it_is_read_ends_the_build(bucket, tmp_path, write, gone):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "x", people(130))
    url = sent(tmp_path / "data", f"{bucket.url}/data")
    (file,) = find_files([url])
    events = Meanwhile(lambda: remote.delete(file.url) if gone else remote.put_bytes(b"other", file.url))
    with pytest.raises(BuildError, match=rf"input 'a': {file.url} was changed while the build read it; nothing is"):
        built(tmp_path, url, events=events)


def test_object__that_changes_when_it_is_read_ends_the_build(one, tmp_path):
    def change(reached):
        if reached == "mark:named":
            remote.put_bytes(b"other", f"{one}/x.parquet")

    commits.hook = change
    try:
        with pytest.raises(BuildError, match=rf"input 'a': {one}/x\.parquet was changed while the build read it"):
            built(tmp_path, one)
    finally:
        commits.hook = None
    assert not (tmp_path / "out/manifest.json").exists()


def test_object__that_changes_before_it_is_opened_is_not_taken_for_the_old_one(one):
    (file,) = find_files([one])
    remote.put_bytes(b"other", f"{one}/x.parquet")
    with pytest.raises(remote.RemoteError, match="was replaced while it was read"):
        remote.open_read(file.url, version=file.version)
    assert file.changed()


@pytest.mark.parametrize("listed", [0, 99])
def test_changed__tells_the_object_by_listing_and_by_looking(bucket, tmp_path, monkeypatch, listed):
    monkeypatch.setattr(files, "LISTED_FILES", listed)
    for name in "abc":
        remote.put_bytes(name.encode(), f"{bucket.url}/data/{name}.png")
    found = find_files([f"{bucket.url}/data"])
    assert files.first_changed(found) is None
    remote.put_bytes(b"B", found[1].url)
    assert files.first_changed(found) == found[1]
    remote.delete(found[0].url)
    assert files.first_changed(found) == found[0]


# HTTP


def signed(url):
    """URL with which anybody can read an object."""
    return remote.filesystem(url).url(url)


@each_of(parquet, jsonl)
def test_http__gives_the_bytes_of_a_local_input_and_hides_the_signature(one, tmp_path, write):
    write(tmp_path / "data", "y", people(130))
    sent(tmp_path / "data", one)
    (path,) = (tmp_path / "data").glob("y.*")
    url, _, signature = signed(f"{one}/{path.name}").partition("?")
    built(tmp_path / "near", path)
    built(tmp_path / "far", f"{url}?{signature}")
    assert shards(tmp_path / "far") == shards(tmp_path / "near")
    assert account(tmp_path / "far")["path"] == url
    left = [path for path in (tmp_path / "far").rglob("*") if path.is_file()]
    assert [path.name for path in left if signature.encode() in path.read_bytes()] == ["recipe.yaml"]


def test_http__object_that_changes_ends_the_build(one, tmp_path):
    url = signed(f"{one}/x.parquet")
    events = Meanwhile(lambda: remote.put_bytes(b"other", f"{one}/x.parquet"))
    with pytest.raises(CurationError) as caught:
        built(tmp_path, url, events=events)
    assert f"input 'a': {url.partition('?')[0]} was changed while the build read it" in str(caught.value)


# Our own outputs


def test_own_output__is_read_by_its_manifest(bucket, tmp_path):
    (tmp_path / "data").mkdir()
    url = f"{bucket.url}/out"
    for rows in (250, 130):
        parquet(tmp_path / "data", "x", people(rows))
        (tmp_path / "recipe.yaml").write_text(
            RECIPE.format(path="data", options="").replace("path: out", f"path: '{url}'")
        )
        build(load_recipe(tmp_path / "recipe.yaml"), BuildOptions(executor="serial"))
    assert len([name for name in remote.sizes(url) if name.startswith("shards/")]) == 5  # `keep` is 1
    built(tmp_path / "again", url)
    assert [each["path"] for each in account(tmp_path / "again")["files"]] == ["part-00000.arrow", "part-00001.arrow"]
    assert read(tmp_path / "again/out").equals(read(location_of(url)))


def test_own_output__that_lacks_a_shard_is_refused(bucket):
    url = f"{bucket.url}/out"
    shard = {"path": "shards/1/part-00000.arrow", "rows": 1, "bytes": 1, "xxh3": ""}
    content = {"format": 1, "build_id": "1", "rows": 1, "shards": [shard], "files": {}, "schema_ipc": ""}
    remote.put_bytes(json.dumps(content).encode(), f"{url}/manifest.json")
    with pytest.raises(InputError, match=r"out/shards/1/part-00000\.arrow: is missing, though the folder names it"):
        find_files([url])


def test_lance__is_refused(bucket):
    remote.put_bytes(b"x", f"{bucket.url}/x.lance/data/0.lance")
    with pytest.raises(InputError, match=r"x\.lance/data/0\.lance: Lance data sets are read from local folders only"):
        find_files([f"{bucket.url}/x.lance"])


# What became of a row


@each_of(parquet, jsonl)
def test_explain__reads_the_input_in_the_store(bucket, tmp_path, write):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "x", people(130))
    url = sent(tmp_path / "data", f"{bucket.url}/data")
    built(tmp_path, url, options=", where: 'id > 7'")
    (fate,) = curation.open(tmp_path / "out").explain("id=5").fates
    assert (fate.verdict, fate.origin) == ("not selected", Origin("a", next((tmp_path / "data").iterdir()).name, 5))


# Faults


def test_bad_record__is_kept_as_it_came(bucket, tmp_path):
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data", "x", people(100))
    with (tmp_path / "data/x.jsonl").open("ab") as file:
        file.write(b'{"id": 7, broken\n\xff\xfe\n')
    options = ", on_bad_rows: quarantine, max_bad: 0.1"
    built(tmp_path / "near", tmp_path / "data", options=options)
    built(tmp_path / "far", sent(tmp_path / "data", f"{bucket.url}/data"), options=options)
    assert set_aside(tmp_path / "far") == set_aside(tmp_path / "near")
    raw = [line.get("text") or line["base64"] for line in set_aside(tmp_path / "far")]
    assert raw == ['{"id": 7, broken\n', "//4K"]


@pytest.fixture
def damaged(bucket, tmp_path):
    """URL of a folder with a Parquet file whose second row group is broken."""
    (tmp_path / "data").mkdir()
    table = people(150).select(["id"])
    pq.write_table(table, tmp_path / "data/x.parquet", row_group_size=50, compression="zstd")
    group = pq.read_metadata(tmp_path / "data/x.parquet").row_group(1).column(0)
    content = bytearray((tmp_path / "data/x.parquet").read_bytes())
    at = group.dictionary_page_offset or group.data_page_offset
    content[at : at + group.total_compressed_size] = bytes(group.total_compressed_size)
    remote.put_bytes(bytes(content), f"{bucket.url}/data/x.parquet")
    return f"{bucket.url}/data", at, group.total_compressed_size


def test_row_group__that_cannot_be_decoded_is_named_by_its_place(damaged, tmp_path):
    url, offset, length = damaged
    built(tmp_path, url, options=", on_bad_rows: quarantine, max_bad: 0.5")
    (line,) = set_aside(tmp_path)
    assert (line["file"], line["start"], line["stop"]) == ("x.parquet", 50, 100)
    assert (line["offset"], line["length"], line["raw"]) == (offset, length, None)
    assert account(tmp_path)["path"] == url


def test_row_group__that_cannot_be_decoded_ends_a_strict_build(damaged, tmp_path):
    with pytest.raises(BuildError, match=rf"{damaged[0]}/x\.parquet, rows 50 to 99: cannot be decoded"):
        built(tmp_path, damaged[0])


@each_of(parquet, arrow, stream, zstd, webdataset, images)
def test_store__that_fails_meanwhile_is_no_fault_of_the_data(bucket, tmp_path, monkeypatch, write):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "x", people(130))
    url = sent(tmp_path / "data", f"{bucket.url}/data")
    monkeypatch.setattr(formats, "SMALL_BYTES", 0)

    def fail(*_):
        raise PermissionError(SECRET)

    events = Meanwhile(lambda: monkeypatch.setattr(S3File, "_fetch_range", fail))
    with pytest.raises(remote.RemoteError, match=rf"^{url}/\S+: access denied; check that") as caught:
        built(tmp_path, url, options=", on_bad_rows: quarantine, max_bad: 1.0", events=events)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [b"no Parquet", b""])
def test_message__holds_no_secret_of_a_url(tmp_path, content):
    name = uuid.uuid4().hex
    remote.put_bytes(content, f"memory://me:{SECRET}@{name}/x.parquet")
    with pytest.raises(RecipeError, match=rf"memory://{name}/x\.parquet: not a readable Parquet file") as caught:
        built(tmp_path, f"memory://me:{SECRET}@{name}")
    assert SECRET not in str(caught.value)


# Other processes


THREE = """
recipe: 1
name: three
seed: 1
inputs: {{p: {{path: "{url}/parquet"}}, j: {{path: "{url}/jsonl"}}, i: {{path: "{url}/images"}}}}
outputs: {{p: {{from: p, path: out/p}}, j: {{from: j, path: out/j}}, i: {{from: i, path: out/i}}}}
"""


def test_processes__read_stores_as_this_one_does(bucket, tmp_path):
    for write in (parquet, jsonl, images):
        (tmp_path / "data" / write.__name__).mkdir(parents=True)
        write(tmp_path / "data" / write.__name__, "x", people(130))
    sent(tmp_path / "data", bucket.url)
    for name, how in (("here", {"executor": "serial"}), ("there", {"executor": "dask", "workers": 2})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(THREE.format(url=bucket.url))
        build(load_recipe(tmp_path / name / "recipe.yaml"), BuildOptions(**how))
    assert digest_tree(tmp_path / "there/out") == digest_tree(tmp_path / "here/out")


def test_processes__of_a_running_scheduler_read_stores(one, tmp_path):
    with cluster(tmp_path) as address:
        built(tmp_path, one, scheduler=address)
        assert read(tmp_path / "out").num_rows == 130
        events = Meanwhile(lambda: remote.put_bytes(b"other", f"{one}/x.parquet"))
        with pytest.raises(BuildError, match=rf"input 'a': {one}/x\.parquet was changed while the build read it"):
            built(tmp_path, one, options=", columns: [id]", events=events, scheduler=address)
