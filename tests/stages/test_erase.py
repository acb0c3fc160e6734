"""Rows on the list are gone and listed, all others stay; the manifest says how many keys were found, and names none."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from curation.errors import BuildError
from curation.methods.erase import Erase
from curation.stages import lookup as module
from curation.stages import make_stage
from curation.stages.base import ArtifactStage, BindError, Coming
from tests.flow.helpers import people, read, run
from tests.stages.tables import lay_out, made, notes_of, opened, recipe_of, same_by_all, stage_account

ROWS = pa.table({"user": ["ann", "bob", "ann", None, "eve"], "n": [0, 1, 2, 3, 4]})
LIST = pa.table({"user": ["ann", "zoe", None, "ann"], "when": [1, 2, 3, 4]})
STAGE = {"use": "erase", "from": "rows", "keys": "gone", "on": "user"}


def erased(folder, rows=ROWS, gone=LIST, **options):
    return made(folder, {"rows": rows, "gone": gone}, [STAGE | options])


@pytest.fixture
def many_partitions(monkeypatch):
    """Partitions of a few rows, and hashes of 3 bits."""
    monkeypatch.setattr(module, "PARTITION_BYTES", 200)
    monkeypatch.setattr(module, "HASH_BITS", 3)


def test_erase__drops_the_rows_on_the_list(tmp_path):
    assert erased(tmp_path).column("n").to_pylist() == [1, 3, 4]
    assert stage_account(tmp_path, "erase") == (5, 0, 3, {"erased": 2})


def test_erase__counts_keys_found_and_not_found(tmp_path):
    erased(tmp_path)
    notes = notes_of(tmp_path, "erase")
    assert notes["found"] == [{"keys": 2, "found": 1, "not_found": 1}]
    assert notes["keys"] == [{"keys": 2, "repeated_keys": 1, "null_keys": 1, "partitions": 1}]


@pytest.mark.parametrize("seed", range(3))
def test_erase__agrees_with_polars_and_counts_as_sets_do(tmp_path, many_partitions, seed):
    rng = np.random.default_rng(seed)
    users, gone = (
        pa.table({"user": pa.array([None if v == 0 else int(v) for v in rng.integers(0, top, n)], pa.int64())})
        for top, n in ((60, 150), (90, 40))
    )
    users = users.append_column("n", pa.array(np.arange(150)))
    found = erased(tmp_path, users, gone)
    expected = pl.DataFrame(users).join(pl.DataFrame(gone), on="user", how="anti")
    assert sorted(found.column("n").to_pylist()) == sorted(expected["n"].to_list())
    there, listed = (set(t.column("user").drop_null().to_pylist()) for t in (users, gone))
    assert notes_of(tmp_path, "erase")["found"] == [
        {"keys": len(listed), "found": len(listed & there), "not_found": len(listed - there)}
    ]


def test_erase__explains_an_erased_row(tmp_path):
    erased(tmp_path)
    (fate,) = opened(tmp_path).explain("n=2").fates
    assert (fate.verdict, fate.dropped[0].stage, fate.dropped[0].reason) == ("dropped", "erase", "erased")


def test_erase__writes_no_key_of_the_list_into_the_result(tmp_path):
    secret = pa.table({"user": ["ann", "a-secret-name"]})
    erased(tmp_path, gone=secret)
    texts = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"a-secret-name" in text for text in texts)


def test_erase__if_asked_ends_at_a_key_that_no_row_has(tmp_path):
    with pytest.raises(
        BuildError, match=r"got 1 of 2 in none \(row ids on the list: \d+\); correct the list"
    ) as raised:
        erased(tmp_path, not_found="error")
    assert "zoe" not in str(raised.value)


def test_erase__if_asked_is_content_when_every_key_was_found(tmp_path):
    assert erased(tmp_path, gone=LIST.slice(3), not_found="error").num_rows == 3


@pytest.mark.parametrize(("rows", "gone"), [(0, 2), (5, 0), (0, 0), (1, 1)])
def test_erase__takes_tables_of_few_rows(tmp_path, rows, gone):
    found = erased(tmp_path, ROWS.slice(0, rows), LIST.slice(0, gone))
    assert found.num_rows == (rows if not gone else 0)


def test_erase__takes_a_list_without_any_key(tmp_path):
    nothing = pa.table({"user": pa.nulls(3)})
    assert erased(tmp_path, gone=nothing).num_rows == 5
    assert notes_of(tmp_path, "erase")["keys"][0]["null_keys"] == 3


def test_erase__states_memory_of_the_account():
    stage = make_stage("erase", "here", Erase(keys="gone", on="user"), 0)
    assert isinstance(stage, ArtifactStage)
    (job,) = stage.jobs("found", {"rows": 1000, "nulls": 0, "bytes": 100, "parts": 2})
    assert stage.memory("found", job) == (64 << 20) + 3 * 50 + 1000


def test_erase__an_appended_file_reworks_only_its_own_rows(tmp_path):
    recipe = recipe_of({"rows": {}, "gone": {}}, [STAGE])
    lay_out(tmp_path, {"rows": ROWS, "gone": LIST})
    run(tmp_path, recipe)
    lay_out(tmp_path / "more", {"rows": ROWS})
    (tmp_path / "more/data/rows/0.parquet").rename(tmp_path / "data/rows/2.parquet")
    ran = run(tmp_path, recipe).ran
    assert (ran["erase: probe"], ran["erase: extract"], ran["census"]) == (1, 0, 1)
    assert read(tmp_path / "out").num_rows == 4


def test_erase__refuses_synthetic_rows(tmp_path):
    lineage = pa.schema([("user", pa.string()), ("_parent_a", pa.uint64())])
    with pytest.raises(BindError, match="synthetic rows come in"):
        make_stage("erase", "here", Erase(keys="gone", on="user"), 0).bind_all(
            Coming((lineage,), {"keys": LIST.schema})
        )


@pytest.mark.parametrize(
    ("rows", "gone", "text"),
    [
        (ROWS.schema, pa.schema([("name", pa.string())]), "no column 'user'"),
        (pa.schema([("name", pa.string())]), LIST.schema, "no column 'user'"),
        (ROWS.schema, pa.schema([("user", pa.int8())]), "is string, but 'user' on the other side is int8"),
        (pa.schema([("user", pa.float64())]), LIST.schema, "'user' is double, not a key"),
    ],
)
def test_erase__refuses_keys_that_do_not_fit(rows, gone, text):
    with pytest.raises(BindError, match=text):
        make_stage("erase", "here", Erase(keys="gone", on="user"), 0).bind_all(Coming((rows,), {"keys": gone}))


def test_erase__leaves_the_same_bytes_by_every_executor(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PARTITION_BYTES", 200)
    stages = [{"use": "erase", "from": "rows", "keys": "gone", "on": "text"}]
    tables = {"rows": people(100), "gone": people(40).select(["text"])}
    same_by_all(tmp_path, tables, recipe_of({"rows": {"key": "id"}, "gone": {}}, stages, shard_rows=16))
