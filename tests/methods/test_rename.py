import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation.methods.rename import Rename, renamed_columns


def test_rename__refuses_one_new_name_for_two():
    with pytest.raises(ValidationError, match="two columns would be named 'c'"):
        Rename(columns={"a": "c", "b": "c"})


def test_renamed_columns__can_swap():
    assert renamed_columns(["a", "b", "c"], {"a": "b", "b": "a"}) == ["b", "a", "c"]


def test_renamed_columns__parity_with_pyarrow():
    table = pa.table({"a": [1], "b": [2], "c": [3]})
    assert renamed_columns(table.column_names, {"b": "x"}) == table.rename_columns({"b": "x"}).column_names


def test_renamed_columns__refuse_a_name_that_is_taken():
    with pytest.raises(ValueError, match="expected new names that differ, got 'b' twice"):
        renamed_columns(["a", "b"], {"a": "b"})


def test_renamed_columns__refuse_unknown_names():
    with pytest.raises(ValueError, match="expected names of columns, got 'x'"):
        renamed_columns(["a"], {"x": "y"})
