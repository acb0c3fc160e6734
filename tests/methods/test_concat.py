"""Options of concat, and copy numbers that tell the tables apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.concat import Concat, spread_copies


def test_concat__takes_many_tables_and_the_union_of_columns():
    assert Concat.many
    assert Concat().columns == "union"


def test_concat__refuses_another_rule_for_columns():
    with pytest.raises(ValidationError, match="'union' or 'strict'"):
        Concat(columns="inner")  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 1000), unique=True), st.integers(1, 5))
def test_spread_copies__differ_between_tables(copies, tables):
    given = np.array(copies, np.uint32)
    found = np.concatenate([spread_copies(given, table=i, tables=tables) for i in range(tables)])
    assert len(np.unique(found)) == len(copies) * tables


def test_spread_copies__refuses_numbers_beyond_32_bits():
    with pytest.raises(ValueError, match=r"copies\[1\]: expected 4294967296 < 2\^32"):
        spread_copies(np.array([0, 2**31], np.uint32), table=0, tables=2)


def test_spread_copies__refuses_a_table_that_is_not_there():
    with pytest.raises(ValueError, match=r"table: expected 0 \.\. 1, got 2"):
        spread_copies(np.zeros(1, np.uint32), table=2, tables=2)
