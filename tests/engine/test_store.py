"""Work counts as done only when its mark stands and its data are whole."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curation.engine.store import Store, decode, digest_of, encode, load_state
from curation.io import commits
from curation.io.atomic import TEMPORARY, dump_json

KEY = "ab" + "0" * 30
OTHER = "cd" + "0" * 30
TABLE = pa.table({"n": [1, 2, 3], "t": ["a", None, "é"]})


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "work"))


def files(store):
    return sorted(p.name for p in (store.data(KEY).parent.parent).rglob("*") if p.is_file())


def test_mark__of_unknown_work_is_none(store):
    assert store.mark(KEY) is None


def test_mark__comes_back_as_it_was(store):
    value = {"rows": 3, "share": 0.1, "names": ["é", None], "nested": {"b": True}}
    assert store.finish(KEY, value) == value
    assert store.mark(KEY) == value


def test_mark__just_made_is_the_one_that_is_read_back(store):
    made = store.finish(KEY, {"b": {"z": 1, "y": (2, 3)}, "a": 0})
    assert dump_json(made, sort=False) == dump_json(store.mark(KEY), sort=False)


def test_data__without_a_mark_are_not_done(store):
    store.write_table(KEY, TABLE)
    assert store.mark(KEY) is None


def test_mark__of_data_that_are_gone_is_none(store):
    store.finish(KEY, store.write_table(KEY, TABLE))
    store.data(KEY).unlink()
    assert store.mark(KEY) is None


@pytest.mark.parametrize("size", [0, 1, -1])
def test_mark__of_data_of_another_size_is_none(store, size):
    mark = store.finish(KEY, store.write_table(KEY, TABLE))
    raw = store.data(KEY).read_bytes()
    store.data(KEY).write_bytes((raw + raw)[: size % len(raw) if size <= 0 else len(raw) + size])
    assert mark["data"]["bytes"] == len(raw)
    assert store.mark(KEY) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"data": 3}', '{"data": {"suffix": ".arrow"}}', "\ufffd{"]
)
def test_mark__that_is_damaged_counts_as_not_done(store, text):
    store.finish(KEY, store.write_table(KEY, TABLE))
    store.data(KEY, ".json").write_text(text, "utf-8")
    assert store.mark(KEY) is None


@pytest.mark.parametrize("point", ["object:written", "object:named", "mark:written"])
def test_mark__is_none_until_the_very_end(store, monkeypatch, point):
    def stop(reached):
        if reached == point:
            raise InterruptedError(point)

    monkeypatch.setattr(commits, "hook", stop)
    with pytest.raises(InterruptedError, match=point):
        store.finish(KEY, store.write_table(KEY, TABLE))
    assert store.mark(KEY) is None
    assert not [name for name in files(store) if name.startswith(TEMPORARY)]


def test_write__that_fails_leaves_no_file(store):
    def half(path):
        path.write_text("half")
        raise ValueError("cannot go on")

    with pytest.raises(ValueError, match="cannot go on"):
        store.write(KEY, ".txt", half)
    assert files(store) == []


def test_write__states_size_and_hash(store):
    found = store.write(KEY, ".txt", lambda path: path.write_bytes(b"abc"))["data"]
    assert found == {"suffix": ".txt", "bytes": 3, "xxh3": digest_of(store.data(KEY, ".txt"))}


def test_digest__of_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    assert digest_of(tmp_path / "empty") == "99aa06d3014798d86001c324468d497f"


def test_table__comes_back_as_it_was(store):
    parts = pa.concat_tables([TABLE, TABLE])
    store.write_table(KEY, parts)
    assert store.table(KEY).equals(parts)


def test_intact__sees_one_changed_byte(store):
    mark = store.finish(KEY, store.write_table(KEY, TABLE))
    assert store.intact(KEY, mark)
    raw = bytearray(store.data(KEY).read_bytes())
    raw[len(raw) // 2] ^= 1
    store.data(KEY).write_bytes(raw)
    assert store.mark(KEY) == mark
    assert not store.intact(KEY, mark)


def test_forget__takes_a_mark_back(store):
    store.finish(KEY, {})
    store.forget(KEY)
    store.forget(KEY)
    assert store.mark(KEY) is None


def test_sweep__keeps_what_is_used_and_removes_the_rest(store):
    for key in (KEY, OTHER):
        store.finish(key, store.write_table(key, TABLE))
    (store.data(KEY).parent / f"{TEMPORARY}1-{KEY}.arrow").touch()
    store.sweep([KEY])
    assert files(store) == [f"{KEY}.arrow", f"{KEY}.json"]
    assert store.mark(KEY) is not None


def test_clear__removes_everything(store):
    store.finish(KEY, {})
    store.clear()
    store.clear()
    assert files(store) == []


def test_load_state__says_what_to_do_when_it_is_gone(store):
    with pytest.raises(FileNotFoundError, match="is gone; run the same command again"):
        load_state(store, KEY)


ARRAYS = hnp.arrays(
    st.sampled_from(["<i8", "<u8", "<f8", "<f4", "|b1", ">i4", "<u4"]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0),
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
STATES = st.recursive(
    PLAIN | st.text() | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(STATES)
def test_state__survives_its_way_through_json(value):
    import json

    assert same(value, decode(json.loads(dump_json(encode(value)))))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0])
def test_state__keeps_the_bits_of_special_numbers_in_arrays(value):
    array = np.array([value, 1.0])
    assert decode(encode({"a": array}))["a"].tobytes() == array.tobytes()


def test_encode__makes_tuples_lists_and_numpy_scalars_plain():
    assert encode({"a": (np.int64(3), np.float64(0.5), np.bool_(True))}) == {"a": [3, 0.5, True]}
