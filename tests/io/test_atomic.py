"""Files are whole or absent, and JSON is the same for the same value."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import BuildError
from curation.io import commits
from curation.io.atomic import TEMPORARY, dump_json, explained, link_or_copy, void, write_atomic, write_json

NAMES: dict[str, Any] = {"written": "object:written", "named": "object:named"}


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_write__goes_by_a_temporary_name_beside_the_file(tmp_path):
    seen: list[Path] = []

    def fill(path):
        seen.append(path)
        path.write_text("x")

    write_atomic(tmp_path / "a/b.txt", fill, **NAMES)
    assert seen[0].parent == tmp_path / "a"
    assert seen[0].name.startswith(TEMPORARY)
    assert names(tmp_path) == ["b.txt"]


def test_write__that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def fail(path):
        path.write_text("half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_atomic(tmp_path / "a", fail, **NAMES)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_write__is_named_only_when_it_is_complete(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(commits, "hook", lambda point: seen.update({point: names(tmp_path)}))
    write_atomic(tmp_path / "a", lambda path: void(path.write_text("x")), durable=True, **NAMES)
    (unfinished,) = seen["object:written"]
    assert unfinished.startswith(TEMPORARY)
    assert unfinished.endswith("-a")
    assert seen["object:named"] == ["a"]


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "the disk is full; free space"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EACCES, "no permission to write; name another"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EMFILE, "too many open files; raise `ulimit -n`"),
    ],
)
def test_error__of_the_system_says_what_to_do(tmp_path, number, mend):
    def fail(_):
        raise OSError(number, os.strerror(number))

    with pytest.raises(BuildError, match=f"a: cannot be written: {mend}"):
        write_atomic(tmp_path / "a", fail, **NAMES)
    assert names(tmp_path) == []


def test_error__of_arrow_without_a_number_is_a_full_disk(tmp_path):
    with pytest.raises(BuildError, match="the disk is full"), explained(tmp_path):
        raise OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")


def test_error__that_is_no_fault_of_the_surroundings_stays(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"), explained(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_link__gives_a_second_name(tmp_path):
    (tmp_path / "a").write_text("x")
    link_or_copy(tmp_path / "a", tmp_path / "deep/b")
    link_or_copy(tmp_path / "a", tmp_path / "deep/b")
    assert (tmp_path / "deep/b").samefile(tmp_path / "a")
    assert names(tmp_path) == ["a", "b"]


def test_link__copies_where_links_are_not_known(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("old")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"
    assert names(tmp_path) == ["a", "b"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_json__gives_the_value_back(value):
    assert json.loads(dump_json(value)) == value


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.randoms(use_true_random=False))
def test_json__does_not_depend_on_the_order_of_keys(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert dump_json(dict(items)) == dump_json(value)


def test_json__is_compact_and_plain():
    assert dump_json({"b": [1.0, 0.1], "a": "é"}) == '{"a":"é","b":[1.0,0.1]}'


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json__refuses_what_json_has_not(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": value})


def test_json_file__ends_its_line(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1}, **NAMES)
    assert (tmp_path / "a.json").read_bytes() == b'{"a":1}\n'
