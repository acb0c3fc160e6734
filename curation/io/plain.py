"""Values of Arrow columns as JSON and as NumPy arrays, for formats that know fewer types."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def json_text(value: Any) -> str:
    """JSON of a Python value: times in ISO 8601, durations in seconds, decimals as text, NaN and infinities as ``NaN``.

    Raises
    ------
    ValueError
        If it holds bytes, or anything else that JSON does not know.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_other)


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Values of a column for :func:`json_text`; times finer than Python's are text before they could be cut."""
    if pa.types.is_timestamp(column.type) or pa.types.is_time(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_duration(column.type):
        per_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
        return [None if each is None else each / per_second for each in column.cast(pa.int64()).to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _other(value: Any) -> Any:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    raise ValueError(f"a value of {type(value).__name__}, which JSON does not know")


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type are bytes."""
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view()) or bool(pa.types.is_fixed_size_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text."""
    return bool(kind in (pa.string(), pa.large_string(), pa.string_view()))


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type are integers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_varying_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists whose length differs from row to row."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def list_shape(kind: pa.DataType) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Dtype and shape of lists of numbers, nested only in lists of a fixed size; a varying length is -1.

    Returns
    -------
    tuple or None
        None for all other types.
    """
    shape: tuple[int, ...] = ()
    if is_varying_list(kind):
        shape, kind = (-1,), kind.value_type
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    return (np.dtype(kind.to_pandas_dtype()), shape) if shape and is_number(kind) else None


def number_arrays(column: pa.ChunkedArray) -> list[NDArray[Any] | None]:
    """Each value of a column of lists of numbers as an array; None for NULL.

    Raises
    ------
    ValueError
        If there is a NULL inside a list.
    """
    return [each for chunk in column.chunks for each in _arrays(chunk)]


def _arrays(chunk: pa.Array) -> list[NDArray[Any] | None]:
    if not len(chunk):
        return []
    lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat, inner = chunk.flatten(), []  # values of the rows alone, without those under a NULL
    while pa.types.is_fixed_size_list(flat.type):
        if flat.null_count:
            raise ValueError("a NULL inside a list")
        inner.append(flat.type.list_size)
        flat = flat.flatten()
    if flat.null_count:
        raise ValueError("a NULL inside a list")
    values = flat.to_numpy(zero_copy_only=False).reshape(-1, *inner)
    parts = np.split(values, np.cumsum(lengths)[:-1])
    there = chunk.is_valid().to_pylist()
    return [part if valid else None for part, valid in zip(parts, there, strict=True)]


def has_bytes(kind: pa.DataType) -> bool:
    """Whether values of a type are, or hold, bytes."""
    if pa.types.is_dictionary(kind):
        return has_bytes(kind.value_type)
    if is_bytes(kind):
        return True
    return any(has_bytes(kind.field(i).type) for i in range(kind.num_fields))
