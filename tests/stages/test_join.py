"""Rows meet by key as polars lets them meet, whatever the partitions and hashes; nothing is lost unsaid."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from curation.errors import BuildError
from curation.methods.join import Join
from curation.stages import lookup as module
from curation.stages import make_stage
from curation.stages.base import BindError, Coming
from curation.stages.lookup import decoded_bytes
from tests.flow.helpers import read, run
from tests.stages.tables import made, notes_of, opened, recipe_of, same_by_all, stage_account

LEFT = pa.table({"id": [1, 2, 3, 4, None], "word": ["a", "b", "c", "d", "e"]})
RIGHT = pa.table(
    {"id": pa.array([4, 2, None, 9], pa.int32()), "score": [0.4, None, 7.0, 0.9], "word": ["D", "B", "N", "I"]}
)


COPIES = pa.field("_copy", pa.uint32())


def joined(folder, left=LEFT, right=RIGHT, **options):
    """Rows of a join, without row ids."""
    stage = {"use": "join", "from": "left", "right": "right", "on": "id"} | options
    found = made(folder, {"left": left, "right": right}, [stage])
    return found.drop_columns([name for name in ("_row_id",) if name in found.column_names])


def bound(left, right, **options):
    """A stage that is bound to two schemas, and what goes out."""
    stage = make_stage("join", "here", Join(right="right", **({"on": "id"} | options)), 0)
    return stage, stage.bind_all(Coming((left,), {"right": right}))[""]


@pytest.fixture
def many_partitions(monkeypatch):
    """Partitions of a few rows, and hashes of 3 bits, so that nearly all keys share theirs with others."""
    monkeypatch.setattr(module, "PARTITION_BYTES", 300)
    monkeypatch.setattr(module, "HASH_BITS", 3)


def random_tables(seed, rows=120):
    """Two tables with repeated and missing keys of two columns."""
    rng = np.random.default_rng(seed)

    def table(name, n):
        a = [None if rng.random() < 0.1 else int(v) for v in rng.integers(0, 25, n)]
        b = [None if rng.random() < 0.1 else str(v) for v in rng.integers(0, 3, n)]
        return pa.table({"a": pa.array(a, pa.int64()), "b": pa.array(b, pa.string()), name: np.arange(n)})

    return table("x", rows), table("y", rows // 2)


def rows(table, *names):
    """Rows as a sorted list."""
    return sorted(zip(*(table.column(name).to_pylist() for name in names), strict=True), key=str)


@pytest.mark.parametrize("keys", [["a"], ["a", "b"]], ids=str)
@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
def test_join__agrees_with_polars(tmp_path, many_partitions, how, keys):
    left, right = random_tables(len(keys))
    options: dict[str, Any] = {"columns": ["y"], "matches": "all"} if how in ("inner", "left") else {}
    found = joined(tmp_path, left, right, on=keys, how=how, **options)
    expected = pl.DataFrame(left).join(pl.DataFrame(right).select(*keys, "y"), on=keys, how=how)
    names = ["x", "y"] if options else ["x"]
    assert rows(found, *names) == rows(expected.to_arrow(), *names)
    assert notes_of(tmp_path, "join")["keys"][0]["partitions"] > 5


@pytest.mark.parametrize("how", ["inner", "left"])
def test_join__adds_columns_of_the_match(tmp_path, how):
    found = joined(tmp_path, how=how)
    expected: list[dict[str, Any]] = [
        {"id": 1, "word": "a", "score": None, "word_right": None},
        {"id": 2, "word": "b", "score": None, "word_right": "B"},
        {"id": 3, "word": "c", "score": None, "word_right": None},
        {"id": 4, "word": "d", "score": 0.4, "word_right": "D"},
        {"id": None, "word": "e", "score": None, "word_right": None},
    ]
    assert found.to_pylist() == [row for row in expected if how == "left" or row["word_right"]]


def test_join__balance_and_notes(tmp_path):
    joined(tmp_path)
    assert stage_account(tmp_path, "join") == (5, 0, 2, {"no match": 3})
    assert notes_of(tmp_path, "join")["keys"] == [{"keys": 3, "repeated_keys": 0, "null_keys": 1, "partitions": 1}]


def test_join__explains_rows_without_a_match(tmp_path):
    joined(tmp_path)
    fates = opened(tmp_path).explain("word=c").fates
    assert [(fate.verdict, fate.dropped[0].reason) for fate in fates] == [("dropped", "no match")]
    fates = opened(tmp_path).explain("score=0.9").fates
    assert [(fate.verdict, fate.dropped[0].reason) for fate in fates] == [("dropped", "looked up")]


def test_join__anti_says_what_matched(tmp_path):
    joined(tmp_path, how="anti")
    assert stage_account(tmp_path, "join") == (5, 0, 3, {"matched": 2})


def test_join__all_numbers_the_matches_as_copies(tmp_path):
    right = pa.table({"id": [2, 1, 2, 2], "n": [0, 1, 2, 3]})
    found = joined(tmp_path, LEFT, right, matches="all", how="left")
    copies = [(row["id"], row["_copy"]) for row in found.to_pylist()]
    assert sorted(copies, key=str) == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (4, 0), (None, 0)]
    assert rows(found, "id", "n") == [(1, 1), (2, 0), (2, 2), (2, 3), (3, None), (4, None), (None, None)]
    assert stage_account(tmp_path, "join")[:3] == (5, 2, 7)


def test_join__names_a_repeated_key_and_its_rows(tmp_path, many_partitions):
    right = pa.table({"id": [3, 5, 3, 7, 3, 5]})
    with pytest.raises(
        BuildError, match=r"expected every key once, got id = \d in row id \d+ and again .*, 2 such keys"
    ):
        joined(tmp_path, LEFT, right)


def test_join__repeated_keys_do_no_harm_to_semi(tmp_path):
    assert joined(tmp_path, LEFT, pa.table({"id": [3, 3, 1]}), how="semi").column("id").to_pylist() == [1, 3]


@pytest.mark.parametrize(("left", "right"), [(0, 4), (5, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("how", ["inner", "left", "semi", "anti"])
def test_join__takes_tables_of_few_rows(tmp_path, how, left, right):
    found = joined(tmp_path, LEFT.slice(0, left), RIGHT.slice(0, right), how=how)
    assert found.num_rows == (left if how in ("left", "anti") else 0)
    assert ("score" in found.column_names) == (how in ("inner", "left"))


KINDS: dict[str, Any] = {
    "int8": ([1, -2, None], pa.int8(), pa.int64()),
    "unsigned": ([1, 2, None], pa.uint32(), pa.int8()),
    "text": (["a", "é", None], pa.string(), pa.large_string()),
    "dictionary": (["a", "b", None], pa.dictionary(pa.int8(), pa.string()), pa.string()),
    "view": (["a", "b", None], pa.string_view(), pa.string()),
    "bytes": ([b"ab", b"cd", None], pa.binary(2), pa.binary()),
    "bool": ([True, False, None], pa.bool_(), pa.bool_()),
    "date": ([dt.date(1969, 1, 2), dt.date(2020, 1, 1), None], pa.date32(), pa.date32()),
    "time": ([dt.datetime(1969, 1, 2), dt.datetime(2020, 1, 1), None], pa.timestamp("s"), pa.timestamp("us")),
    "decimal": ([Decimal("1.5"), Decimal("-2.25"), None], pa.decimal128(6, 2), pa.decimal128(9, 4)),
}


@pytest.mark.parametrize("name", KINDS)
def test_join__compares_keys_of_many_types(tmp_path, many_partitions, name):
    values, a, b = KINDS[name]
    left = pa.table({"id": pa.array(values, a), "n": [0, 1, 2]})
    right = pa.table({"id": pa.array(values[::-1], b), "m": [2, 1, 0]})
    if name == "view":  # not every Parquet writer knows views
        left = left.set_column(0, "id", left.column("id").cast(pa.string()))
    assert rows(joined(tmp_path, left, right), "n", "m") == [(0, 0), (1, 1)]


@pytest.mark.parametrize("far", ["left", "right"])
def test_join__names_a_key_that_the_common_type_cannot_hold(tmp_path, far):
    whole = {"left": [2**40], "right": [2**40]}
    units = {"left": "ns", "right": "ns"} | {far: "s"}
    left, right = (pa.table({"id": pa.array(whole[side], pa.timestamp(units[side]))}) for side in ("left", "right"))
    stages = [{"use": "join", "from": "left", "right": "right", "on": "id"}]
    for side, table in (("left", left), ("right", right)):
        (tmp_path / f"data/{side}").mkdir(parents=True)
        with pa.ipc.new_file(tmp_path / f"data/{side}/0.arrow", table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(BuildError, match=r"stage 'join', column 'id': expected values that timestamp\[ns\] holds"):
        run(tmp_path, recipe_of({"left": {}, "right": {}}, stages))


def test_join__carries_columns_of_any_type_over(tmp_path):
    nested = pa.array([[{"a": 1}], None, []], pa.list_(pa.struct([("a", pa.int8())])))
    right = pa.table({"id": [3, 1, 2], "nested": nested, "coded": pa.array(["x", "y", "x"]).dictionary_encode()})
    found = joined(tmp_path, LEFT, right, how="left")
    assert found.column("nested").to_pylist() == [None, [], [{"a": 1}], None, None]
    assert found.column("coded").to_pylist() == ["y", "x", "x", None, None]


CARRIED: dict[str, pa.Array] = {
    "view": pa.array(["a", None, "a text that is rather long"], pa.string_view()),
    "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
    "run ends": pa.compute.run_end_encode(pa.array(["x", "x", None])),
    "list": pa.array([[1], None, [2, None]], pa.large_list(pa.int16())),
    "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float16(), 2)),
    "decimal": pa.array([Decimal("1.5"), None, Decimal("2.5")], pa.decimal256(50, 2)),
    "null": pa.nulls(3),
    "bool": pa.array([True, None, False]),
    "struct": pa.array([{"a": [1]}, None, {"a": None}], pa.struct([("a", pa.list_(pa.int8()))])),
}


@pytest.mark.parametrize("name", CARRIED)
def test_join__carries_values_of_every_type(tmp_path, name):
    right = pa.table({"id": [3, 1, 2], "value": CARRIED[name]})
    for side, table in (("left", LEFT), ("right", right)):
        (tmp_path / f"data/{side}").mkdir(parents=True)
        with pa.ipc.new_file(tmp_path / f"data/{side}/0.arrow", table.schema) as writer:
            writer.write_table(table)
    stages = [{"use": "join", "from": "left", "right": "right", "on": "id", "how": "left"}]
    run(tmp_path, recipe_of({"left": {}, "right": {}}, stages))
    values = CARRIED[name].to_pylist()
    found = read(tmp_path / "out").column("value")
    assert found.to_pylist() == [values[1], values[2], values[0], None, None]
    assert found.type == CARRIED[name].type


@pytest.mark.parametrize("name", CARRIED)
def test_decoded_bytes__do_not_depend_on_the_layout(name):
    whole = CARRIED[name]
    parts = pa.chunked_array([whole.slice(0, 1), whole.slice(1)])
    assert decoded_bytes(parts) == decoded_bytes(whole) > 0


def test_join__joins_a_table_with_a_part_of_itself(tmp_path):
    stages: list[dict[str, Any]] = [
        {"name": "few", "use": "filter", "from": "left", "where": "id < 3"},
        {"use": "join", "from": "left", "right": "few", "on": "id", "how": "anti"},
    ]
    found = made(tmp_path, {"left": LEFT}, stages)
    assert found.column("word").to_pylist() == ["c", "d", "e"]


def test_join__reads_keys_and_wanted_columns_only():
    stage, _ = bound(LEFT.schema, RIGHT.schema, columns=["score"])
    assert stage.needs_from(0, {"": frozenset(["score"])}) == {"id"}
    assert stage.needs_from(0, {"": frozenset(["word"])}) == {"id", "word"}
    assert stage.extract_columns() == {"id", "score"}


def test_join__states_memory_of_a_partition():
    stage, _ = bound(LEFT.schema, RIGHT.schema)
    jobs = stage.jobs("partition", {"rows": 100, "nulls": 0, "bytes": 1 << 30, "parts": 26})
    assert len(jobs) == 26
    assert stage.memory("partition", jobs[0]) < (64 << 20) + 3 * (64 << 20)


@pytest.mark.parametrize(
    ("left", "right", "options", "text"),
    [
        (LEFT.schema, RIGHT.schema, {"on": "idd"}, "no column 'idd'"),
        (LEFT.schema, RIGHT.schema, {"on": None, "left_on": "id", "right_on": "word"}, "is int64, but 'word'"),
        (LEFT.schema, RIGHT.schema, {"on": None, "left_on": "id", "right_on": "score"}, "'score' is double, not a key"),
        (LEFT.schema, RIGHT.schema, {"columns": ["scor"]}, "no column 'scor'"),
        (LEFT.schema.append(pa.field("word_right", pa.int8())), RIGHT.schema, {}, "would be named 'word_right'"),
        (LEFT.schema.append(COPIES), RIGHT.schema, {"matches": "all"}, "rows come in as copies"),
        (LEFT.schema, RIGHT.schema.append(COPIES), {"columns": ["_copy"]}, "used by the build"),
    ],
)  # fmt: skip
def test_join__refuses_what_does_not_fit(left, right, options, text):
    with pytest.raises(BindError, match=text):
        bound(left, right, **options)


def test_join__another_type_on_the_right_is_other_work():
    keys = {bound(LEFT.schema, pa.schema([("id", kind)]))[0].key("join") for kind in (pa.int8(), pa.int64())}
    kinds = {bound(LEFT.schema, pa.schema([("id", kind)]))[0].key("join") for kind in (pa.int64(), pa.uint8())}
    assert len(keys | kinds) == 1  # both meet int64
    assert bound(pa.schema([("id", pa.int8())]), pa.schema([("id", pa.int16())]))[0].key("join") not in keys


def test_join__leaves_the_same_bytes_by_every_executor(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PARTITION_BYTES", 300)
    left, right = random_tables(7)
    stages: list[dict[str, Any]] = [
        {"name": "all", "use": "join", "from": "l", "right": "r", "on": ["a", "b"], "matches": "all", "columns": ["y"]},
        {"use": "filter", "where": "x > 3"},
    ]
    same_by_all(tmp_path, {"l": left, "r": right}, recipe_of({"l": {"key": "x"}, "r": {}}, stages, shard_rows=50))
