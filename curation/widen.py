"""One type that holds the values of two, and tables brought to it without a changed value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as pt

UNITS = ("s", "ms", "us", "ns")
"""Units of time, the coarsest first."""

_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
_UNSIGNED = {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}
_FLOATS = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}
_DIGITS = {16: 11, 32: 24, 64: 53}  # bits of a whole number that a float of this width always holds
_DECIMALS = {8: 3, 16: 5, 32: 10, 64: 20}  # decimal digits of a whole number of this width


class WidenError(ValueError):
    """Two types have no common one, or a value does not fit; ``column`` says where."""

    def __init__(self, column: str, text: str) -> None:
        self.column = column
        super().__init__(f"column {column!r}: {text}")


def widened(a: pa.Field, b: pa.Field, *, exact: bool = False) -> pa.Field | None:
    """Field that holds every value of two fields.

    Integers and floats become wider, times finer, text and lists get longer offsets, and null meets anything. A
    dictionary meets its values as plain values, and another dictionary with an index of 32 bits at least: together they
    may have more values than a smaller one counts. Structs are matched field by field, lists by item.

    Parameters
    ----------
    a, b
        Two fields; name and metadata are those of ``a``.
    exact
        Also let 64-bit integers meet floats, as float64; :func:`fit` then refuses numbers that no double equals.

    Returns
    -------
    pyarrow.Field or None
        Nullable if one of the two is; None where no type holds both without loss.
    """
    kind = _wider(a.type, b.type, exact)
    if kind is None:
        return None
    return a.with_type(kind).with_nullable(a.nullable or b.nullable or pt.is_null(a.type) or pt.is_null(b.type))


def unify(schemas: Sequence[pa.Schema], *, exact: bool = False, strict: bool = False) -> pa.Schema:
    """Schema that holds the rows of several: the first one's columns, then new ones as they come.

    Parameters
    ----------
    schemas
        One or more, without repeated names.
    exact
        See :func:`widened`.
    strict
        Refuse a column that one of them lacks; otherwise it is nullable.

    Returns
    -------
    pyarrow.Schema
        With the metadata of the first.

    Raises
    ------
    WidenError
        Naming the column and both types.
    """
    fields = {field.name: field for field in schemas[0]}
    for schema in schemas[1:]:
        for name in [*fields, *(name for name in schema.names if name not in fields)]:
            here, there = fields.get(name), schema.field(name) if name in schema.names else None
            if strict and (here is None or there is None):
                raise WidenError(name, "expected in every table, but one lacks it")
            fields[name] = _either(name, here, there, exact)
    return pa.schema(list(fields.values()), metadata=schemas[0].metadata)


def _either(name: str, here: pa.Field | None, there: pa.Field | None, exact: bool) -> pa.Field:
    if here is None or there is None:
        return (here or there).with_nullable(True)  # type: ignore[union-attr]
    found = widened(here, there, exact=exact)
    if found is None:
        raise WidenError(name, f"expected one type, got {here.type} and {there.type}")
    return found


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Table with exactly the columns of a schema; those that it lacks are NULL.

    Parameters
    ----------
    table
        Rows whose types are among those that the schema was made of.
    schema
        From :func:`unify`.

    Raises
    ------
    WidenError
        If a value has no equal in the wider type, or a column that may not be NULL is not there.
    """
    columns = [_column(table, field) for field in schema]
    if not columns:
        return table.select([]).replace_schema_metadata(schema.metadata)
    return pa.Table.from_arrays(columns, schema=schema)


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        if not field.nullable:
            raise WidenError(field.name, "expected in the table, since it is not nullable; it is not there")
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = table.column(field.name)
    if column.type.equals(field.type, check_metadata=True):
        return column
    try:
        return pa.chunked_array([_cast(chunk, field.type) for chunk in column.chunks], field.type)
    except (pa.ArrowException, ValueError) as error:
        text = str(error).splitlines()[0]
        raise WidenError(field.name, f"expected values that {field.type} holds: {text}") from error


# Types


def roomy(kind: pa.DataType) -> pa.DataType:
    """The same type with an index of 32 bits where a dictionary has a smaller one, also inside structs and lists."""
    if pa.types.is_dictionary(kind) and kind.index_type.bit_width < 32:
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(roomy(each.type)) for each in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(roomy(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(roomy(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(roomy(kind.value_type)), kind.list_size)
    return kind


def _wider(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    if a.equals(b, check_metadata=True):
        return roomy(a)
    if pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if pt.is_dictionary(a) and pt.is_dictionary(b):
        return _dictionaries(a, b, exact)
    for encoded in (pt.is_dictionary, pt.is_run_end_encoded):
        if encoded(a) or encoded(b):
            return _wider(a.value_type if encoded(a) else a, b.value_type if encoded(b) else b, exact)
    for test, rule in _RULES:
        if test(a) and test(b):
            return rule(a, b, exact)
    return a if a == b else None


def _dictionaries(a: pa.DictionaryType, b: pa.DictionaryType, exact: bool) -> pa.DataType | None:
    values = _wider(a.value_type, b.value_type, exact)
    if values is None:
        return None
    # Two dictionaries together may have more values than either index counts.
    large = max(a.index_type.bit_width, b.index_type.bit_width) == 64
    return pa.dictionary(pa.int64() if large else pa.int32(), values, ordered=False)


def _numbers(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    if pt.is_decimal(a) or pt.is_decimal(b):
        return _decimals(a, b)
    if pt.is_floating(a) or pt.is_floating(b):
        return _floats(a, b, exact)
    if pt.is_signed_integer(a) == pt.is_signed_integer(b):
        kinds = _SIGNED if pt.is_signed_integer(a) else _UNSIGNED
        return kinds[max(a.bit_width, b.bit_width)]
    signed, unsigned = (a, b) if pt.is_signed_integer(a) else (b, a)
    return _SIGNED.get(max(signed.bit_width, 2 * unsigned.bit_width))


def _floats(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    width = max(kind.bit_width for kind in (a, b) if pt.is_floating(kind))
    whole = max((_bits(kind) for kind in (a, b) if pt.is_integer(kind)), default=0)
    fitting = [bits for bits, digits in _DIGITS.items() if bits >= width and digits >= whole]
    return _FLOATS[fitting[0]] if fitting else pa.float64() if exact else None


def _bits(kind: pa.DataType) -> int:
    return int(kind.bit_width) - int(pt.is_signed_integer(kind))


def _decimals(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pt.is_floating(a) or pt.is_floating(b):
        return None
    shapes = [(k.precision, k.scale) if pt.is_decimal(k) else (_DECIMALS[k.bit_width], 0) for k in (a, b)]
    scale = max(s for _, s in shapes)
    precision = max(p - s for p, s in shapes) + scale
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _days(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    return a if a == b else pa.date64()


def _finer(a: Any, b: Any) -> str:
    return UNITS[max(UNITS.index(a.unit), UNITS.index(b.unit))]


def _clocks(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    unit = _finer(a, b)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _instants(a: pa.TimestampType, b: pa.TimestampType, exact: bool) -> pa.DataType | None:
    return pa.timestamp(_finer(a, b), a.tz) if a.tz == b.tz else None


def _spans(a: pa.DurationType, b: pa.DurationType, exact: bool) -> pa.DataType | None:
    return pa.duration(_finer(a, b))


def _texts(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    return a if a == b else pa.large_string()


def _bytes(a: pa.DataType, b: pa.DataType, exact: bool) -> pa.DataType | None:
    short = (pt.is_binary, pt.is_fixed_size_binary)
    if a == b:
        return a
    return pa.binary() if all(any(test(kind) for test in short) for kind in (a, b)) else pa.large_binary()


def _lists(a: Any, b: Any, exact: bool) -> pa.DataType | None:
    item = widened(a.value_field, b.value_field, exact=exact)
    if item is None:
        return None
    if pt.is_fixed_size_list(a) and pt.is_fixed_size_list(b) and a.list_size == b.list_size:
        return pa.list_(item, a.list_size)
    short = (pt.is_list, pt.is_fixed_size_list)
    return pa.list_(item) if all(any(test(kind) for test in short) for kind in (a, b)) else pa.large_list(item)


def _structs(a: pa.StructType, b: pa.StructType, exact: bool) -> pa.DataType | None:
    theirs = [{field.name: field for field in kind} for kind in (a, b)]
    if any(len(fields) < kind.num_fields for fields, kind in zip(theirs, (a, b), strict=True)):
        return None  # a name stands there twice
    try:
        found = [_either(name, theirs[0].get(name), theirs[1].get(name), exact) for name in theirs[0] | theirs[1]]
    except WidenError:
        return None
    return pa.struct(found)


def _maps(a: pa.MapType, b: pa.MapType, exact: bool) -> pa.DataType | None:
    key = widened(a.key_field, b.key_field, exact=exact)
    item = widened(a.item_field, b.item_field, exact=exact)
    return None if key is None or item is None else pa.map_(key, item, keys_sorted=a.keys_sorted and b.keys_sorted)


def _one_of(*tests: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda kind: any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    views = (pt.is_list_view, pt.is_large_list_view)
    return _one_of(pt.is_list, pt.is_large_list, pt.is_fixed_size_list, *views)(kind)


Rule = Callable[[Any, Any, bool], pa.DataType | None]

_RULES: tuple[tuple[Callable[[Any], bool], Rule], ...] = (
    (_one_of(pt.is_integer, pt.is_floating, pt.is_decimal), _numbers),
    (_one_of(pt.is_string, pt.is_large_string, pt.is_string_view), _texts),
    (_one_of(pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary), _bytes),
    (pt.is_date, _days),
    (pt.is_time, _clocks),
    (pt.is_timestamp, _instants),
    (pt.is_duration, _spans),
    (pt.is_struct, _structs),
    (_is_list, _lists),
    (pt.is_map, _maps),
)


# Values


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Array in a wider type, value by value the same."""
    own = array.type
    if own.equals(kind, check_metadata=True):
        return array
    if pt.is_null(own):
        return pa.nulls(len(array), kind)
    if pt.is_dictionary(own):
        return _from_dictionary(array, kind)
    if pt.is_run_end_encoded(own):
        return _cast(pc.run_end_decode(array), kind)
    if pt.is_struct(kind):
        return _struct(array, kind)
    if pt.is_map(kind):
        offsets, first, last = _offsets(array)
        keys, items = (_cast(v.slice(first, last - first), k) for v, k in _map_parts(array, kind))
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=_mask(array))
    if _is_list(kind):
        return _list(array, kind)
    if pt.is_float64(kind) and pt.is_integer(own) and own.bit_width == 64:
        return _doubles(array)
    return array.cast(kind)


def _from_dictionary(array: pa.DictionaryArray, kind: pa.DataType) -> pa.Array:
    if not pt.is_dictionary(kind):
        return _cast(array.dictionary_decode(), kind)
    values = _cast(array.dictionary, kind.value_type)
    return pa.DictionaryArray.from_arrays(array.indices.cast(kind.index_type), values, ordered=kind.ordered)


def _map_parts(array: pa.MapArray, kind: pa.MapType) -> list[tuple[pa.Array, pa.DataType]]:
    return [(array.keys, kind.key_type), (array.items, kind.item_type)]


def _doubles(array: pa.Array) -> pa.Array:
    """64-bit integers as float64; raises where no double equals one."""
    whole = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    real: NDArray[np.float64] = whole.astype(np.float64)
    top = 2.0**64 if whole.dtype == np.uint64 else 2.0**63
    back = np.where(real < top, real, 0.0).astype(whole.dtype)
    wrong = (back != whole) | (real >= top)
    if wrong.any():
        raise ValueError(f"{whole[int(wrong.argmax())]} has no equal double")
    return pa.array(real, mask=_mask(array).to_numpy(zero_copy_only=False))


def _mask(array: pa.Array) -> pa.Array:
    return array.is_null()


def _struct(array: pa.StructArray, kind: pa.StructType) -> pa.Array:
    names = [field.name for field in array.type]
    parts = [
        _cast(array.field(names.index(field.name)), field.type)
        if field.name in names
        else pa.nulls(len(array), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=_mask(array))


def _offsets(array: pa.Array) -> tuple[pa.Array, int, int]:
    """Offsets of a list array that begin at 0, and the range of its values that they mean."""
    raw = np.asarray(array.offsets)
    return pa.array(raw - raw[0]), int(raw[0]), int(raw[-1])


def _list(array: pa.Array, kind: Any) -> pa.Array:
    if pt.is_fixed_size_list(array.type):
        size = array.type.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        if pt.is_fixed_size_list(kind):
            return pa.FixedSizeListArray.from_arrays(_cast(values, kind.value_type), type=kind, mask=_mask(array))
        offsets = np.arange(len(array) + 1) * size
    elif pt.is_list_view(array.type) or pt.is_large_list_view(array.type):  # Arrow's own cast of views breaks offsets
        sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets, values = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), array.flatten()
    else:
        found, first, last = _offsets(array)
        offsets, values = np.asarray(found), array.values.slice(first, last - first)
    values = _cast(values, kind.value_type)
    if pt.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, type=kind, mask=_mask(array))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind, mask=_mask(array))
