"""One row of each set of duplicates stays, by the stated rule, however the work is cut; every other one is listed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from curation.errors import RecipeError
from curation.io.manifest import read_manifest
from curation.methods.dedup import Dedup, near_duplicates
from curation.methods.minhash import normalized
from curation.stages import dedup as module
from curation.stages.base import BindError
from tests.flow.helpers import digest_tree, read, run, write
from tests.stages.hands import rows_of, stage_of

N = 400
DRAW = np.random.default_rng(0)
WORDS = [" ".join(f"w{w}" for w in DRAW.integers(0, 900, 60)) for _ in range(60)]


def rows():
    """Rows of few values, and texts of which many differ in a word, in case or not at all."""
    draw = np.random.default_rng(1)
    text: list[str | None] = []
    for i in range(N):
        words = WORDS[int(draw.integers(60))].split(" ")
        if i % 3 == 1:
            words[int(draw.integers(60))] = "other"
        text.append((" , " if i % 5 == 1 else " ").join(words).upper() if i % 7 == 2 else " ".join(words))
    text[5] = text[6] = None
    text[7] = text[8] = "?!"
    return pa.table(
        {
            "id": np.arange(N),
            "text": text,
            "small": pa.array([None if v == 3 else v for v in draw.integers(0, 9, N).tolist()]),
            "real": pa.array([[0.0, -0.0, math.nan, 1.5][i] for i in draw.integers(0, 4, N)]),
            "score": pa.array([None if v == 9 else v for v in draw.integers(0, 10, N).tolist()], pa.int32()),
            "lang": pa.array(["en", "fr", None])[0:3].take(pa.array(draw.integers(0, 3, N))),
        }
    )


TABLE = rows()


def lay_out(folder, table, *, files=3, group=37):
    each = -(-table.num_rows // files)
    for i in range(files):
        write(folder / f"data/{i}.parquet", table.slice(i * each, each), row_group_size=group)


def built(folder, options, *, table=TABLE, stages=(), key="id", **more):
    """Result of a build whose last stage is ``dedup``; the rows in the order of their ids."""
    lay_out(folder, table)
    recipe = {
        "recipe": 1,
        "name": "dedup",
        "seed": 4,
        "inputs": {"rows": {"path": "data"} | ({"key": key} if key else {})},
        "stages": [*stages, {"use": "dedup"} | options],
        "output": {"path": "out"},
    }
    run(folder, yaml.safe_dump(recipe, sort_keys=False), **more)
    return read(folder / "out").sort_by("_row_id")


@pytest.fixture(scope="module")
def identified(tmp_path_factory):
    """All rows with their ids, in the order of these."""
    table = built(tmp_path_factory.mktemp("all"), {"columns": ["id"]})
    assert table.num_rows == N
    return table


@pytest.fixture
def many_jobs(monkeypatch):
    """Several jobs in every step even of a small table."""
    monkeypatch.setattr(module, "FIND_ROWS", 57)
    monkeypatch.setattr(module, "PLACE_ROWS", 61)


def ledger(folder):
    path = read_manifest(folder / "out").path("ledger")
    assert isinstance(path, Path)
    return pl.read_ipc(path)


def fingerprint(folder):
    """Of the rows, in any order."""
    return read_manifest(folder / "out").content["data_fingerprint"]


def plain(value):
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    return value


def first_of_each(table, columns, *, normalize="none", prefer=None):
    """Ids of the rows that should stay, by a dictionary."""
    best: dict[Any, tuple[Any, int]] = {}
    for row in table.to_pylist():
        values = [plain(row[name]) for name in columns]
        key = tuple(normalized(v, normalize) if isinstance(v, str) and normalize != "none" else v for v in values)
        rank: Any = 0
        if prefer is not None:
            value = row[prefer["column"]]
            sign = -1 if prefer["order"] == "largest" else 1
            rank = math.inf if value is None else sign * value
        order = (rank, row["_row_id"])
        best[key] = min(best.get(key, order), order)
    return sorted(row_id for _, row_id in best.values())


EXACT: dict[str, dict[str, Any]] = {
    "integers": {"columns": ["small"]},
    "floats": {"columns": ["real"]},
    "several": {"columns": ["real", "small", "lang"]},
    "text": {"columns": ["text"]},
    "text, white space": {"columns": ["text"], "normalize": "whitespace"},
    "text, aggressive": {"columns": ["text"], "normalize": "aggressive"},
    "largest": {"columns": ["real"], "prefer": {"column": "score", "order": "largest"}},
    "smallest": {"columns": ["small"], "prefer": {"column": "score", "order": "smallest"}},
    "by": {"columns": ["small"], "by": "lang"},
    "by itself": {"columns": ["lang"], "by": "lang"},
    "all": {},
}


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize("mode", EXACT)
def test_dedup__keeps_the_first_of_each_set_of_equal_rows(mode, identified, tmp_path):
    options = EXACT[mode]
    columns = [*options.get("columns", TABLE.column_names), *([options["by"]] if "by" in options else [])]
    expected = first_of_each(
        identified, columns, normalize=options.get("normalize", "none"), prefer=options.get("prefer")
    )
    assert built(tmp_path, options).column("_row_id").to_pylist() == expected


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize("order", [None, "largest"])
def test_near__keeps_the_first_of_each_component(order, identified, tmp_path):
    table = identified
    if order is not None:
        table = table.sort_by([("score", "descending"), ("_row_id", "ascending")])  # NULL is last
    dropped, _ = near_duplicates(table.column("text"), seed=4)
    assert 200 < len(dropped) < 340
    options: dict[str, Any] = {"near": {"column": "text"}}
    found = built(tmp_path, options if order is None else options | {"prefer": {"column": "score", "order": order}})
    stay = np.delete(table.column("_row_id").to_numpy(), dropped)
    assert found.column("_row_id").to_pylist() == sorted(stay.tolist())


def test_near__compares_only_rows_of_one_group(identified, tmp_path):
    expected = []
    for lang in ("en", "fr", None):
        mask = [value == lang for value in identified.column("lang").to_pylist()]
        group = identified.filter(pa.array(mask))
        dropped, _ = near_duplicates(group.column("text"), seed=4)
        expected += np.delete(group.column("_row_id").to_numpy(), dropped).tolist()
    found = built(tmp_path, {"near": {"column": "text"}, "by": "lang"})
    assert found.column("_row_id").to_pylist() == sorted(expected)


def test_near__never_drops_texts_of_which_nothing_is_left(tmp_path):
    found = built(tmp_path, {"near": {"column": "text"}})
    assert {5, 6, 7, 8} <= set(found.column("id").to_pylist())


@pytest.mark.parametrize(
    ("options", "reason"), [({"columns": ["small"]}, "duplicate"), ({"near": {"column": "text"}}, "near duplicate")]
)
def test_dedup__lists_every_row_that_it_drops(options, reason, identified, tmp_path):
    kept = set(built(tmp_path, options).column("_row_id").to_pylist())
    listed = ledger(tmp_path)
    assert set(listed["reason"].cast(pl.String)) == {reason}
    assert sorted(listed["row_id"].to_list()) == sorted(set(identified.column("_row_id").to_pylist()) - kept)
    balance = read_manifest(tmp_path / "out").content["stages"]["dedup"]
    assert (balance["in"], balance["out"], balance["dropped"]) == (N, len(kept), {reason: N - len(kept)})


@pytest.mark.parametrize("options", [{"columns": ["small"]}, {"near": {"column": "text"}}])
def test_dedup__does_not_depend_on_how_its_work_is_cut(options, tmp_path, monkeypatch):
    built(tmp_path / "whole", options)
    monkeypatch.setattr(module, "FIND_ROWS", 190)
    monkeypatch.setattr(module, "PLACE_ROWS", 11)
    built(tmp_path / "cut", options)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("options", [{"columns": ["small"]}, {"near": {"column": "text"}}])
def test_dedup__does_not_depend_on_the_layout_of_keyed_files(options, tmp_path):
    built(tmp_path / "whole", options)
    built(tmp_path / "turned", options, table=TABLE.take(pa.array(np.arange(N)[::-1])))
    assert fingerprint(tmp_path / "turned") == fingerprint(tmp_path / "whole")


@pytest.mark.usefixtures("many_jobs")
def test_dedup__keeps_the_first_of_rows_that_are_known_by_their_place(tmp_path):
    every = built(tmp_path / "all", {"columns": ["id"]}, key=None)
    found = built(tmp_path / "some", {"columns": ["small"]}, key=None)
    assert found.column("_row_id").to_pylist() == first_of_each(every, ["small"])


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize("options", [{"columns": ["id"]}, {"near": {"column": "text", "ngram": 60}}])
def test_dedup__keeps_the_first_copy_of_a_row(options, tmp_path):
    stages = [
        {"use": "filter", "where": "id between 10 and 200"},
        {"use": "sample", "n": 900, "replacement": True},
    ]
    found = built(tmp_path, options, stages=stages)
    assert len(set(found.column("id").to_pylist())) == found.num_rows > 50
    assert set(found.column("_copy").to_pylist()) == {0}


@pytest.mark.parametrize(
    "options",
    [{"executor": "threads", "workers": 3, "task_bytes": 1}, {"executor": "dask", "workers": 2, "task_bytes": 1}],
    ids=["threads", "dask-2"],
)
def test_dedup__leaves_the_same_bytes_by_any_executor(options, tmp_path):
    stages = [{"name": "same", "use": "dedup", "columns": ["text"], "normalize": "whitespace", "by": "lang"}]
    near = {"near": {"column": "text"}, "prefer": {"column": "score", "order": "largest"}}
    built(tmp_path / "serial", near, stages=stages)
    built(tmp_path / "other", near, stages=stages, **options)
    assert digest_tree(tmp_path / "serial/out") == digest_tree(tmp_path / "other/out")


def test_dedup__of_rows_that_are_all_equal_keeps_one(tmp_path):
    table = pa.table({"id": np.arange(50), "x": [1] * 50})
    assert built(tmp_path, {"columns": ["x"]}, table=table).num_rows == 1


@pytest.mark.parametrize("options", [{"columns": ["small"]}, {"near": {"column": "text"}}])
def test_dedup__of_no_rows_keeps_none(options, tmp_path):
    assert built(tmp_path, options, stages=[{"use": "filter", "where": "id < 0"}]).num_rows == 0


def test_extract__spreads_rows_whose_fate_is_known_over_the_keys():
    stage = stage_of("dedup", Dedup(columns=["x"]), pa.schema({"x": pa.int64(), "_row_id": pa.uint64()}))
    assert isinstance(stage, module.DedupStage)
    found = stage.extract(rows_of(1000, x=np.repeat([7, 8], [999, 1])), None)
    assert found.filter(pc.equal(found.column("sure"), 0)).num_rows == 2
    quarters = np.bincount((found.column("hash").to_numpy() >> np.uint64(62)).astype(np.int64), minlength=4)
    assert quarters.min() > 200


def test_dedup__needs_what_it_compares_only_to_find_duplicates():
    stage = stage_of("dedup", Dedup(columns=["small"], by="lang"), TABLE.schema)
    assert stage.needs(frozenset(["text"])) == {"text"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"columns": ["smal"]}, r"columns\[0\]: no column 'smal'"),
        ({"near": {"column": "score"}}, "near.column: column 'score' is int32, near duplicates are of text"),
        ({"prefer": {"column": "text"}}, "prefer.column: column 'text' is string, rows are preferred by a number"),
        ({"by": "language"}, "by: no column 'language'"),
        ({"columns": ["small"], "normalize": "aggressive"}, "normalize: no text among the columns"),
    ],
)
def test_dedup__says_what_does_not_fit_the_columns(options, match, tmp_path):
    with pytest.raises(RecipeError, match=match):
        built(tmp_path, options)


@pytest.mark.parametrize(
    "kind",
    [pa.bool_(), pa.uint8(), pa.float16(), pa.float64(), pa.date32(), pa.time64("us"), pa.timestamp("ns", "UTC")],
)
def test_prefer__takes_what_has_an_order(kind):
    schema = pa.schema({"x": pa.int64(), "p": kind, "_row_id": pa.uint64()})
    stage = stage_of("dedup", Dedup.model_validate({"columns": ["x"], "prefer": {"column": "p"}}), schema)
    values = pa.array([1, 0, None], pa.int64() if kind == pa.time64("us") else pa.int32()).cast(pa.float32())
    small = {pa.date32(): pa.int32(), pa.time64("us"): pa.int64(), pa.timestamp("ns", "UTC"): pa.int64()}.get(
        kind, kind
    )
    table = pa.table({"x": [1, 2, 3], "p": values.cast(small).cast(kind), "_row_id": pa.array([1, 2, 3], pa.uint64())})
    assert isinstance(stage, module.DedupStage)
    ranks = stage.extract(table, None).sort_by("_row_id").column("rank").to_pylist()
    assert ranks[0] < ranks[1] < ranks[2] == 2**64 - 1


def test_prefer__refuses_what_has_none():
    schema = pa.schema({"x": pa.int64(), "p": pa.list_(pa.int8()), "_row_id": pa.uint64()})
    with pytest.raises(BindError, match="column 'p' is list"):
        stage_of("dedup", Dedup.model_validate({"prefer": {"column": "p"}}), schema)


def test_key__holds_the_seed_only_where_chance_decides():
    def key(seed, **options):
        return stage_of("dedup", Dedup.model_validate(options), TABLE.schema, seed=seed).key("dedup")

    assert key(1, columns=["small"]) == key(2, columns=["small"])
    assert key(1, near={"column": "text"}) != key(2, near={"column": "text"})


@pytest.mark.parametrize("options", [{"columns": ["small"]}, {"near": {"column": "text"}}])
def test_ledger__names_the_row_that_stays_instead(tmp_path, options, monkeypatch):
    """Followed from row to row, it ends at one that is kept and, for whole rows, has the same value."""
    monkeypatch.setattr(module, "FIND_ROWS", 64)
    kept = built(tmp_path, options)
    left = ledger(tmp_path)
    instead = dict(zip(left["row_id"], left["instead"], strict=True))
    alive = dict(zip(kept.column("_row_id").to_pylist(), kept.column("small").to_pylist(), strict=True))
    value = dict(zip(*_ids_and_values(tmp_path), strict=True))
    assert len(instead) == N - len(alive)
    for row in instead:
        last = row
        while last in instead:
            last = instead[last]
        assert last in alive
        assert "near" in options or value[row] == alive[last]


def _ids_and_values(folder):
    run(folder, yaml.safe_dump(ALL_ROWS), out="all")
    every = read(folder / "all")
    return every.column("_row_id").to_pylist(), every.column("small").to_pylist()


ALL_ROWS = {
    "recipe": 1,
    "name": "all",
    "seed": 4,
    "inputs": {"rows": {"path": "data", "key": "id"}},
    "output": {"path": "all"},
}
