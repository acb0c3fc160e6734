"""Binary keys whose order as bytes is the order of rows by several columns, over Arrow data of any layout.

A key holds one part a column: a byte that is 0 for a value and 1 for NULL, so that NULL comes last, and the value.
Numbers, times and decimals are big-endian with the sign turned; text is its UTF-8 with 0 written as 0 255 and ended by
0 0. Floats are ordered as numbers: -0.0 equals 0.0, and NaN, all of one kind, comes after infinity. A descending part
has the bytes of its values turned over, so NaN comes first there, and NULL still last. Row id and copy end the key:
no two rows have the same one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as pt

from curation._jit import njit
from curation.types import copies_of, ids_of

By = tuple[tuple[str, bool], ...]
"""Columns to sort by, the first one counts most, and whether each is descending."""

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Places = NDArray[np.int64]

_TEXT = (pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary, pt.is_string_view, pt.is_binary_view)
_SIGNED = (
    pt.is_signed_integer,
    pt.is_decimal,
    pt.is_date,
    pt.is_time,
    pt.is_timestamp,
    pt.is_duration,
)
_PLAIN = (pt.is_null, pt.is_unsigned_integer, pt.is_floating, pt.is_boolean, pt.is_fixed_size_binary)


def sortable(kind: pa.DataType) -> bool:
    """Whether rows can be sorted by a column of a type."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return sortable(kind.value_type)
    return any(test(kind) for test in (*_TEXT, *_SIGNED, *_PLAIN))


def order_keys(table: pa.Table, by: By) -> pa.Array:
    """Key of each row.

    Parameters
    ----------
    table
        Rows with their ids, n of them.
    by
        Columns of :func:`sortable` types.

    Returns
    -------
    (n,)
        Large binary, no NULL, all different; sorted as bytes they are the order of the rows.
    """
    parts = [(_part(table.column(name)), descending) for name, descending in by]
    size = np.full(table.num_rows, 12, np.int64)
    for part, _ in parts:
        size += part.sizes()
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
    out, at = np.empty(int(offsets[-1]), np.uint8), offsets[:-1].copy()
    for part, descending in parts:
        part.put(out, at, np.uint8(255 if descending else 0))
    ends = np.concatenate([_big(ids_of(table)), _big(copies_of(table))], axis=1)
    _put_raw(ends, out, at)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), table.num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(out)]
    )


class _Fixed:
    """Values of one width: bytes (n, w), the most significant first, and which rows have one."""

    def __init__(self, values: Bytes, known: Flags) -> None:
        self._values, self._known = np.ascontiguousarray(values), known

    def sizes(self) -> Places:
        return np.full(len(self._known), 1 + self._values.shape[1], np.int64)

    def put(self, out: Bytes, at: Places, turn: np.uint8) -> None:
        _put_fixed(self._values, self._known, turn, out, at)


class _Text:
    """Values of any length: bytes, where each begins and ends, and which rows have one."""

    def __init__(self, data: Bytes, edges: Places, known: Flags) -> None:
        self._data, self._edges, self._known = data, edges, known

    def sizes(self) -> Places:
        return _text_sizes(self._data, self._edges, self._known)

    def put(self, out: Bytes, at: Places, turn: np.uint8) -> None:
        _put_text(self._data, self._edges, self._known, turn, out, at)


def _part(column: pa.ChunkedArray) -> _Fixed | _Text:
    kind = column.type
    if pt.is_dictionary(kind):
        return _part(column.cast(kind.value_type))
    if pt.is_run_end_encoded(kind):
        return _part(pc.run_end_decode(column))
    if any(test(kind) for test in _TEXT):
        return _text(column)
    if pt.is_null(kind):
        return _Fixed(np.zeros((len(column), 0), np.uint8), np.zeros(len(column), bool))
    whole = column.combine_chunks()
    whole = whole.cast(pa.uint8()) if pt.is_boolean(kind) else whole
    known = np.asarray(whole.is_valid())
    if pt.is_fixed_size_binary(kind) and not pt.is_decimal(kind):
        return _Fixed(_raw(whole), known)
    if pt.is_floating(kind):
        return _Fixed(_floats(whole), known)
    values = _raw(whole)[:, ::-1].copy()
    if any(test(kind) for test in _SIGNED):
        values[:, 0] ^= np.uint8(128)
    return _Fixed(values, known)


def _raw(array: pa.Array) -> Bytes:
    """Bytes of values of one width, as they lie, shape (n, w)."""
    width, rows = int(array.type.bit_width) // 8, len(array)
    buffer = array.buffers()[1]
    if buffer is None or not rows or not width:
        return np.zeros((rows, width), np.uint8)
    flat = np.frombuffer(buffer, np.uint8)
    return flat[array.offset * width : (array.offset + rows) * width].reshape(rows, width)


def _floats(array: pa.Array) -> Bytes:
    """Bytes of floats whose order is that of the numbers, NaN last."""
    width = int(array.type.bit_width) // 8
    real = _raw(array).copy().view(f"<f{width}").ravel()
    real = real + real.dtype.type(0)  # -0.0 becomes 0.0
    real[np.isnan(real)] = np.nan
    bits = real.view(f"<u{width}")
    sign = bits.dtype.type(1 << (8 * width - 1))
    turned = np.where(bits & sign, ~bits, bits | sign)
    return _big(turned)


def _big(values: NDArray[Any]) -> Bytes:
    """Unsigned numbers as bytes, the most significant first."""
    width = values.dtype.itemsize
    return np.ascontiguousarray(values.astype(f">u{width}")).view(np.uint8).reshape(len(values), width)


def _text(column: pa.ChunkedArray) -> _Text:
    text = pt.is_string(column.type) or pt.is_large_string(column.type) or pt.is_string_view(column.type)
    large = column.cast(pa.large_string()).cast(pa.large_binary()) if text else column.cast(pa.large_binary())
    whole = large.combine_chunks()
    edges = np.frombuffer(whole.buffers()[1], np.int64)[whole.offset : whole.offset + len(whole) + 1]
    data = whole.buffers()[2]
    none = np.zeros(0, np.uint8)
    return _Text(none if data is None else np.frombuffer(data, np.uint8), edges, np.asarray(whole.is_valid()))


# Kernels: `at` is where the next byte of each row's key goes, and moves on.


@njit()
def _put_raw(values: Bytes, out: Bytes, at: Places) -> None:
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[at[i] + j] = values[i, j]
        at[i] += values.shape[1]


@njit()
def _put_fixed(values: Bytes, known: Flags, turn: np.uint8, out: Bytes, at: Places) -> None:
    for i in range(values.shape[0]):
        start = at[i]
        out[start] = 0 if known[i] else 1
        for j in range(values.shape[1]):
            out[start + 1 + j] = (values[i, j] ^ turn) if known[i] else 0
        at[i] = start + 1 + values.shape[1]


@njit()
def _text_sizes(data: Bytes, edges: Places, known: Flags) -> Places:
    sizes = np.ones(len(known), np.int64)
    for i in range(len(known)):
        if known[i]:
            sizes[i] = 3 + edges[i + 1] - edges[i]
            for j in range(edges[i], edges[i + 1]):
                if data[j] == 0:
                    sizes[i] += 1
    return sizes


@njit()
def _put_text(data: Bytes, edges: Places, known: Flags, turn: np.uint8, out: Bytes, at: Places) -> None:
    for i in range(len(known)):
        place = at[i]
        out[place] = 0 if known[i] else 1
        place += 1
        if known[i]:
            for j in range(edges[i], edges[i + 1]):
                out[place] = data[j] ^ turn
                place += 1
                if data[j] == 0:
                    out[place] = 255 ^ turn
                    place += 1
            out[place] = turn
            out[place + 1] = turn
            place += 2
        at[i] = place
