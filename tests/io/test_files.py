"""Which files an input is made of, and what makes a file another one."""

from __future__ import annotations

import os

import pytest

from curation.errors import InputError
from curation.io import files
from curation.io.files import file_ref, find_files
from tests.flow.helpers import people, run, write


def lay_out(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def relatives(*patterns, **options):
    return [found.relative for found in find_files([str(pattern) for pattern in patterns], **options)]


def test_folder__is_searched_and_sorted_by_path(tmp_path):
    lay_out(tmp_path, "b.parquet", "a/z.PQ", "a/y.arrow", "c.feather", "d.ipc", "notes.txt")
    assert relatives(tmp_path) == ["a/y.arrow", "a/z.PQ", "b.parquet", "c.feather", "d.ipc"]
    assert [found.format for found in find_files([str(tmp_path)])] == ["arrow", "parquet", "parquet", "arrow", "arrow"]


@pytest.mark.parametrize("name", [".a.parquet", "_a.parquet", ".git/a.parquet", "_tmp/b/a.parquet"])
def test_folder__leaves_hidden_names_out(tmp_path, name):
    lay_out(tmp_path, "kept.parquet", name)
    assert relatives(tmp_path) == ["kept.parquet"]


def test_folder__below_a_hidden_one_is_searched(tmp_path):
    lay_out(tmp_path, ".cache/_v1/a.parquet")
    assert relatives(tmp_path / ".cache/_v1") == ["a.parquet"]


def test_folder__with_a_stated_format_takes_every_suffix(tmp_path):
    lay_out(tmp_path, "part-0", "part-1.snappy")
    assert relatives(tmp_path, stated="parquet") == ["part-0", "part-1.snappy"]


def test_glob__paths_begin_at_its_fixed_part(tmp_path):
    lay_out(tmp_path, "2024/a.parquet", "2025/a.parquet", "2025/b.arrow")
    assert relatives(tmp_path / "*/*.parquet") == ["2024/a.parquet", "2025/a.parquet"]
    assert relatives(tmp_path / "2025/*") == ["a.parquet", "b.arrow"]


def test_glob__crosses_folders_by_two_stars(tmp_path):
    lay_out(tmp_path, "a.parquet", "x/b.parquet", "x/y/c.parquet")
    assert relatives(tmp_path / "**/*.parquet") == ["a.parquet", "x/b.parquet", "x/y/c.parquet"]


def test_file__with_the_signs_of_a_glob_in_its_name_is_itself(tmp_path):
    lay_out(tmp_path, "a[1].parquet", "a1.parquet")
    assert relatives(tmp_path / "a[1].parquet") == ["a[1].parquet"]


def test_files__named_twice_are_read_once(tmp_path):
    lay_out(tmp_path, "a.parquet", "b.parquet")
    assert relatives(tmp_path, tmp_path / "*.parquet", tmp_path / "a.parquet") == ["a.parquet", "b.parquet"]


def test_files__of_one_path_in_two_folders_are_refused(tmp_path):
    lay_out(tmp_path, "x/a.parquet", "y/a.parquet")
    with pytest.raises(InputError, match=r"y/a\.parquet: has the same path 'a\.parquet' inside the input as .*x/a"):
        relatives(tmp_path / "x", tmp_path / "y")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none.parquet", r"none\.parquet: no such file or folder"),
        ("*.parquet", r"\*\.parquet: no file matches"),
        ("empty", r"empty: no file of a known kind in this folder \(\.parquet \.arrow \.jsonl"),
        (
            "notes.txt",
            r"cannot tell the format from the suffix '\.txt'; known are .*; or set `format:` to one of",
        ),
        ("lost", r"lost/manifest\.json: cannot be read as a manifest"),
    ],
)
def test_missing__is_named_with_what_to_do(tmp_path, pattern, message):
    lay_out(tmp_path, "notes.txt", "lost/manifest.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        relatives(tmp_path / pattern)


def test_missing__is_a_mistake_in_the_recipe():
    assert InputError.exit_code == 2


def test_own_output__is_read_by_its_manifest(tmp_path):
    write(tmp_path / "data/a.parquet", people(50))
    text = "recipe: 1\nname: a\nseed: 1\ninputs: {a: {path: data}}\noutput: {path: out, shard_rows: 20}\n"
    run(tmp_path, text)
    lay_out(tmp_path, "out/shards/older/part-00009.arrow")
    assert relatives(tmp_path / "out") == ["part-00000.arrow", "part-00001.arrow", "part-00002.arrow"]


def key_of(path, **options):
    return file_ref(path, path.name, **options).key


def test_key__of_a_small_file_is_its_content(tmp_path):
    path = lay_out(tmp_path, "a.parquet") / "a.parquet"
    before = key_of(path)
    os.utime(path, (1, 1))
    assert key_of(path) == before == key_of(path, verify=True)
    path.write_bytes(b"B.parquet")
    assert key_of(path) != before


def test_key__does_not_hold_the_name(tmp_path):
    (tmp_path / "a.arrow").write_bytes(b"same")
    (tmp_path / "b.arrow").write_bytes(b"same")
    assert key_of(tmp_path / "a.arrow") == key_of(tmp_path / "b.arrow")


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that is too large to be hashed whole."""
    monkeypatch.setattr(files, "PROBE_BYTES", 16)
    path = tmp_path / "large.parquet"
    path.write_bytes(bytes(range(100)))
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_key__of_a_large_file_sees_the_time_of_change(large):
    before = key_of(large)
    os.utime(large, ns=(10**18, 10**18 + 1))
    assert key_of(large) != before


@pytest.mark.parametrize(("place", "seen"), [(0, True), (15, True), (50, False), (84, True), (99, True)])
def test_key__of_a_large_file_sees_head_and_tail(large, place, seen):
    before = key_of(large)
    with large.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff")
    os.utime(large, ns=(10**18, 10**18))
    assert (key_of(large) != before) == seen


def test_key__with_verify_sees_every_byte_and_no_time(large):
    before = key_of(large, verify=True)
    os.utime(large, (1, 1))
    assert key_of(large, verify=True) == before
    raw = bytearray(large.read_bytes())
    raw[50] = 255
    large.write_bytes(raw)
    assert key_of(large, verify=True) != before


def test_key__of_a_replaced_large_file_differs(large, tmp_path):
    before = key_of(large)
    other = tmp_path / "other"
    other.write_bytes(large.read_bytes())
    os.utime(other, ns=(10**18, 10**18))
    os.replace(other, large)
    assert key_of(large) != before


@pytest.mark.parametrize("size", [0, 31, 32])
def test_key__up_to_twice_the_probe_is_content_alone(large, size):
    large.write_bytes(bytes(size))
    before = key_of(large)
    os.utime(large, (1, 1))
    assert key_of(large) == before


def test_file__that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "loop.parquet"
    path.symlink_to(path)
    with pytest.raises(InputError, match=r"loop\.parquet: cannot be read: Too many levels"):
        key_of(path)
