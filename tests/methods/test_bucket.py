"""Buckets against their definitions: all sizes of an area, the nearest in log aspect, edges of lengths."""

from bisect import bisect_left
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.bucket import (
    Bucket,
    aspect_buckets,
    aspect_ladder,
    cropped_share,
    growing_edges,
    length_bucket,
    length_labels,
    nearest_aspect,
    unscaled_aspect,
)

SIDES = {"width": "w", "height": "h"}
USUAL = aspect_buckets(1 << 20, 64, 4.0)
sides = st.integers(1, 5000)
sizes = st.lists(st.tuples(sides, sides), min_size=1, max_size=20)
tables = st.sampled_from(
    [(1 << 20, 64, 4.0), (512 * 512, 32, 2.0), (640 * 360, 8, 3.0), (100, 1, 1.5), (64 * 64, 64, 1.0)]
)


def columns(pairs: Any) -> tuple[Any, Any]:
    width, height = np.array(pairs, np.int64).T.copy()
    return width, height


def distance(w, h, bucket):
    """Ratio of the aspects, at least 1: grows with the distance of their logarithms."""
    ratio = Fraction(w, h) / Fraction(int(bucket[0]), int(bucket[1]))
    return max(ratio, 1 / ratio)


def nearest(w, h, buckets):
    return min(range(len(buckets)), key=lambda i: (distance(w, h, buckets[i]), buckets[i][0]))


@given(st.integers(1, 3000), st.integers(1, 9), st.sampled_from([1.0, 1.5, 2.0, 4.0]))
def test_aspect_buckets__are_all_sizes_that_the_area_holds(area, step, most):
    expected = []
    for w in range(step, area + 1, step):
        highs = list(range(step, area // w + 1, step))
        if highs and max(w, highs[-1]) <= most * min(w, highs[-1]):
            expected.append([w, highs[-1]])
    assert aspect_buckets(area, step, most).tolist() == expected


def test_aspect_buckets__hold_the_usual_sizes_of_trainers():
    found = {f"{w}x{h}" for w, h in USUAL}
    assert {"1024x1024", "1152x896", "896x1152", "1216x832", "832x1216", "1344x768", "768x1344", "1536x640"} <= found


@settings(deadline=None)
@given(sizes, tables)
def test_nearest_aspect__parity_with_exact_fractions(pairs, of):
    buckets = aspect_buckets(*of)
    assert nearest_aspect(*columns(pairs), buckets).tolist() == [nearest(w, h, buckets) for w, h in pairs]


def test_nearest_aspect__of_a_tie_is_the_smaller_width():
    buckets = np.array([[64, 128], [128, 64]])
    assert nearest_aspect(*columns([(7, 7), (8, 7), (7, 8), (40_000, 40_000)]), buckets).tolist() == [
        0,
        1,
        0,
        0,
    ]


def test_nearest_aspect__of_a_bucket_is_itself():
    assert nearest_aspect(*columns(USUAL), USUAL).tolist() == list(range(len(USUAL)))


def test_nearest_aspect__refuses_a_size_of_nothing():
    with pytest.raises(ValueError, match=r"height\[1\]: expected >= 1, got 0"):
        nearest_aspect(np.array([1, 1]), np.array([1, 0]), USUAL)


def test_aspect_ladder__halves_the_area_while_there_are_buckets():
    ladder = aspect_ladder(1 << 20, 64, 4.0)
    assert len(ladder) == 9
    assert all((rung.prod(axis=1) <= (1 << 20) >> k).all() for k, rung in enumerate(ladder))
    assert ladder[-1].tolist() == [[64, 64]]


@settings(deadline=None)
@given(sizes, tables)
def test_unscaled_aspect__is_the_first_rung_that_is_filled(pairs, of):
    ladder = aspect_ladder(*of)
    expected = []
    for w, h in pairs:
        first, found = 0, -1
        for rung in ladder:
            i = nearest(w, h, rung)
            if rung[i][0] <= w and rung[i][1] <= h:
                found = first + i
                break
            first += len(rung)
        expected.append(found)
    assert unscaled_aspect(*columns(pairs), ladder).tolist() == expected


@given(sizes)
def test_cropped_share__is_what_covering_leaves_over(pairs):
    width, height = columns(pairs)
    bucket = USUAL[nearest_aspect(width, height, USUAL)]
    scale = (bucket / np.stack([width, height], axis=1)).max(axis=1)
    kept = bucket.prod(axis=1) / (scale**2 * width * height)
    np.testing.assert_allclose(cropped_share(width, height, bucket), 1 - kept, atol=1e-12)


def test_cropped_share__of_the_same_aspect_is_nothing():
    assert cropped_share(np.array([300, 7]), np.array([200, 7]), np.array([[96, 64], [64, 64]])).tolist() == [0, 0]


@given(st.lists(st.integers(0, 50), min_size=1, unique=True).map(sorted), st.lists(st.integers(0, 60)))
def test_length_bucket__parity_with_bisect(edges, lengths):
    found = length_bucket(np.array(lengths, np.int64), edges)
    assert found.tolist() == [bisect_left(edges, length) for length in lengths]


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True).map(sorted))
def test_length_labels__sort_as_text_by_size(edges):
    labels = length_labels(edges)
    assert labels == sorted(labels)
    assert [int(label.lstrip("<=>")) for label in labels] == [*edges, edges[-1]]


def test_growing_edges__grow_by_the_factor_up_to_the_last():
    assert growing_edges(1.5, 32, 200) == [32, 48, 72, 108, 162, 200]
    assert growing_edges(1.01, 1, 4) == [1, 2, 3, 4]
    assert growing_edges(2.0, 8, 8) == [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "aspect, length: expected exactly one, got none"),
        ({"aspect": SIDES, "length": {"column": "n", "edges": [1]}}, "expected exactly one, got both"),
        ({"aspect": SIDES | {"area": 63 * 64}}, "expected room for a bucket of step 64 and aspect <= 4, got 4032"),
        ({"aspect": SIDES | {"max_aspect": 0.5}}, "greater than or equal to 1"),
        ({"aspect": SIDES | {"add": ["crop", "crop"]}}, "expected each name once"),
        ({"length": {"column": "n", "edges": [2, 2]}}, "expected ascending numbers"),
        ({"length": {"column": "n"}}, "expected edges, or growth with min and max, got none"),
        ({"length": {"column": "n", "edges": [1], "growth": 2.0}}, "expected edges, or growth .* got edges, growth"),
        ({"length": {"column": "n", "growth": 2.0, "min": 1}}, "got growth, min"),
        ({"length": {"column": "n", "growth": 2.0, "min": 9, "max": 8}}, "max: expected >= min, got 8 < 9"),
        ({"length": {"column": "n", "growth": 1.001, "min": 1, "max": 10**6}}, "at most 1000 edges"),
    ],
)
def test_bucket__refuses(options, message):
    with pytest.raises(ValidationError, match=message):
        Bucket(**options)
