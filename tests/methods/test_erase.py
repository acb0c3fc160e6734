"""Options of erase."""

import pytest
from pydantic import ValidationError

from curation.methods.erase import Erase


def test_erase__looks_keys_up_in_its_list():
    assert Erase(keys="withdrawn", on="user").sides() == {"keys": "withdrawn"}


@pytest.mark.parametrize("options", [{"keys": "a"}, {"on": "a"}], ids=str)
def test_erase__needs_list_and_column(options):
    with pytest.raises(ValidationError, match="Field required"):
        Erase(**options)


def test_erase__only_notes_keys_that_are_not_found_unless_told():
    assert Erase(keys="a", on="b").not_found == "note"
