import pytest
from pydantic import ValidationError

from curation.methods.filter import Filter


def test_filter__names_its_expression():
    assert Filter(where="a > 1").expressions() == {("where",): "a > 1"}


def test_filter__refuses_an_empty_condition():
    with pytest.raises(ValidationError, match="at least 1 character"):
        Filter(where="")
