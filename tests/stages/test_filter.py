"""Rows whose condition is true go on; false and NULL are told apart."""

import numpy as np
import pyarrow as pa
import pytest

from curation.methods.filter import Filter
from curation.stages.base import BindError
from curation.types import ids_of
from tests.stages.hands import rows_of, stage_of

TABLE = rows_of(6, a=[1, None, 3, 4, None, 6], t=["x", "y", None, "x", "y", "x"])


def filtered(where, table=TABLE):
    return stage_of("filter", Filter(where=where), table.schema).apply(table, None)


def test_filter__keeps_rows_of_a_true_condition():
    assert filtered("a > 2").tables[""].column("a").to_pylist() == [3, 4, 6]


def test_filter__drops_false_and_null_for_different_reasons():
    drops = {drop.reason: drop.row_id.tolist() for drop in filtered("a > 2").drops}
    ids = ids_of(TABLE)
    assert drops == {"null condition": ids[[1, 4]].tolist(), "filter": ids[[0]].tolist()}


def test_filter__that_drops_nothing_passes_the_table_on():
    assert filtered("a is null or a > 0").tables[""] is TABLE


def test_filter__that_drops_everything_leaves_the_columns():
    table = filtered("1 = 2").tables[""]
    assert (table.num_rows, table.schema) == (0, TABLE.schema)


def test_filter__drops_carry_copy_numbers():
    table = TABLE.append_column("_copy", pa.array([0, 0, 1, 2, 0, 0], pa.uint32()))
    assert {d.reason: d.copy.tolist() for d in filtered("a > 5", table).drops}["filter"] == [0, 1, 2]


def test_filter__needs_the_columns_of_its_condition():
    stage = stage_of("filter", Filter(where="a > 2 and t = 'x'"), TABLE.schema)
    assert stage.needs(frozenset(["b"])) == {"a", "t", "b"}


def test_filter__nan_is_larger_than_any_number():
    table = rows_of(3, f=np.array([1.0, np.nan, -1.0]))
    assert filtered("f > 0", table).tables[""].num_rows == 2


@pytest.mark.parametrize(
    ("where", "message"), [("b > 1", "b"), ("a + 1", "expected a condition"), ("sum(a) > 1", "several rows")]
)
def test_filter__refuses_what_is_no_condition_here(where, message):
    with pytest.raises(BindError, match=message):
        filtered(where)
