"""Options of join: keys pair up, and what adds no columns names none."""

import pytest
from pydantic import ValidationError

from curation.methods.join import Join


@pytest.mark.parametrize(
    ("options", "left", "right"),
    [
        ({"on": "a"}, ["a"], ["a"]),
        ({"on": ["a", "b"]}, ["a", "b"], ["a", "b"]),
        ({"left_on": "a", "right_on": ["b"]}, ["a"], ["b"]),
    ],
)
def test_join__names_the_keys_of_both_sides(options, left, right):
    join = Join(right="r", **options)
    assert (join.left_keys, join.right_keys) == (left, right)
    assert join.sides() == {"right": "r"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "either `on` or both"),
        ({"on": "a", "left_on": "b"}, "either `on` or both"),
        ({"left_on": "a"}, "as many keys on the left as on the right, got 1 and 0"),
        ({"on": []}, "got 0 and 0"),
        ({"on": ["a", "a"]}, "key 'a' is named twice"),
        ({"on": "a", "how": "semi", "columns": ["b"]}, "semi adds no columns"),
        ({"on": "a", "how": "anti", "matches": "all"}, "anti adds no columns and no rows"),
        ({"on": "a", "columns": ["b", "b"]}, "column 'b' is named twice"),
    ],
)
def test_join__refuses_options_that_do_not_fit(options, text):
    with pytest.raises(ValidationError, match=text):
        Join(right="r", **options)
