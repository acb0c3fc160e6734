"""Image files: their facts by an independent way, and damaged ones named."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib

import pytest

from curation.errors import CurationError
from curation.io.records import images
from curation.io.records.images import IMAGE_SCHEMA, read_images
from tests.io.records.helpers import Got

Image = pytest.importorskip("PIL.Image")


def encoded(kind="PNG", size=(7, 5), mode="RGB"):
    out = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(out, kind)
    return out.getvalue()


def read(folder, files, **options):
    paths = []
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths.append((str(path), name))
    return Got(list(read_images(paths, **options)), IMAGE_SCHEMA, None)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "1"), ("WEBP", "RGB")]
)
def test_read__gives_bytes_label_and_facts(tmp_path, kind, mode):
    data = encoded(kind, mode=mode)
    assert read(tmp_path, {"a/cat/1.x": data}).rows == [
        {"path": "a/cat/1.x", "label": "cat", "image": data, "width": 7, "height": 5, "format": kind, "mode": mode}
    ]


def test_label__of_a_file_at_the_top_is_null(tmp_path):
    assert read(tmp_path, {"1.png": encoded()}).rows[0]["label"] is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "an empty file"),
        (b"hello world", "not an image that Pillow knows, it begins with b'hello wo'"),
        (encoded()[:20], "not an image|not a sound image"),
        (encoded()[:-30] + b"x" + encoded()[-29:], "not a sound image: .*checksum|broken PNG"),
    ],
)
def test_bad_image__is_named_and_its_neighbours_are_kept(tmp_path, data, why):
    found = read(tmp_path, {"1.png": encoded(), "d/2.png": data, "3.png": encoded()})
    assert [row["path"] for row in found.rows] == ["1.png", "3.png"]
    assert (found.bad[0].row, found.bad[0].offset, found.bad[0].length, found.bad[0].raw) == (1, 0, len(data), data)
    assert re.search(why, found.reasons[1])


def test_truncated_image__is_found_by_decoding(tmp_path):
    data = encoded("JPEG", (99, 99))
    files = {"1.jpg": data, "2.jpg": data[: len(data) // 2]}
    assert read(tmp_path, files).reasons == {}
    assert "truncated" in read(tmp_path, files, decode=True).reasons[1]


def test_bomb__is_refused_by_its_header(tmp_path):
    size = struct.pack(">II", 100_000, 100_000)
    body = b"IHDR" + size + b"\x08\x00\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\r" + body + struct.pack(">I", zlib.crc32(body)) + encoded()[33:]
    assert read(tmp_path, {"1.png": bomb}).reasons[0].startswith("'1.png': ")


def test_bomb__below_the_limit_of_pillow_is_refused_by_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    assert read(tmp_path, {"1.png": encoded()}).reasons == {0: "'1.png': 7 x 5 pixels, at most 34 are read"}


def test_missing_file__is_a_bad_record(tmp_path):
    found = list(read_images([(str(tmp_path / "no.png"), "no.png")]))
    assert found[0].bad[0].reason == "'no.png': cannot be read: No such file or directory"


def test_blocks__are_bounded_and_columns_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "BLOCK_BYTES", 1)
    files = {f"{i}.png": encoded() for i in range(3)}
    assert [block.table.num_rows for block in read(tmp_path, files).blocks] == [1, 1, 1]
    assert read(tmp_path, files, columns=["height", "path"]).rows[2] == {"height": 5, "path": "2.png"}


def test_pillow__is_asked_for_by_the_name_of_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CurationError, match=r"Pillow is not installed; install curation\[images\]"):
        list(read_images([("a", "a")]))
