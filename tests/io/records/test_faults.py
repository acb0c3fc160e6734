"""Every format under every fault: a named error or exactly named records, and every good row is there."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import tracemalloc

import pyarrow as pa
import pytest

from curation.io.formats import UnreadableError
from curation.io.records import base, record_format
from curation.io.records.base import Options
from tests.io.records.helpers import got

COMPRESS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
FORMATS = ["jsonl", "csv", "webdataset"]
SUFFIX = {"jsonl": ".jsonl", "csv": ".csv", "webdataset": ".tar"}
ROWS = 3000
MANY = {"jsonl": 12_000, "csv": 12_000, "webdataset": ROWS}
"""Rows of more than one block of a compressor."""
WORDS = [random.Random(i).randbytes(12).hex() for i in range(max(MANY.values()))]


def tar_member(name, content, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def record(kind, i, value=None):
    """Record ``i``; ``value`` stands in place of its number."""
    value = str(i).encode() if value is None else value
    word = WORDS[i].encode()
    if kind == "jsonl":
        return b'{"cls": %b, "txt": "%b"}\n' % (value, word)
    if kind == "csv":
        return b"%b,%b\n" % (value, word)
    return tar_member(f"{i:06}.cls", value) + tar_member(f"{i:06}.txt", word)


def whole(kind, rows=ROWS, odd=None, at=100):
    """A file; ``odd`` stands in place of record ``at``."""
    records = [record(kind, i) for i in range(rows)]
    if odd is not None:
        records[at] = odd
    return {"csv": b"cls,txt\n"}.get(kind, b"") + b"".join(records) + {"webdataset": bytes(1024)}.get(kind, b"")


def values(kind, found):
    """Rows by their texts, the same for all formats."""
    assert all(row.get("__key__", f"{row['cls']:06}") == f"{row['cls']:06}" for row in found.rows)
    return [(row["cls"], row["txt"]) for row in found.rows]


def expected(rows):
    return [(i, WORDS[i]) for i in rows]


def schema_of(kind):
    return record_format(kind).sniff(io.BytesIO(whole(kind, 5)), Options(), name="a" + SUFFIX[kind])


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", FORMATS)
def test_sound_file__is_read_whole(kind, suffix):
    found = got(kind, COMPRESS[suffix](whole(kind)), name="a" + SUFFIX[kind] + suffix)
    assert (values(kind, found), found.bad, found.error) == (expected(range(ROWS)), [], None)


@pytest.mark.parametrize("suffix", [each for each in COMPRESS if each])
@pytest.mark.parametrize("kind", FORMATS)
def test_truncated__compressed_file_keeps_a_prefix_and_names_the_byte(kind, suffix):
    packed = COMPRESS[suffix](whole(kind, MANY[kind]))
    found = got(kind, packed[: len(packed) * 4 // 5], name="a" + SUFFIX[kind] + suffix, schema=schema_of(kind))
    assert values(kind, found) == expected(range(len(found.rows)))
    assert "broken at compressed byte" in str(found.error)
    assert len(found.bad) <= 1
    assert len(found.rows) > MANY[kind] // 2 or suffix == ".bz2"  # one block of bzip2 holds it all


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated__plain_file_keeps_a_prefix(kind):
    data = whole(kind, 300)
    cut = len(data) - len(record(kind, 299)) * 3 // 2 - {"webdataset": 1024}.get(kind, 0)
    found = got(kind, data[:cut], name="a" + SUFFIX[kind])
    # CSV cannot tell: the last text is shorter, and still a text.
    assert values(kind, found)[:298] == expected(range(298))
    assert len(found.rows) == 298 + (kind == "csv")
    assert found.bad or kind == "csv"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("kind", FORMATS)
def test_bit_flip__in_a_compressed_file_is_named(kind, suffix):
    packed = bytearray(COMPRESS[suffix](whole(kind)))
    packed[len(packed) // 2] ^= 16
    found = got(kind, bytes(packed), name="a" + SUFFIX[kind] + suffix, schema=schema_of(kind))
    assert "broken at compressed byte" in str(found.error)


@pytest.mark.parametrize("kind", FORMATS)
def test_bit_flip__in_the_middle_of_a_plain_file_costs_one_record_at_most(kind):
    data = whole(kind, 500)
    for at in range(len(data) // 2, len(data) // 2 + 200, 7):
        hurt = data[:at] + bytes([data[at] ^ 128]) + data[at + 1 :]
        found = got(kind, hurt, name="a" + SUFFIX[kind], schema=schema_of(kind))
        assert len(set(expected(range(500))) - set(values(kind, found))) <= (2 if kind != "webdataset" else 1)
        assert found.bad or kind == "webdataset"


@pytest.mark.parametrize(
    ("fault", "value"), [("wrong type", b'"text"'), ("bad encoding", b'"\xff\xfe"'), ("too large", b"9" * 30)]
)
@pytest.mark.parametrize("kind", FORMATS)
def test_bad_value__is_one_bad_record(kind, fault, value):
    found = got(kind, whole(kind, odd=record(kind, 100, value)), name="a" + SUFFIX[kind], schema=schema_of(kind))
    assert values(kind, found) == expected([i for i in range(ROWS) if i != 100])
    assert list(found.reasons) == [100]
    assert {"wrong type": "is no int64", "bad encoding": "not UTF-8", "too large": "int64"}[fault] in found.reasons[100]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", FORMATS)
def test_bomb__is_skipped_in_bounded_memory(kind, suffix, monkeypatch):
    monkeypatch.setattr(base, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(base, "READ_BYTES", 1 << 18)
    monkeypatch.setattr("curation.io.records.tar.MEMBER_BYTES", 1 << 20)
    packed = COMPRESS[suffix](whole(kind, 300, odd=record(kind, 100, b"1" * (40 << 20))))
    schema = schema_of(kind)
    tracemalloc.start()
    found = got(kind, packed, name="a" + SUFFIX[kind] + suffix, schema=schema)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values(kind, found) == expected([i for i in range(300) if i != 100])
    assert list(found.reasons) == [100]
    assert peak < 20 << 20


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", FORMATS)
def test_file__without_a_byte_is_refused(kind, suffix):
    if (kind, suffix) == ("jsonl", ""):
        assert got(kind, b"").all == []  # a text without lines is sound
        return
    with pytest.raises(UnreadableError, match=r"it holds no byte|no header"):
        record_format(kind).sniff(io.BytesIO(b""), Options(), name="a" + SUFFIX[kind] + suffix)


@pytest.mark.parametrize("kind", FORMATS)
def test_drift__of_types_halfway_widens_or_names_every_record(kind, monkeypatch):
    monkeypatch.setattr(base, "SNIFF_BYTES", 1000)
    records = [record(kind, i, None if i < 500 else f"{i}.5".encode()) for i in range(600)]
    end = bytes(1024) if kind == "webdataset" else b""
    found = got(kind, {"csv": b"cls,txt\n"}.get(kind, b"") + b"".join(records) + end, name="a" + SUFFIX[kind])
    if kind == "webdataset":
        assert list(found.reasons) == list(range(500, 600))
    else:
        assert [row["cls"] for row in found.rows] == [i + 0.5 * (i >= 500) for i in range(600)]


@pytest.mark.parametrize("name", ["../000100.cls", "/000100.cls", "a/../../000100.cls"])
def test_path_escape__is_refused_by_name(name):
    found = got("webdataset", whole("webdataset", odd=tar_member(name, b"1")), name="a.tar")
    assert found.reasons == {100: f"member '{name}': a path that leads out of the archive"}
    assert values("webdataset", found) == expected([i for i in range(ROWS) if i != 100])
