"""Every reader under every fault, in a whole build: a named error, or quarantine with every good row kept and counted.

Three files of an input, the one in the middle is hurt. Whatever happens to it, the others are whole.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.errors import CurationError
from curation.io.manifest import read_manifest
from tests.flow.helpers import read, run

ROWS = 120
FORMATS = ("parquet", "arrow", "jsonl", "jsonl.gz", "csv", "webdataset", "images")
SUFFIX = {"webdataset": "tar"}
RECIPE = """
recipe: 1
name: faults
seed: 1
inputs:
  a: {path: data, on_bad_rows: %s, max_bad: 1.0%s}
output: {path: out}
"""


def text(i):
    return f"text {i} " + "x" * (i % 30)


def table(start, rows=ROWS):
    index = range(start, start + rows)
    return pa.table({"id": np.arange(start, start + rows), "text": [text(i) for i in index]})


def png(i):
    file = io.BytesIO()
    Image.new("RGB", (8 + i % 7, 9), (i % 256, 3, 5)).save(file, "PNG")
    return file.getvalue()


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def lines(start, rows=ROWS):
    return [json.dumps({"id": i, "text": text(i)}).encode() + b"\n" for i in range(start, start + rows)]


def whole(kind, start, rows=ROWS):
    """Bytes of a sound file."""
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table(start, rows), sink, row_group_size=40, compression="none", use_dictionary=False)
        return sink.getvalue()
    if kind == "arrow":
        with pa.ipc.new_file(sink, table(0).schema) as writer:
            for at in range(0, rows, 40):
                writer.write_table(table(start + at, min(40, rows - at)))
        return sink.getvalue()
    if kind.startswith("jsonl"):
        data = b"".join(lines(start, rows))
        return gzip.compress(data, mtime=0) if kind.endswith("gz") else data
    if kind == "csv":
        return b"id,text\n" + b"".join(f"{i},{text(i)}\n".encode() for i in range(start, start + rows))
    members = [(f"{i:06}.{e}", c) for i in range(start, start + rows) for e, c in _sample(i)]
    return tar(members)


def _sample(i):
    return (("cls", str(i).encode()), ("txt", text(i).encode()))


def lay_out(folder, kind, hurt: Callable[[bytes], bytes] | None = None):
    """Three files, or for images a hundred and twenty in each of three folders; the middle one is hurt."""
    for number, name in enumerate(("0", "1", "2")):
        if kind == "images":
            for i in range(10 * number, 10 * number + 10):
                path = folder / "data" / name / f"{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(hurt(png(i)) if hurt and i == 15 else png(i))
            continue
        data = whole(kind, ROWS * number)
        path = folder / "data" / f"{name}.{SUFFIX.get(kind, kind)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hurt(data) if hurt and number == 1 else data)


def rows_of(kind, out):
    """What was kept, by a number that every row has."""
    found = read(out)
    if kind == "images":
        return {int(Path(row["path"]).stem): row["image"] for row in found.to_pylist()}
    if kind == "webdataset":
        return {row["cls"]: row["txt"] for row in found.to_pylist()}
    return {row["id"]: row["text"] for row in found.to_pylist()}


def originals(kind):
    return {i: png(i) for i in range(30)} if kind == "images" else {i: text(i) for i in range(3 * ROWS)}


def middle(kind):
    return range(10, 20) if kind == "images" else range(ROWS, 2 * ROWS)


# Faults: bytes of the middle file in, bytes out.


def flip(data):
    """Bytes of a text, or of what stands in its place, become 0xFF."""
    at = len(data) // 2
    return data[:at] + b"\xff" * 8 + data[at + 8 :]


def truncate(data):
    return data[: len(data) * 2 // 3]


def truncate_csv(data):
    """Cut inside the first field of a record; a cut inside the last one cannot be seen."""
    return truncate(data).rpartition(b"\n")[0] + b"\n21"


def empty(data):
    return b""


def garbage(data):
    return np.random.default_rng(0).bytes(len(data))


def _text_line(kind, old, new):
    """Replace in the text formats, compressed or not."""

    def hurt(data):
        plain = gzip.decompress(data) if kind.endswith("gz") else data
        assert old in plain
        changed = plain.replace(old, new, 1)
        return gzip.compress(changed, mtime=0) if kind.endswith("gz") else changed

    return hurt


def value_of(kind, i, new):
    """Another value in the place of number ``i``, as the format writes it."""
    if kind == "csv":
        return _text_line(kind, f"\n{i},".encode(), b"\n" + new + b",")
    if kind == "webdataset":
        return lambda data: tar(
            [(f"{k:06}.{e}", new if (k, e) == (i, "cls") else c) for k in range(ROWS, 2 * ROWS) for e, c in _sample(k)]
        )
    return _text_line(kind, f'"id": {i},'.encode(), b'"id": ' + new + b",")


def outcome(folder, policy, kind=""):
    """Build; the error's text, or None."""
    # One text in a column of a small CSV file makes it a column of texts, unless it is declared.
    types = ", types: {id: int64}" if kind == "csv" else ""
    try:
        run(folder, RECIPE % (policy, types))
    except CurationError as error:
        return str(error)
    return None


def check(folder, kind, hurt, *, lost=None):
    """A strict build names the file; one that sets rows aside keeps exactly the others.

    ``lost`` are the numbers that may be missing; without it any of the middle file.
    """
    lay_out(folder, kind, hurt)
    strict = outcome(folder, "error", kind)
    assert strict is not None
    assert f"data/1{'' if kind == 'images' else '.' + SUFFIX.get(kind, kind)}" in strict
    assert not (folder / "out/manifest.json").exists()
    assert outcome(folder, "quarantine", kind) is None
    account = read_manifest(folder / "out").content["inputs"]["a"]
    assert account["read"] == account["kept"] + account["dropped"] + account["not_selected"] + account["quarantined"]
    assert account["quarantined"] or account["unreadable_files"]
    kept, known = rows_of(kind, folder / "out"), originals(kind)
    assert kept.items() <= known.items()  # nothing is changed
    missing = known.keys() - kept.keys()
    assert missing == set(lost) if lost is not None else missing <= set(middle(kind))
    return missing


@pytest.mark.parametrize("kind", FORMATS)
def test_sound_files__are_kept_whole(tmp_path, kind):
    lay_out(tmp_path, kind)
    assert outcome(tmp_path, "error") is None
    assert rows_of(kind, tmp_path / "out") == originals(kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated__file(tmp_path, kind):
    missing = check(tmp_path, kind, truncate_csv if kind == "csv" else truncate)
    if kind in ("jsonl", "csv", "webdataset"):
        assert len(missing) < ROWS / 2  # what stands before the cut is there


@pytest.mark.parametrize("kind", FORMATS)
def test_empty__file(tmp_path, kind):
    if kind == "jsonl":  # a text without lines is sound
        lay_out(tmp_path, kind, empty)
        assert outcome(tmp_path, "error") is None
        assert len(rows_of(kind, tmp_path / "out")) == 2 * ROWS
        return
    check(tmp_path, kind, empty, lost=[15] if kind == "images" else middle(kind))


@pytest.mark.parametrize("kind", FORMATS)
def test_garbage__in_place_of_a_file(tmp_path, kind):
    check(tmp_path, kind, garbage, lost=[15] if kind == "images" else middle(kind))


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits__in_the_middle_of_a_file(tmp_path, kind):
    missing = check(tmp_path, kind, flip)
    # A damaged block of a compressed file takes what follows with it; a row group, its rows.
    limit = {"jsonl.gz": ROWS, "parquet": 40, "arrow": 40, "images": 1}.get(kind, 2)
    assert len(missing) <= limit


@pytest.mark.parametrize("value", [b'"seven"', b'"\xff\xfe"', b"9" * 40])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "webdataset"])
def test_bad_value__costs_its_record(tmp_path, kind, value):
    check(tmp_path, kind, value_of(kind, ROWS + 17, value), lost=[ROWS + 17])


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_drift__of_a_column_to_text_is_refused_with_file_and_column(tmp_path, kind):
    other = table(0).set_column(0, "id", pa.array([f"n{i}" for i in range(ROWS)]))
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(other, sink)
    else:
        with pa.ipc.new_file(sink, other.schema) as writer:
            writer.write_table(other)
    lay_out(tmp_path, kind, lambda data: sink.getvalue())
    for policy in ("error", "quarantine"):
        assert "data/1." in (told := outcome(tmp_path, policy) or "")
        assert "column 'id' is string, not int64" in told


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_drift__of_a_column_to_text_in_one_file_is_refused_with_file_and_column(tmp_path, kind):
    data = {
        "jsonl": b"".join(b'{"id": "n%d", "text": "a"}\n' % i for i in range(9)),
        "csv": b"id,text\n" + b"".join(b"n%d,a\n" % i for i in range(9)),
    }[kind]
    lay_out(tmp_path, kind, lambda _: data)
    told = outcome(tmp_path, "error") or ""
    assert "data/1." in told
    assert "column 'id' is string, not int64" in told


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "webdataset"])
def test_bomb__is_one_bad_record(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("curation.io.records.base.MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr("curation.io.records.base.READ_BYTES", 1 << 18)
    monkeypatch.setattr("curation.io.records.tar.MEMBER_BYTES", 1 << 20)
    check(tmp_path, kind, value_of(kind, ROWS + 17, b"1" * (3 << 20)), lost=[ROWS + 17])


@pytest.mark.parametrize("name", ["../000137.cls", "/000137.cls"])
def test_path_escape__is_one_bad_record_and_writes_nothing_outside(tmp_path, name):
    def hurt(data):
        return tar(
            [
                (name if (k, e) == (ROWS + 17, "cls") else f"{k:06}.{e}", c)
                for k in range(ROWS, 2 * ROWS)
                for e, c in _sample(k)
            ]
        )

    check(tmp_path, "webdataset", hurt, lost=[ROWS + 17])
    assert not list(tmp_path.rglob("000137.cls"))


def test_image__of_too_many_pixels_is_one_bad_row(tmp_path):
    def bomb(data):
        at = data.index(b"IHDR")
        head = data[at + 4 : at + 17]
        huge = (1 << 20).to_bytes(4, "big") * 2 + head[8:]
        import zlib

        return data[: at + 4] + huge + zlib.crc32(b"IHDR" + huge).to_bytes(4, "big") + data[at + 21 :]

    check(tmp_path, "images", bomb, lost=[15])


def test_many_members__go_through(tmp_path):
    members = [(f"{i:06}.cls", str(i).encode()) for i in range(100_000)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/0.tar").write_bytes(tar(members))
    assert outcome(tmp_path, "error") is None
    assert read_manifest(tmp_path / "out").rows == 100_000
