"""Rows are dealt by a hash of their id: in the shares asked, and never moved by other rows."""

import numpy as np
import pyarrow as pa
import pytest

from curation.methods.split import Split
from curation.stages.base import BindError
from curation.types import ids_of
from tests.stages.hands import chi_square_p, rows_of, stage_of

SHARES = {"train": 0.8, "test": 0.15, "rest": 0.05}


def parts_of(table, *, shares=SHARES, by=None, **options):
    return stage_of("split", Split(shares=shares, by=by), table.schema, **options).apply(table, None).tables


def counts(parts):
    """Rows per part, in the order of the shares."""
    return [parts[name].num_rows for name in SHARES]


def ids(tables):
    return {name: set(ids_of(table).tolist()) for name, table in tables.items()}


@pytest.mark.parametrize("seed", range(3))
def test_split__deals_in_the_shares(seed):
    assert chi_square_p(counts(parts_of(rows_of(20_000), seed=seed)), list(SHARES.values())) > 1e-4


def test_split__the_test_has_power():
    wrong = {"train": 0.78, "test": 0.17, "rest": 0.05}
    assert chi_square_p(counts(parts_of(rows_of(20_000), shares=wrong)), list(SHARES.values())) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_split__deals_values_of_a_column_in_the_shares(seed):
    table = rows_of(20_000, user=[f"u{i}" for i in range(20_000)])
    assert chi_square_p(counts(parts_of(table, by="user", seed=seed)), list(SHARES.values())) > 1e-4


def test_split__gives_every_row_to_one_part():
    table = rows_of(1000)
    parts = ids(parts_of(table))
    assert sum(map(len, parts.values())) == 1000
    assert set().union(*parts.values()) == set(ids_of(table).tolist())


def test_split__keeps_the_order_of_rows():
    table = rows_of(1000, n=np.arange(1000))
    for part in parts_of(table).values():
        assert (np.diff(part.column("n").to_numpy()) > 0).all()


def test_split__never_moves_a_row_when_others_are_added():
    small, large = ids(parts_of(rows_of(500, start=300))), ids(parts_of(rows_of(2000)))
    assert all(small[name] <= large[name] for name in SHARES)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.date32(), pa.dictionary(pa.int8(), pa.string())])
def test_split__keeps_equal_values_together(kind):
    user = pa.array([i % 40 for i in range(400)], pa.int32())
    user = user.cast(pa.string()).cast(kind) if pa.types.is_dictionary(kind) else user.cast(kind)
    parts = parts_of(rows_of(400, user=user), by="user")
    seen = [set(part.column("user").to_pylist()) for part in parts.values()]
    assert sum(map(len, seen)) == 40
    assert len(set().union(*seen)) == 40


def test_split__keeps_rows_without_a_value_together():
    parts = parts_of(rows_of(200, user=pa.nulls(200, pa.string())), by="user")
    assert sorted(part.num_rows for part in parts.values()) == [0, 0, 200]


def test_split__keeps_copies_of_a_row_together():
    table = rows_of(50)
    copies = pa.concat_tables([table, table]).append_column("_copy", pa.array([0] * 50 + [1] * 50, pa.uint32()))
    assert all(part.num_rows == 2 * len(set(ids_of(part).tolist())) for part in parts_of(copies).values())


def test_split__does_not_depend_on_the_order_of_the_shares():
    turned = dict(reversed(SHARES.items()))
    assert ids(parts_of(rows_of(500), shares=turned)) == ids(parts_of(rows_of(500)))


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "there"}])
def test_split__of_another_seed_or_name_deals_anew(other):
    table, half = rows_of(2000), {"a": 0.5, "b": 0.5}
    first = ids(parts_of(table, shares=half))["a"]
    second = ids(parts_of(table, shares=half, **other))["a"]
    assert chi_square_p([len(first & second), 2000 - len(first & second)], [0.25, 0.75]) > 1e-4


def test_split__needs_the_column_it_goes_by():
    stage = stage_of("split", Split(shares=SHARES, by="user"), rows_of(1, user=["a"]).schema)
    assert stage.needs(frozenset(["x"])) == {"x", "user"}
    assert stage.ports == ("train", "test", "rest")


def test_split__refuses_a_column_that_is_not_there_or_nested():
    schema = pa.schema([("tags", pa.list_(pa.string()))])
    with pytest.raises(BindError, match="no column 'tag'"):
        stage_of("split", Split(shares=SHARES, by="tag"), schema)
    with pytest.raises(BindError, match="'tags' is nested"):
        stage_of("split", Split(shares=SHARES, by="tags"), schema)
