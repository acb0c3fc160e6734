"""Samples in tar files: whole, or named with the member that spoils them."""

from __future__ import annotations

import gzip
import io
import tarfile
import time

import pyarrow as pa
import pytest

from curation.io.formats import UnreadableError
from curation.io.records import base, tar, webdataset
from curation.io.records.base import Options, WidenError
from curation.io.records.webdataset import WEBDATASET
from tests.io.records.helpers import got


def packed(*members, kind=tarfile.USTAR_FORMAT, **odd):
    """Tar of (name, content) pairs, or of ready headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind, **odd) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def samples(count):
    return [part for i in range(count) for part in ((f"d/{i:03}.bin", bytes([i])), (f"d/{i:03}.cls", str(i).encode()))]


def rows(*numbers):
    return [{"__key__": f"d/{i:03}", "bin": bytes([i]), "cls": i} for i in numbers]


def special(name, kind, link="target"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["d", "d" * 150])
def test_read__groups_members_by_key(kind, folder):
    data = packed(
        (f"{folder}/a.jpg", b"\0\1"), (f"{folder}/a.txt", "é".encode()), (f"./{folder}/b.json", b"{}"), kind=kind
    )
    assert got("webdataset", data).rows == [
        {"__key__": f"{folder}/a", "jpg": b"\0\1", "txt": "é", "json": None},
        {"__key__": f"{folder}/b", "jpg": None, "txt": None, "json": "{}"},
    ]


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("../x.bin", b"1"), "member '../x.bin': a path that leads out of the archive"),
        (("/etc/x.bin", b"1"), "member '/etc/x.bin': a path that leads out of the archive"),
        (("d/../../x.bin", b"1"), "member 'd/../../x.bin': a path that leads out of the archive"),
        (special("x.bin", tarfile.SYMTYPE), "member 'x.bin': a symbolic link, which is not followed"),
        (special("x.bin", tarfile.LNKTYPE), "member 'x.bin': a hard link, which is not followed"),
        (special("x.bin", tarfile.CHRTYPE), "member 'x.bin': a character device, which is not followed"),
        (special("x.bin", tarfile.FIFOTYPE), "member 'x.bin': a pipe, which is not followed"),
        (special("x.bin", tarfile.GNUTYPE_SPARSE), "member 'x.bin': a sparse file, which is not read"),
        (special("x.bin", b"Z"), "member 'x.bin': an entry of the unknown type b'Z'"),
        (("README", b"1"), "member 'README': expected a name like key.extension"),
        (("d/.hidden", b"1"), "member 'd/.hidden': expected a name like key.extension"),
        (("x.cls", b"abc"), "member 'x.cls': 'abc' is no int64; declare it: types: {cls: binary}"),
        (("x\n.bin", b"1"), "member 'x\\n.bin': a name that is not UTF-8 or has control characters"),
    ],
)
def test_bad_member__is_named_and_other_samples_are_kept(member, why):
    data = packed(*samples(3), member, ("d/007.cls", b"7"), ("d/007.bin", b"\7"))
    found = got("webdataset", data)
    assert found.reasons == {3: why}
    assert found.rows == rows(0, 1, 2, 7)
    assert found.bad[0].offset == 3 * 2 * 1024


def test_bad_member__spoils_its_sample_only():
    data = packed(*samples(2), ("d/002.bin", b"\2"), ("d/002.cls", b"x"), *samples(5)[6:])
    found = got("webdataset", data)
    assert (found.rows, list(found.reasons)) == (rows(0, 1, 3, 4), [2])
    assert (found.bad[0].offset, found.bad[0].length, found.bad[0].raw) == (4 * 1024, 2 * 1024, b"x")


def test_bad_member__a_second_one_of_a_name():
    found = got("webdataset", packed(*samples(1), ("d/000.bin", b"2"), *samples(2)[2:]))
    assert found.reasons == {0: "member 'd/000.bin': a second one of this name in the sample"}
    assert found.rows == rows(1)


@pytest.mark.parametrize("at", range(0, 10 * 1024, 1024))
def test_header__with_a_wrong_check_sum_costs_its_sample_only(at):
    data = bytearray(packed(*samples(5)))
    data[at + 125] ^= 2
    found = got(
        "webdataset", bytes(data), schema=WEBDATASET.sniff(io.BytesIO(packed(*samples(1))), Options(), name="a")
    )
    hit = at // 2048
    assert found.rows == rows(*(i for i in range(5) if i != hit))
    assert list(found.reasons) == [hit]
    assert f"member 'd/00{hit}.{'cls' if at % 2048 else 'bin'}': a header with a wrong check sum" in found.reasons[hit]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1536, 2048, 5000])
def test_archive__cut_short_keeps_whole_samples_and_says_so(cut):
    data = packed(*samples(5))[: 10 * 1024 - cut]
    found = got("webdataset", data)
    whole = (10 * 1024 - cut - 1) // 2048
    assert found.rows == rows(*range(whole))
    assert list(found.reasons) == [whole]
    assert "the end mark of the archive is missing" in str(found.error)


def test_archive__compressed_and_cut_short_keeps_whole_samples():
    data = gzip.compress(packed(*samples(200)), mtime=0)
    found = got("webdataset", data[: len(data) * 2 // 3], name="a.tar.gz")
    assert found.rows == rows(*range(len(found.rows)))
    assert len(found.rows) > 50
    assert len(found.bad) == 1
    assert "broken at compressed byte" in str(found.error)


def test_archives__that_were_joined_are_read_on():
    assert got("webdataset", packed(*samples(2)) + packed(*samples(4)[4:])).rows == rows(0, 1, 2, 3)


@pytest.mark.parametrize("data", [b"", b"text" * 500, b"{}\n", b"\x1f\x8b" + bytes(range(256)) * 4])
def test_sniff__refuses_what_is_no_tar(data):
    with pytest.raises(UnreadableError, match="not a tar file"):
        WEBDATASET.sniff(io.BytesIO(data), Options(), name="a.tar")


def test_sniff__of_an_archive_whose_first_header_is_damaged_is_refused():
    with pytest.raises(UnreadableError, match="it does not begin with a header"):
        WEBDATASET.sniff(io.BytesIO(b"x" + packed(*samples(1))[1:]), Options(), name="a.tar")


def test_sniff__of_an_empty_archive_has_keys_only():
    assert WEBDATASET.sniff(io.BytesIO(packed()), Options(), name="a.tar").names == ["__key__"]


def test_read__new_extensions_are_asked_for_in_one_go():
    data = packed(*samples(2), ("e.one", b"1"), ("f.two", b"2"))
    schema = WEBDATASET.sniff(io.BytesIO(packed(*samples(1))), Options(), name="a.tar")
    with pytest.raises(WidenError, match="column 'one' is new") as asked:
        list(WEBDATASET.read(io.BytesIO(data), schema, Options(), name="a.tar"))
    assert asked.value.schema.names == ["__key__", "bin", "cls", "one", "two"]


def test_read__too_many_extensions_are_refused():
    with pytest.raises(UnreadableError, match="more than 255 extensions"):
        got("webdataset", packed(*((f"a.x{i}", b"") for i in range(300))))


def test_types__declared_ones_hold_and_columns_can_be_chosen():
    data = packed(("a.cls", b"cat"), ("a.bin", b"1"), ("b.cls", b"dog"), ("b.bin", b"\xff"))
    found = got("webdataset", data, options=Options(types={"cls": pa.string(), "bin": pa.float64()}))
    assert found.all == [{"__key__": "a", "cls": "cat", "bin": 1.0}, None]
    assert got("webdataset", data, options=Options(types={"cls": pa.string()}), columns=["cls"]).rows[1] == {
        "cls": "dog"
    }


def test_bomb__a_member_that_is_too_large_is_skipped(monkeypatch):
    monkeypatch.setattr(tar, "MEMBER_BYTES", 1000)
    found = got("webdataset", packed(*samples(1), ("big.bin", bytes(5000)), *samples(2)[2:]))
    assert found.reasons == {1: "member 'big.bin': 5000 bytes, at most 1000 are read"}
    assert found.rows == rows(0, 1)


def test_blocks__are_bounded(monkeypatch):
    monkeypatch.setattr(webdataset, "BLOCK_BYTES", 10)
    monkeypatch.setattr(base, "BLOCK_ROWS", 3)
    found = got("webdataset", packed(*samples(8)))
    assert [block.table.num_rows for block in found.blocks] == [3, 3, 2]
    assert found.rows == rows(*range(8))


def test_read__of_many_members_takes_no_time_to_speak_of():
    one = packed(("000000.cls", b"1"))[:1024]
    data = b"".join(_renamed(one, f"{i:06}.cls") for i in range(100_000)) + bytes(1024)
    begun = time.monotonic()
    found = got("webdataset", data)
    assert [row["__key__"] for row in found.rows] == [f"{i:06}" for i in range(100_000)]
    assert time.monotonic() - begun < 60


def _renamed(member, name):
    header = bytearray(member)
    header[: len(name)] = name.encode()
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)
