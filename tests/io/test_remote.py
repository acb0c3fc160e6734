"""Stores: what a URL names, what travels, and how each failure is told."""

from __future__ import annotations

import io
import sys
import time
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.io import remote
from curation.io.atomic import TEMPORARY
from curation.io.remote import RemoteError
from tests.s3 import SECRET, closed_port, scripted, silent, used


@pytest.fixture
def memory():
    """URL of an empty folder in memory."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "s3"])
def store(request):
    """URL of an empty folder, in memory and in S3."""
    if request.param == "memory":
        return request.getfixturevalue("memory")
    return f"{request.getfixturevalue('bucket').url}/some/folder"


def relatives(url, test=lambda name: name.endswith(".parquet")):
    return [each.relative for each in remote.list_files(url, suffix_test=test)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("s3://b/k", True), ("memory://a", True), ("file:///data", False), ("/data", False), ("a:b", False)],
)
def test_is_url__knows_stores_from_files(text, expected):
    assert remote.is_url(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@host/a.parquet?sig=abc#x", "https://host/a.parquet"),
        ("ftp://me@host/a", "ftp://host/a"),
        ("s3://bucket/a#1.parquet?versionId=7", "s3://bucket/a#1.parquet"),
        ("s3://bucket/me@home/a", "s3://bucket/me@home/a"),
        ("data/a?b@c", "data/a?b@c"),
    ],
)
def test_redacted__leaves_out_what_may_be_secret(text, expected):
    assert remote.redacted(text) == expected


def test_put__is_read_back(store, tmp_path):
    (tmp_path / "a").write_bytes(b"from a file")
    remote.put_file(tmp_path / "a", f"{store}/x/a")
    remote.put_bytes(b"from memory", f"{store}/x/b")
    assert remote.read_bytes(f"{store}/x/a") == b"from a file"
    assert remote.sizes(store) == {"x/a": 11, "x/b": 11}


def test_put__of_many_parts_is_recognised(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PART_BYTES", 5 << 20)
    (tmp_path / "large").write_bytes(bytes(range(256)) * (45 << 10))
    remote.put_file(tmp_path / "large", f"{bucket.url}/large")
    assert bucket.tags()["large"].endswith("-3")
    assert remote.same_content(tmp_path / "large", f"{bucket.url}/large")


def test_same_content__sees_another_byte_of_the_same_size(bucket, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    remote.put_bytes(b"abd", f"{bucket.url}/a")
    assert not remote.same_content(tmp_path / "a", f"{bucket.url}/a")
    assert not remote.same_content(tmp_path / "a", f"{bucket.url}/gone")


def test_put__that_fails_halfway_shows_nothing(memory, monkeypatch):
    store = remote.filesystem(memory)

    def broken(path, data):
        fsspec.AbstractFileSystem.pipe_file(store, path, data[:2])
        raise ValueError("broken")

    monkeypatch.setattr(store, "pipe_file", broken)
    with pytest.raises(RemoteError, match=r"could not do this \(ValueError\)"):
        remote.put_bytes(b"whole", f"{memory}/a")
    assert all(TEMPORARY in path for path in remote.sizes(memory))


def test_list__of_a_folder_leaves_out_hidden_names_and_other_suffixes(store):
    for name in ("b.parquet", "a/a.parquet", "_c.parquet", ".d/e.parquet", "_f/g.parquet", "readme.txt"):
        remote.put_bytes(b"x", f"{store}/{name}")
    assert relatives(store) == ["a/a.parquet", "b.parquet"]
    assert relatives(f"{store}/") == ["a/a.parquet", "b.parquet"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["b.parquet"]),
        ("a/*", ["a.parquet", "x.txt"]),
        ("**/*.parquet", ["a/a.parquet", "b.parquet"]),
        ("?.parquet", ["b.parquet"]),
        ("b.parquet", ["b.parquet"]),
        ("none*", []),
        ("none", []),
    ],
)
def test_list__of_globs_and_files(store, pattern, expected):
    for name in ("b.parquet", "a/a.parquet", "a/x.txt", ".h.parquet"):
        remote.put_bytes(b"x", f"{store}/{name}")
    assert relatives(f"{store}/{pattern}") == expected


def test_list__gives_urls_that_can_be_read(store):
    remote.put_bytes(b"one", f"{store}/a/1.parquet")
    for pattern in (store, f"{store}/*/*.parquet", f"{store}/a/1.parquet"):
        (found,) = remote.list_files(pattern, suffix_test=lambda _: True)
        assert remote.read_bytes(found.url) == b"one"
        assert (found.size, found.token) == (3, remote.version(found.url))


def test_version__changes_when_a_file_is_written_to(store):
    remote.put_bytes(b"one", f"{store}/a")
    before = remote.version(f"{store}/a")
    assert remote.version(f"{store}/a") == before
    remote.put_bytes(b"two", f"{store}/a")
    assert remote.version(f"{store}/a") != before


def test_open_read__jumps_and_reads_parquet(store, tmp_path):
    table = pa.table({"a": range(1000), "b": ["x" * 50] * 1000})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    remote.put_file(tmp_path / "t.parquet", f"{store}/t.parquet")
    with remote.open_read(f"{store}/t.parquet") as file:
        assert pq.ParquetFile(file).read(["a"]).equals(table.select(["a"]))
    with remote.open_read(f"{store}/t.parquet") as file:
        assert (file.seek(-4, io.SEEK_END), file.read()) == ((tmp_path / "t.parquet").stat().st_size - 4, b"PAR1")
        assert (file.seek(0), file.read(2), file.seek(1, io.SEEK_CUR), file.read(1)) == (0, b"PA", 3, b"1")


def test_open_read__of_some_columns_fetches_little(bucket, tmp_path, monkeypatch):
    noise = pa.array([uuid.uuid4().hex * 40 for _ in range(20_000)])
    pq.write_table(pa.table({"a": range(20_000), "b": noise}), tmp_path / "t", compression="none", use_dictionary=False)
    remote.put_file(tmp_path / "t", f"{bucket.url}/t")
    fetched = []
    read = type(remote.filesystem(bucket.url).open(f"{bucket.url}/t"))._fetch_range

    def counted(file, start, end):
        fetched.append(end - start)
        return read(file, start, end)

    monkeypatch.setattr("s3fs.core.S3File._fetch_range", counted)
    with remote.open_read(f"{bucket.url}/t") as file:
        pq.ParquetFile(file).read(["a"])
    assert 0 < sum(fetched) < (tmp_path / "t").stat().st_size / 10


def test_open_stream__gives_all_bytes_in_order(store):
    data = bytes(range(256)) * 4000
    remote.put_bytes(data, f"{store}/a")
    with remote.open_stream(f"{store}/a") as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == data


def test_read__of_an_object_that_is_replaced_meanwhile_says_so(bucket):
    remote.put_bytes(bytes(1 << 20), f"{bucket.url}/a")
    with remote.open_read(f"{bucket.url}/a") as file:
        file.read(10)
        remote.put_bytes(bytes(1 << 19) + b"1" * (1 << 19), f"{bucket.url}/a")
        file.seek(1 << 19)
        with pytest.raises(RemoteError, match="was replaced while it was read"):
            file.read(10)


def test_delete__takes_the_tree_and_no_neighbour(store):
    for name in ("a/x", "a/b/y", "ab/z"):
        remote.put_bytes(b"1", f"{store}/{name}")
    remote.delete_tree(f"{store}/a")
    remote.delete_tree(f"{store}/a")
    assert remote.sizes(store) == {"ab/z": 1}
    assert (remote.exists(f"{store}/ab"), remote.exists(f"{store}/a")) == (True, False)


# Failures


def test_failure__no_such_bucket(bucket):
    for call in (remote.read_bytes, remote.exists, remote.open_read, lambda url: remote.put_bytes(b"", url)):
        with pytest.raises(RemoteError, match="no-such-bucket/a: there is no such bucket; make it") as found:
            call("s3://no-such-bucket/a")
        assert found.value.failure == "bucket"


def test_failure__object_that_is_gone(store):
    with pytest.raises(RemoteError, match="gone: no such object; it was never there or has been removed"):
        remote.open_read(f"{store}/gone").read()


def test_failure__no_credentials(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    expected = r"no credentials were found; set them .*AWS_ACCESS_KEY_ID"
    with used(bucket.endpoint.url, {}, monkeypatch), pytest.raises(RemoteError, match=expected):
        remote.read_bytes(f"{bucket.url}/a")


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_failure__access_denied_is_not_tried_again(bucket, monkeypatch, code):
    with scripted(403, code, times=99) as server, used(server.url, {}, monkeypatch):
        with pytest.raises(RemoteError, match="access denied; check that the credentials") as found:
            remote.put_bytes(b"x", f"{bucket.url}/a")
        assert server.asked == 1
    assert SECRET not in str(found.value)


def test_failure__that_passes_is_tried_again(bucket, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    with scripted(503, "ServiceUnavailable", times=remote.ATTEMPTS - 1) as server, used(server.url, {}, monkeypatch):
        assert remote.read_bytes(f"{bucket.url}/a") == b"fine"
        assert server.asked > remote.ATTEMPTS - 1


def test_failure__that_stays_ends_after_the_stated_tries(bucket, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    with scripted(503, "ServiceUnavailable", times=99) as server, used(server.url, {}, monkeypatch):
        with pytest.raises(RemoteError, match="the store refused for now, tried 4 times; run the same command"):
            remote.put_bytes(b"x", f"{bucket.url}/a")
        assert server.asked == remote.ATTEMPTS


def test_failure__endpoint_that_does_not_answer(bucket, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    expected = r"did not answer, tried 4 times; .*FSSPEC_S3_ENDPOINT_URL"
    with used(closed_port(), {}, monkeypatch), pytest.raises(RemoteError, match=expected):
        remote.exists(f"{bucket.url}/a")


@pytest.mark.parametrize("call", [remote.read_bytes, lambda url: remote.put_bytes(b"x", url), remote.open_read])
def test_failure__server_that_says_nothing_ends_in_time(bucket, monkeypatch, call):
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    monkeypatch.setattr(remote, "READ_S", 0.2)
    started = time.monotonic()
    with silent() as url, used(url, {}, monkeypatch), pytest.raises(RemoteError, match="the store refused for now"):
        call(f"{bucket.url}/a")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("protocol", "module"), [("s3", "s3fs"), ("https", "aiohttp")])
def test_failure__names_the_extra_of_a_missing_client(monkeypatch, protocol, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(RemoteError, match=rf"client for {protocol}:// is missing; .*pip install 'curation\[s3\]'"):
        remote.read_bytes(f"{protocol}://b/a")


def test_failure__of_an_unknown_protocol():
    with pytest.raises(RemoteError, match="expected a protocol that fsspec knows, got nosuch://"):
        remote.read_bytes("nosuch://me:pass@b/a")


def test_failure__shows_no_part_of_a_url_that_may_be_secret():
    with pytest.raises(RemoteError, match=r"^https://127\.0\.0\.1:1/a: ") as found:
        remote.put_bytes(b"", f"https://me:{SECRET}@127.0.0.1:1/a?sig={SECRET}")
    assert SECRET not in str(found.value)


def test_http__is_read_and_not_written(tmp_path):
    with scripted(404, "NotFound", times=0) as server:
        assert remote.read_bytes(f"{server.url}/a") == b"fine"
        with pytest.raises(RemoteError, match="http:// can only be read; name a store such as s3://"):
            remote.put_bytes(b"", f"{server.url}/a")


def test_http__of_a_signed_url_lists_the_name_alone():
    with scripted(404, "NotFound", times=0) as server:
        (found,) = remote.list_files(f"{server.url}/x/a.parquet?sig={SECRET}", suffix_test=lambda _: True)
        assert (found.relative, found.size) == ("a.parquet", 4)
        assert remote.read_bytes(found.url) == b"fine"
        assert server.paths[-1] == f"/x/a.parquet?sig={SECRET}"


def test_http__that_is_not_there(tmp_path: Path):
    with scripted(404, "NotFound", times=99) as server:
        assert not remote.exists(f"{server.url}/a")
