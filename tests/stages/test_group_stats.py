"""The table says what numpy says, group by group; rows pass untouched, and no split of the work shows in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.errors import BuildError
from curation.methods.group_stats import GroupStats
from curation.stages import group_stats as module
from curation.stages.base import ArtifactStage, BindError
from curation.types import SYNTHETIC, ids_of
from tests.flow.helpers import people, read, run
from tests.stages.hands import fit, pieces_of, rows_of, stage_of
from tests.stages.tables import lay_out, made, opened, recipe_of, same_by_all, stage_account

STAGE: dict[str, Any] = {"use": "group_stats", "by": "lang"}
BOTH = {
    "rows": {"from": "group_stats", "path": "out/rows"},
    "table": {"from": "group_stats.table", "path": "out/table"},
}


def described(folder, table, **options):
    """Table of statistics as rows by group and column."""
    by = options.get("by", "lang")
    found = made(folder, {"rows": table}, [STAGE | options], **{"from": "group_stats.table"})
    return {(row.get(by), row["column"]): row for row in found.to_pylist()}


def check(row, values):
    """Compare a row with what numpy says of the values."""
    known = np.array([v for v in values if v is not None and v == v])
    nulls, nan = sum(v is None for v in values), sum(v is not None and v != v for v in values)
    assert (row["rows"], row["nulls"], row["nan"]) == (len(values), nulls, nan)
    assert row["null_share"] == nulls / len(values)
    assert (row["min"], row["max"]) == (known.min(), known.max())
    np.testing.assert_allclose([row["mean"], row["std"]], [known.mean(), known.std(ddof=1)], rtol=1e-12)
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        expected = np.quantile(known, q, method="lower")
        np.testing.assert_allclose(row[f"q{int(100 * q):02d}"], expected, rtol=2.0**-8)


def test_group_stats__agree_with_numpy(tmp_path):
    table = people(300)
    found = described(tmp_path, table)
    assert [key[0] for key in found] == ["en"] * 3 + ["fr"] * 3 + ["is"] * 3
    for (lang, column), row in found.items():
        check(
            row, [v for v, g in zip(*(table.column(n).to_pylist() for n in (column, "lang")), strict=True) if g == lang]
        )


def test_group_stats__without_groups_describe_all_rows(tmp_path):
    table = people(100)
    found = described(tmp_path, table, by=None, columns=["score"])
    check(found[None, "score"], table.column("score").to_pylist())


def test_group_stats__let_rows_pass(tmp_path):
    lay_out(tmp_path, {"rows": people(50)})
    run(tmp_path, recipe_of({"rows": {}}, [STAGE], BOTH))
    assert sorted(read(tmp_path / "out/rows").column("id").to_pylist()) == list(range(50))
    assert stage_account(tmp_path, "group_stats", "out/rows") == (50, 9, 59, {})


def test_group_stats__make_no_table_that_nothing_reads(tmp_path):
    made(tmp_path, {"rows": people(50)}, [STAGE])
    assert stage_account(tmp_path, "group_stats") == (50, 0, 50, {})


def test_group_stats__rows_that_nothing_reads_are_dropped_and_explained(tmp_path):
    described(tmp_path, people(50))
    assert stage_account(tmp_path, "group_stats") == (50, 9, 9, {"not in any output": 50})
    assert opened(tmp_path).explain("id=3").fates[0].dropped[0].reason == "not in any output"


def test_group_stats__the_table_flows_on(tmp_path):
    stages = [STAGE, {"use": "filter", "from": "group_stats.table", "where": "column = 'score' and nulls > 2"}]
    found = made(tmp_path, {"rows": people(100)}, stages)
    assert set(found.column("column").to_pylist()) == {"score"}
    assert opened(tmp_path).explain(str(found.column("_row_id")[0].as_py())).fates[0].verdict == "kept"


def test_group_stats__ids_are_synthetic_unique_and_without_parents(tmp_path):
    found = made(tmp_path, {"rows": people(100)}, [STAGE], **{"from": "group_stats.table"})
    assert (ids_of(found) >= SYNTHETIC).all()
    assert len(set(ids_of(found).tolist())) == 9
    assert set(found.column("_origin").to_pylist()) == {"group_stats"}
    assert "_parent_a" not in found.column_names


def test_group_stats__ids_are_others_for_other_rows(tmp_path):
    ids = [
        set(ids_of(made(tmp_path / str(n), {"rows": people(n)}, [STAGE], **{"from": "group_stats.table"})).tolist())
        for n in (100, 104)
    ]
    assert not ids[0] & ids[1]


GROUPS: dict[str, pa.Array] = {
    "text": pa.array(["b", None, "a", "b", "a", None]),
    "int": pa.array([2, None, -1, 2, -1, None], pa.int16()),
    "bool": pa.array([True, None, False, True, False, None]),
    "date": pa.array([2, None, 1, 2, 1, None], pa.date32()),
    "float": pa.array([2.0, None, float("nan"), 2.0, float("nan"), None]),
    "dictionary": pa.array(["b", None, "a", "b", "a", None]).dictionary_encode(),
}


@pytest.mark.parametrize("name", GROUPS)
def test_group_stats__groups_keep_their_type_and_order(tmp_path, name):
    table = pa.table({"g": GROUPS[name], "n": pa.array([1, 2, 3, 5, 7, 9])})
    found = made(tmp_path, {"rows": table}, [STAGE | {"by": "g"}], **{"from": "group_stats.table"})
    kind = pa.string() if name == "dictionary" else table.column("g").type
    assert found.schema.field("g").type == kind
    sums = [row["mean"] * row["rows"] for row in found.to_pylist()]
    assert sums == ([6.0, 10.0, 11.0] if name == "float" else [10.0, 6.0, 11.0])


def test_group_stats__numbers_that_are_not_there_are_null(tmp_path):
    table = pa.table({"lang": ["a", "a", "b"], "n": pa.array([None, None, 4.0]), "m": [float("nan"), 1.0, np.inf]})
    found = described(tmp_path, table, quantiles=[0.5])
    shown = {key: [row[n] for n in ("nulls", "nan", "min", "mean", "std", "q50")] for key, row in found.items()}
    assert shown == {
        ("a", "n"): [2, 0, None, None, None, None],
        ("a", "m"): [0, 1, 1.0, 1.0, None, 1.0],
        ("b", "n"): [0, 0, 4.0, 4.0, None, 4.0],
        ("b", "m"): [0, 0, np.inf, np.inf, None, np.inf],
    }


@pytest.mark.parametrize(("by", "rows"), [("lang", 0), (None, 2)])
def test_group_stats__of_no_rows(tmp_path, by, rows):
    found = described(tmp_path, people(1).slice(1), by=by, columns=["id", "weight"])
    assert len(found) == rows
    assert all((row["rows"], row["mean"], row["null_share"]) == (0, None, None) for row in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_group_stats__do_not_depend_on_how_states_merge(seed):
    rng = np.random.default_rng(seed)
    table = rows_of(200, g=rng.integers(0, 20, 200), x=rng.normal(size=200))
    stage = stage_of("group_stats", GroupStats(by="g"), table.schema)
    whole, parts = fit(stage, [table]), fit(stage, pieces_of(table, rng), rng)
    for name, column in whole["table"].items():
        if name in ("mean", "std"):
            np.testing.assert_allclose(parts["table"][name], column, rtol=1e-12)
        else:
            np.testing.assert_array_equal(parts["table"][name], column)


def test_group_stats__refuse_a_state_that_grows_too_large(monkeypatch):
    monkeypatch.setattr(module, "STATE_BYTES", 1 << 20)
    table = rows_of(20_000, g=np.arange(20_000), x=np.arange(20_000.0), y=np.arange(20_000.0))
    stage = stage_of("group_stats", GroupStats(by="g"), table.schema)
    with pytest.raises(BuildError, match=r"at most 1 MB, got \d MB for \d+ groups x 2 columns; name fewer `columns`"):
        fit(stage, [table.slice(0, 5000), table.slice(5000)])


def test_group_stats__hold_a_hundred_thousand_groups():
    table = rows_of(100_000, g=np.arange(100_000), x=np.arange(100_000.0))
    stage = stage_of("group_stats", GroupStats(by="g"), table.schema)
    assert isinstance(stage, ArtifactStage)
    state = fit(stage, [table.slice(0, 50_000), table.slice(50_000)])
    assert len(stage.pieces(state)) == 7
    assert (state["table"]["q50"] == np.arange(100_000.0)).all()


def test_group_stats__make_the_table_in_pieces(tmp_path, monkeypatch):
    whole = described(tmp_path / "a", people(100))
    monkeypatch.setattr(module, "PIECE_ROWS", 2)
    assert described(tmp_path / "b", people(100)) == whole


def test_group_stats__read_only_what_is_wanted_of_rows_that_pass():
    stage = stage_of("group_stats", GroupStats(by="lang", columns=["score"]), people(1).schema)
    assert isinstance(stage, ArtifactStage)
    assert stage.needs_from(0, {"": frozenset(["id"]), "table": frozenset(["mean"])}) == {"id"}
    assert stage.needs_from(0, {"table": frozenset(["mean"])}) == frozenset()
    assert stage.fit_columns() == {"lang", "score"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"by": "langu"}, "no column 'langu'"),
        ({"by": "x"}, "column 'x' is .*, not a group"),
        ({"columns": ["text"]}, "column 'text' is string, not a number"),
        ({"columns": ["scor"]}, "no column 'scor'"),
    ],
)
def test_group_stats__refuse_columns_that_do_not_fit(options, text):
    with pytest.raises(BindError, match=text):
        stage_of("group_stats", GroupStats(**options), people(1).schema)


def test_group_stats__refuse_a_group_that_is_called_like_a_statistic():
    with pytest.raises(BindError, match="the table has a column 'mean' of its own"):
        stage_of("group_stats", GroupStats(by="mean"), pa.schema([("mean", pa.int8()), ("n", pa.int8())]))


def test_group_stats__refuse_a_table_without_numbers():
    with pytest.raises(BindError, match="no column holds numbers"):
        stage_of("group_stats", GroupStats(), pa.schema([("t", pa.string())]))


def test_group_stats__leave_the_same_bytes_by_every_executor(tmp_path):
    same_by_all(tmp_path, {"rows": people(150)}, recipe_of({"rows": {"key": "id"}}, [STAGE], BOTH))
