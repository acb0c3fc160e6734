"""What columns become in a tar file of samples, and what cannot be one."""

import pyarrow as pa
import pytest

from curation.io.samples import Members, image_suffix, write_samples
from tests.export.project import read_tars


def members(**columns):
    return Members.of(pa.schema(list(columns.items())))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"a/b": pa.string()}, "column 'a/b' cannot be the name of a member"),
        ({".a": pa.int64()}, "column '.a' cannot be"),
        ({"a": pa.string(), "a.txt": pa.string()}, "column 'a.txt' would be the same member as column 'a'"),
        ({"A": pa.string(), "a": pa.string()}, "column 'a' would be the same member as column 'A'"),
        ({"image": pa.binary(), "image.jpg": pa.binary()}, "'image.jpg' may be the same member as a picture of column"),
        ({"a": pa.struct([("b", pa.binary())])}, "column 'a' of type .* has bytes inside other values"),
        ({"a": pa.list_(pa.binary())}, "has bytes inside other values"),
    ],
)
def test_members__that_cannot_be_told_apart_are_refused(columns, says):
    with pytest.raises(ValueError, match=says):
        members(**columns)


def test_members__of_one_object_are_named_otherwise_beside_a_column_json():
    assert members(json=pa.string(), n=pa.int64()).rest == "row.json"
    assert members(text=pa.string(), n=pa.int64()).rest == "json"


@pytest.mark.parametrize(
    ("column", "data", "name"),
    [
        ("image", b"\xff\xd8\xff", "image.jpg"),
        ("jpg", b"\xff\xd8\xff", "jpg"),
        ("jpeg", b"\xff\xd8\xff", "jpeg"),
        ("jpg", b"\x89PNG\r\n\x1a\n", "jpg.png"),
        ("seg.png", b"\x89PNG\r\n\x1a\n", "seg.png"),
        ("tiff", b"II*\x00", "tiff"),
        ("image", b"RIFF\0\0\0\0WEBP", "image.webp"),
        ("pyd", b"anything", "pyd"),
        ("image", b"", "image"),
    ],
)
def test_bytes__keep_their_name_and_get_the_suffix_of_a_picture(column, data, name, tmp_path):
    table = pa.table({column: pa.array([data], pa.binary())})
    write_samples(table, tmp_path / "a.tar", Members.of(table.schema), first=0)
    assert read_tars(tmp_path) == [{name: data}]


def test_image_suffix__is_that_of_what_pillow_writes(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs pillow").new("RGB", (2, 2))
    for suffix in ("jpg", "png", "gif", "bmp", "tif", "webp"):
        image.save(tmp_path / f"a.{suffix}")
        assert image_suffix((tmp_path / f"a.{suffix}").read_bytes()) == suffix
