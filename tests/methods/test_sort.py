"""Options of sort: columns by name, with a minus, or written out."""

import pytest
from pydantic import ValidationError

from curation.methods.sort import Sort, sort_column


def test_sort__takes_columns_in_three_ways():
    by = ["a", "-b", {"column": "-c", "descending": True}]
    assert Sort(by=by).columns == [("a", False), ("b", True), ("-c", True)]  # type: ignore[arg-type]


def test_sort__one_column_needs_no_list():
    assert Sort.model_validate({"by": "-a"}).columns == [("a", True)]


@pytest.mark.parametrize("by", [["a", "-a"], ["a", {"column": "a"}]], ids=str)
def test_sort__refuses_a_column_named_twice(by):
    with pytest.raises(ValidationError, match="column 'a' is named twice"):
        Sort(by=by)


@pytest.mark.parametrize("by", [[], [""], ["-"]], ids=str)
def test_sort__refuses_no_column(by):
    with pytest.raises(ValidationError, match=r"at least 1|expected a column"):
        Sort(by=by)


def test_sort_column__a_leading_minus_is_descending():
    assert [sort_column(text) for text in ("a", "-a", "--a")] == [("a", False), ("a", True), ("-a", True)]
