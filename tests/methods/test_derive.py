import pytest
from pydantic import ValidationError

from curation.methods.derive import Derive


def test_derive__names_its_expressions():
    derive = Derive(columns={"long": "length(text) > 9", "n": "length(text)"})
    assert derive.expressions() == {("columns", "long"): "length(text) > 9", ("columns", "n"): "length(text)"}


def test_derive__refuses_no_columns():
    with pytest.raises(ValidationError, match="at least 1 item"):
        Derive(columns={})
