import pytest
from pydantic import ValidationError

from curation.methods.select import Select, selected_columns


@pytest.mark.parametrize("options", [{}, {"columns": ["a"], "drop": ["b"]}])
def test_select__needs_exactly_one_option(options):
    with pytest.raises(ValidationError, match="exactly one of 'columns' and 'drop'"):
        Select(**options)


def test_select__refuses_a_column_twice():
    with pytest.raises(ValidationError, match="column 'a' is named twice"):
        Select(columns=["a", "b", "a"])


def test_selected_columns__keep_in_the_order_named():
    assert selected_columns(["a", "b", "c"], columns=["c", "a"], drop=None) == ["c", "a"]


def test_selected_columns__drop_keeps_the_order():
    assert selected_columns(["a", "b", "c"], columns=None, drop=["b"]) == ["a", "c"]


@pytest.mark.parametrize("options", [{"columns": ["x"], "drop": None}, {"columns": None, "drop": ["x"]}])
def test_selected_columns__refuse_unknown_names(options):
    with pytest.raises(ValueError, match=r"expected names of columns, got 'x'; the columns are a, b"):
        selected_columns(["a", "b"], **options)
