"""A wider type holds the values of both: same values after the cast, nothing rounded, nothing guessed."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.widen import WidenError, fit, unify, widened

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]


def both(a, b, **options):
    """The wider of two types, or None."""
    found = widened(pa.field("c", a), pa.field("c", b), **options)
    return None if found is None else found.type


def fitted(values, kind, other, **options):
    """Values of one type brought to what holds both."""
    schemas = [pa.schema([("c", each)]) for each in (kind, other)]
    table = pa.table({"c": pa.array(values, kind)})
    return fit(table, unify(schemas, **options)).column("c")


@pytest.mark.parametrize(
    ("a", "b", "wide"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint32(), pa.int8(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int16(), pa.float16(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int8(), pa.float16(), pa.float16()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string(), pa.string_view(), pa.large_string()),
        (pa.binary(4), pa.binary(5), pa.binary()),
        (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (
            pa.dictionary(pa.int8(), pa.string()),
            pa.dictionary(pa.int16(), pa.string()),
            pa.dictionary(pa.int32(), pa.string()),
        ),
        (
            pa.dictionary(pa.uint8(), pa.string(), ordered=True),
            pa.dictionary(pa.uint8(), pa.string(), ordered=True),
            pa.dictionary(pa.int32(), pa.string(), ordered=True),
        ),
        (
            pa.struct([("l", pa.list_(pa.dictionary(pa.int16(), pa.string())))]),
            pa.struct([("l", pa.list_(pa.dictionary(pa.int16(), pa.string())))]),
            pa.struct([("l", pa.list_(pa.dictionary(pa.int32(), pa.string())))]),
        ),
        (pa.run_end_encoded(pa.int32(), pa.int8()), pa.int16(), pa.int16()),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("ms", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("ns", "UTC")),
        (pa.time32("s"), pa.time64("us"), pa.time64("us")),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.duration("s"), pa.duration("ms"), pa.duration("ms")),
        (pa.decimal128(5, 2), pa.decimal128(6, 1), pa.decimal128(7, 2)),
        (pa.decimal128(38, 0), pa.int64(), pa.decimal128(38, 0)),
        (pa.decimal128(38, 10), pa.uint64(), pa.decimal128(38, 10)),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int16(), 2), pa.list_(pa.int16(), 2)),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
        (pa.list_(pa.int8()), pa.large_list(pa.int32()), pa.large_list(pa.int32())),
        (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int32())),
    ],
    ids=str,
)
def test_widened__holds_both_in_either_order(a, b, wide):
    assert both(a, b) == wide
    assert both(b, a) == wide


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pa.uint64(), pa.int64()),
        (pa.int64(), pa.float64()),
        (pa.uint64(), pa.float32()),
        (pa.string(), pa.binary()),
        (pa.string(), pa.int8()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("s", "UTC"), pa.timestamp("s")),
        (pa.timestamp("s", "UTC"), pa.timestamp("s", "Europe/Berlin")),
        (pa.date32(), pa.timestamp("s")),
        (pa.decimal128(5, 2), pa.float64()),
        (pa.decimal256(76, 0), pa.decimal128(38, 10)),
        (pa.list_(pa.int8()), pa.list_(pa.string())),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())])),
        (pa.list_(pa.int8()), pa.map_(pa.string(), pa.int8())),
    ],
    ids=str,
)
def test_widened__refuses_what_would_lose_or_guess(a, b):
    assert both(a, b) is None
    assert both(b, a) is None


@pytest.mark.parametrize("kind", [*INTEGERS, *FLOATS, pa.string(), pa.struct([("a", pa.int8())]), pa.bool_()], ids=str)
def test_widened__of_equal_types_is_that_type(kind):
    assert both(kind, kind) == kind


def numbers(kind):
    """Any number of a type, its bounds above all."""
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_nan=False)
    low, high = (int(bound) for bound in (np.iinfo(kind.to_pandas_dtype()).min, np.iinfo(kind.to_pandas_dtype()).max))
    return st.integers(low, high) | st.sampled_from([low, high])


@given(st.data())
def test_fit__keeps_every_number(data):
    a, b = (data.draw(st.sampled_from(INTEGERS + FLOATS)) for _ in range(2))
    if both(a, b) is None:
        return
    values = data.draw(st.lists(st.none() | numbers(a), max_size=5))
    assert fitted(values, a, b).to_pylist() == values


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_fit__takes_exactly_the_integers_that_a_double_equals(values):
    exact = all(v is None or int(float(v)) == v for v in values)
    if exact:
        assert fitted(values, pa.int64(), pa.float64(), exact=True).to_pylist() == values
    else:
        with pytest.raises(WidenError, match=r"column 'c': expected values that double holds: -?\d+ has no equal"):
            fitted(values, pa.int64(), pa.float64(), exact=True)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(2**63 - 1, pa.int64()), (2**64 - 1, pa.uint64()), (2**53 + 1, pa.int64()), (2**53 + 1, pa.uint64())],
    ids=str,
)
def test_fit__names_a_number_that_no_double_equals(value, kind):
    with pytest.raises(WidenError, match=f"{value} has no equal double"):
        fitted([1, value], kind, pa.float64(), exact=True)


def test_fit__takes_powers_of_two_beyond_the_mantissa():
    assert fitted([2**62, -(2**63)], pa.int64(), pa.float64(), exact=True).to_pylist() == [2.0**62, -(2.0**63)]


def test_fit__refuses_a_time_that_the_finer_unit_cannot_hold():
    far = pa.array([2**60], pa.int64()).cast(pa.timestamp("s"))
    with pytest.raises(WidenError, match=r"column 'c': .*timestamp\[ns\]"):
        fitted(far, pa.timestamp("s"), pa.timestamp("ns"))


def test_fit__keeps_times():
    when = [dt.datetime(1969, 12, 31, 23, 59, 59), None, dt.datetime(2300, 1, 1)]
    assert fitted(when, pa.timestamp("s"), pa.timestamp("us")).to_pylist() == when


def test_fit__keeps_decimals():
    values = [Decimal("-999.99"), None, Decimal("0.01")]
    assert fitted(values, pa.decimal128(5, 2), pa.decimal128(30, 20)).to_pylist() == values


NESTED = st.lists(st.none() | st.lists(st.none() | st.integers(-128, 127), min_size=2, max_size=2), max_size=6)
OTHERS = [pa.list_(pa.int64(), 2), pa.list_(pa.int64(), 3), pa.list_(pa.int8()), pa.large_list(pa.float32())]


@given(NESTED, st.sampled_from([pa.list_(pa.int8(), 2), pa.list_(pa.int8()), pa.large_list(pa.int8())]), st.data())
def test_fit__keeps_lists_also_of_slices(values, kind, data):
    other = data.draw(st.sampled_from(OTHERS))
    cut = data.draw(st.integers(0, len(values)))
    sliced = pa.array(values, kind).slice(cut)
    assert fitted(sliced, kind, other).to_pylist() == values[cut:]


@pytest.mark.parametrize("kind", [pa.list_view(pa.int8()), pa.large_list_view(pa.int8())], ids=str)
@pytest.mark.parametrize("start", [0, 1, 2])
def test_fit__keeps_list_views_also_of_slices(kind, start):
    values = [[1, 2], None, [], [3]]
    assert fitted(pa.array(values, kind).slice(start), kind, pa.list_(pa.int16())).to_pylist() == values[start:]


def test_fit__matches_structs_field_by_field():
    a, b = pa.struct([("x", pa.int8()), ("y", pa.string())]), pa.struct([("z", pa.int8()), ("x", pa.int32())])
    rows = pa.array([{"x": 0, "y": "no"}, {"x": 1, "y": "a"}, None, {"x": None, "y": None}], a).slice(1)
    found = fitted(rows, a, b)
    assert found.type == pa.struct([("x", pa.int32()), ("y", pa.string()), ("z", pa.int8())])
    assert found.to_pylist() == [{"x": 1, "y": "a", "z": None}, None, {"x": None, "y": None, "z": None}]


def test_fit__keeps_maps_of_slices():
    values = [[("a", 1)], None, [("b", None), ("c", 2)]]
    array = pa.array(values, pa.map_(pa.string(), pa.int8())).slice(1)
    assert fitted(array, array.type, pa.map_(pa.large_string(), pa.int32())).to_pylist() == values[1:]


@pytest.mark.parametrize(
    "other", [pa.string(), pa.dictionary(pa.int16(), pa.large_string()), pa.string_view()], ids=str
)
def test_fit__keeps_dictionaries(other):
    values = ["b", None, "a", "b"]
    assert fitted(values, pa.dictionary(pa.int8(), pa.string()), other).to_pylist() == values


def test_fit__keeps_run_ends():
    array = pa.compute.run_end_encode(pa.array([1, 1, None, 2], pa.int8()))
    assert fitted(array, array.type, pa.int32()).to_pylist() == [1, 1, None, 2]


def test_fit__makes_nulls_of_any_type():
    assert fitted([None, None], pa.null(), pa.struct([("a", pa.int8())])).to_pylist() == [None, None]


def test_unify__keeps_the_first_order_then_adds_new_columns():
    found = unify([pa.schema([("b", pa.int8()), ("a", pa.int8())]), pa.schema([("c", pa.int8()), ("a", pa.int16())])])
    assert found == pa.schema([("b", pa.int8()), ("a", pa.int16()), ("c", pa.int8())])


def test_unify__a_column_that_one_lacks_becomes_nullable():
    must = pa.schema([pa.field("a", pa.int8(), nullable=False), pa.field("b", pa.int8(), nullable=False)])
    found = unify([must, must.remove(1), must])
    assert [field.nullable for field in found] == [False, True]
    assert fit(pa.table({"a": pa.array([1], pa.int8())}), found).to_pylist() == [{"a": 1, "b": None}]


def test_unify__names_column_and_types():
    with pytest.raises(WidenError, match="column 'a': expected one type, got uint64 and int64") as raised:
        unify([pa.schema([("a", pa.uint64())]), pa.schema([("a", pa.int64())])])
    assert raised.value.column == "a"


def test_unify__if_strict_refuses_a_column_that_one_lacks():
    with pytest.raises(WidenError, match="column 'a': expected in every table, but one lacks it"):
        unify([pa.schema([("a", pa.int8())]), pa.schema([("b", pa.int8())])], strict=True)


def test_fit__of_no_columns_and_no_rows():
    assert fit(pa.table({}), pa.schema([])).num_columns == 0
    assert fit(pa.table({"a": pa.array([], pa.int8())}), pa.schema([("a", pa.int64())])).num_rows == 0


def test_fit__refuses_a_lacking_column_that_may_not_be_null():
    with pytest.raises(WidenError, match="column 'b': expected in the table, since it is not nullable"):
        fit(pa.table({"a": [1]}), pa.schema([pa.field("b", pa.int8(), nullable=False)]))
