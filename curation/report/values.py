"""Values for people: as Python holds them where it can, else as the text that Arrow makes of them."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import CurationError

Column: TypeAlias = Any
"""``pa.Array`` or ``pa.ChunkedArray``."""


def to_text(column: Column) -> list[str | None]:
    """Values as text, NULL as None; never fails."""
    try:
        found: list[str | None] = _decoded(column).cast(pa.large_string()).to_pylist()
    except (pa.ArrowException, ValueError):  # nested, or bytes that are no UTF-8
        return [None if value is None else repr(value) for value in to_python(column)]
    return found


def to_python(column: Column) -> list[Any]:
    """Values as Python objects; never fails.

    Times and dates are text: Python holds no nanoseconds, and only the years 1 to 9999.
    """
    try:
        held = _held(column.type)
        found: list[Any] = (column if held == column.type else column.cast(held)).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        return [_one(value) for value in column]
    return found


def to_names(column: Column) -> list[str | None]:
    """Values as Python writes them where it holds them, else as Arrow does, NULL as None; never fails."""
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    try:
        found = _coarse(plain).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        if len(plain) > 1:  # one by one, so that a value has one name whatever stands beside it
            return [name for i in range(len(plain)) for name in to_names(plain.slice(i, 1))]
        found = to_python(plain)
    return [None if value is None else str(value) for value in found]


def _coarse(column: Column) -> Column:
    """Nanoseconds as microseconds; raises where that is not exact."""
    kind = column.type
    if getattr(kind, "unit", "") != "ns":
        return column
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz))
    return column.cast(pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us"))


def matches(column: Column, value: str) -> NDArray[np.bool_]:
    """Where a column has a value that is given as text; ``null`` finds missing values.

    Raises
    ------
    CurationError
        If values of this type cannot be given as text.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if value == "null":
        return np.asarray(column.is_null(), dtype=np.bool_)
    if pa.types.is_nested(kind) or _is_bytes(kind):
        raise CurationError(f"values of type {column.type} cannot be named on a command line")
    plain = _decoded(column)
    if pa.types.is_float16(kind):
        plain, kind = plain.cast(pa.float32()), pa.float32()
    if _is_number(kind):
        try:
            number = pa.scalar(_number(kind, value), kind)
        except (pa.ArrowException, ValueError, OverflowError, InvalidOperation):  # no number, or not of this type
            return np.zeros(len(column), np.bool_)
        same = pc.is_nan(plain) if value.lower() == "nan" else pc.equal(plain, number)
        return np.asarray(pc.fill_null(same, False), dtype=np.bool_)
    try:
        same = pc.equal(plain.cast(pa.large_string()), pa.scalar(value, pa.large_string()))
    except (pa.ArrowException, ValueError):
        return np.array([each == value for each in to_text(column)], np.bool_)
    return np.asarray(pc.fill_null(same, False), dtype=np.bool_)


def _number(kind: pa.DataType, value: str) -> int | float | Decimal:
    if pa.types.is_decimal(kind):
        return Decimal(value)
    return float(value) if pa.types.is_floating(kind) else int(value)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _decoded(column: Column) -> Column:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _held(kind: pa.DataType) -> pa.DataType:
    """The same type with text in the place of times, at any depth."""
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return pa.string()
    if pa.types.is_dictionary(kind):
        return _held(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(_held(each.type)) for each in kind])
    if pa.types.is_map(kind):
        return pa.map_(_held(kind.key_type), _held(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_held(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_held(kind.value_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_held(kind.value_type)))
    return kind


def _one(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        pass
    try:
        return value.cast(pa.binary()).as_py()  # text that is no UTF-8
    except (pa.ArrowException, ValueError, OverflowError):
        return f"<{value.type}>"
