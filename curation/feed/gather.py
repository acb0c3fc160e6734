"""Rows from many mapped blocks into one buffer, in one compiled loop: numbers, texts, bytes and lists of numbers.

A loader asks for few rows of many blocks, so the work per block and batch must not be Python's: the addresses of the
blocks are looked up once, and a batch is one loop that copies rows. Arrow's own ``take`` would first join the blocks
of a column, which copies all of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation._jit import copy_bytes, njit
from curation.feed.plan import FeedError

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

NO_BITMAP = -1
NULL = -1
"""Length of a value that is null."""


class FixedWidth:
    """One column of numbers, or of fixed-size lists of numbers, over all record batches of a build.

    Parameters
    ----------
    arrays
        The column's array of each record batch, in order, without nulls; they are kept, and with them their memory.
    starts : (n_blocks + 1,)
        First row of each block in the build.
    dtype, shape
        Type and inner shape of a row.
    """

    def __init__(
        self, arrays: Sequence[pa.Array], starts: Numbers, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self._arrays = [_values(array) for array in arrays]
        self._starts = starts
        self._dtype, self._shape = dtype, shape
        self._row_bytes = int(dtype.itemsize * np.prod(shape, dtype=np.int64))
        used = [(values.ctypes.data, values.nbytes) for values in self._arrays if values.size]
        self._memory, base = _stretch(used)
        self._offsets = np.array([v.ctypes.data - base if v.size else 0 for v in self._arrays], np.int64)

    def take(self, positions: Numbers) -> NDArray[Any]:
        """Rows at positions of the build, in their order."""
        out = np.empty((len(positions), *self._shape), self._dtype)
        if len(positions) and self._row_bytes:
            _copy_rows(
                self._memory, self._offsets, self._starts, positions, self._row_bytes, out.reshape(-1).view(np.uint8)
            )
        return out


class Varying:
    """One column of texts, bytes or lists of numbers, over all record batches of a build.

    Parameters
    ----------
    arrays
        The column's array of each record batch, in order, of one type; nulls are allowed, but not inside lists.
    starts : (n_blocks + 1,)
        First row of each block in the build.
    """

    def __init__(self, arrays: Sequence[pa.Array], starts: Numbers) -> None:
        self._arrays, self._starts = list(arrays), starts
        self._type = arrays[0].type
        self._offset_bytes = 8 if _is_large(self._type) else 4
        self._width = item_bytes(self._type)
        blocks = [self._block(array) for array in arrays]
        self._memory, base = _stretch([part for block in blocks for part in block if part[1]])
        table = np.zeros((len(blocks), 5), np.int64)
        for row, array, (bitmap, offsets, data) in zip(table, arrays, blocks, strict=True):
            row[0] = bitmap[0] - base if bitmap[1] else NO_BITMAP
            row[1:] = offsets[0] - base, array.offset, data[0] - base if data[1] else 0, data[1]
        self._blocks = table

    def _block(self, array: pa.Array) -> tuple[tuple[int, int], ...]:
        """Address and bytes of bitmap, offsets and data."""
        bitmap, offsets, data = array.buffers()[0], array.buffers()[1], array.buffers()[-1]
        values = (0, 0) if data is None else (data.address, data.size)
        if _is_list(array.type):
            inner = array.values
            values = (values[0] + inner.offset * self._width, len(inner) * self._width)
        places = (0, 0) if offsets is None else (offsets.address, offsets.size)
        return (0, 0) if bitmap is None or not array.null_count else (bitmap.address, bitmap.size), places, values

    def take(self, positions: Numbers) -> Values:
        """Values at positions of the build, in their order.

        Raises
        ------
        FeedError
            If a shard says that a value lies where it cannot.
        """
        begin, length = np.zeros(len(positions), np.int64), np.zeros(len(positions), np.int64)
        bad = _locate(
            self._memory, self._blocks, self._starts, positions, self._offset_bytes, self._width, begin, length
        )
        _refuse(bad, positions)
        return Values(self._type, self._memory, begin, length)


class Placed:
    """One column of texts or bytes of Parquet shards whose sidecars tell where each value lies in the file.

    Parameters
    ----------
    files
        The mapped bytes of each shard.
    offsets, lengths
        Of each shard, as its sidecar says, mapped; ``2**32 - 1`` is the length of a null.
    starts : (n_shards + 1,)
        First row of each shard.
    kind
        Arrow type of the column.
    """

    def __init__(
        self,
        files: Sequence[Bytes],
        offsets: Sequence[NDArray[np.uint64]],
        lengths: Sequence[NDArray[np.uint32]],
        starts: Numbers,
        kind: pa.DataType,
    ) -> None:
        self._held = list(zip(offsets, lengths, files, strict=True))
        self._starts, self._type = starts, _plain(kind)
        self._memory, base = _stretch([(each.ctypes.data, each.nbytes) for held in self._held for each in held])
        table = [[*(each.ctypes.data - base for each in held), held[-1].nbytes] for held in self._held]
        self._blocks = np.array(table, np.int64).reshape(-1, 4)

    def take(self, positions: Numbers) -> Values:
        """Values at positions of the build, in their order.

        Raises
        ------
        FeedError
            If a sidecar says that a value lies where it cannot.
        """
        begin, length = np.zeros(len(positions), np.int64), np.zeros(len(positions), np.int64)
        _refuse(_locate_placed(self._memory, self._blocks, self._starts, positions, begin, length), positions)
        return Values(self._type, self._memory, begin, length)


@dataclass(frozen=True)
class Values:
    """Where values of varying length lie: ``begin`` in ``memory`` and ``length`` (-1 for null), both in bytes.

    They are copied once, in the form that is asked for, and only as long as what was gathered from is held.
    """

    type: pa.DataType
    memory: Bytes
    begin: Numbers
    length: Numbers

    def ends(self) -> Numbers:
        """Where values begin and end when they lie one behind the other: (n + 1,) [bytes]."""
        ends = np.zeros(len(self.length) + 1, np.int64)
        np.cumsum(np.maximum(self.length, 0), out=ends[1:])
        return ends

    def write(self, out: Bytes) -> None:
        """Copy the values one behind the other into ``out``, which has the bytes of all of them."""
        _copy_values(self.memory, self.begin, self.length, out)

    def packed(self) -> tuple[Bytes, Numbers]:
        """Copy of the values one behind the other, and their `ends`."""
        ends = self.ends()
        data = np.empty(int(ends[-1]), np.uint8)
        self.write(data)
        return data, ends

    def arrow(self) -> pa.Array:
        """Copy of the values as one Arrow array.

        Raises
        ------
        FeedError
            If the values are too many for offsets of 32 bits.
        """
        data, ends = self.packed()
        n, inner = len(self.length), self.type.value_type if _is_list(self.type) else None
        ends //= item_bytes(self.type)
        if not _is_large(self.type):
            if len(data) >= 1 << 31:
                raise FeedError(f"batch: expected less than 2 GiB of {self.type}, got {len(data)} B; lower batch_size")
            ends = ends.astype(np.int32)
        null = self.length < 0
        bitmap = pa.py_buffer(np.packbits(~null, bitorder="little")) if null.any() else None
        if inner is None:
            return pa.Array.from_buffers(self.type, n, [bitmap, pa.py_buffer(ends), pa.py_buffer(data)])
        child = pa.Array.from_buffers(inner, int(ends[-1]), [None, pa.py_buffer(data)])
        return pa.Array.from_buffers(self.type, n, [bitmap, pa.py_buffer(ends)], children=[child])

    def objects(self) -> NDArray[Any]:
        """Copy of the values as an array of ``bytes``, ``str`` or numpy arrays, None for null."""
        if self.type in (pa.string(), pa.large_string()):
            texts: NDArray[Any] = self.arrow().to_numpy(zero_copy_only=False)
            return texts
        out = np.empty(len(self.length), object)
        out[:] = self._lists() if _is_list(self.type) else self._bytes()
        return out

    def _bytes(self) -> list[bytes | None]:
        base, read = self.memory.ctypes.data, ctypes.string_at
        lengths = self.length.tolist()
        return [read(base + at, n) if n >= 0 else None for at, n in zip(self.begin.tolist(), lengths, strict=True)]

    def _lists(self) -> NDArray[Any]:
        data, ends = self.packed()
        numbers = data.view(self.type.value_type.to_pandas_dtype())
        edges = (ends // numbers.itemsize).tolist()
        out = np.empty(len(self.length), object)  # filled one by one: lists of one length would become a matrix
        for i, n in enumerate(self.length.tolist()):
            out[i] = numbers[edges[i] : edges[i + 1]] if n >= 0 else None
        return out


def gathers(array: pa.Array) -> bool:
    """Whether :class:`Varying` can read an array: texts, bytes, and lists of numbers without nulls in them."""
    kind = array.type
    if _is_list(kind):
        inner = kind.value_type
        return bool((pa.types.is_integer(inner) or pa.types.is_floating(inner)) and not array.values.null_count)
    return _is_text_or_bytes(kind)


def item_bytes(kind: pa.DataType) -> int:
    """Bytes of what a list of numbers holds; 1 for texts and bytes."""
    return kind.value_type.bit_width // 8 if _is_list(kind) else 1


def _is_text_or_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_large(kind: pa.DataType) -> bool:
    return kind in (pa.large_string(), pa.large_binary()) or bool(pa.types.is_large_list(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The same without views."""
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def _values(array: pa.Array) -> NDArray[Any]:
    while pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    values: NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return values


def _stretch(parts: Sequence[tuple[int, int]]) -> tuple[Bytes, int]:
    """One array over the stretch in which buffers (address, bytes) lie, and its address.

    Only bytes inside the buffers are ever touched.
    """
    if not parts:
        return np.empty(0, np.uint8), 0
    base = min(address for address, _ in parts)
    end = max(address + size for address, size in parts)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (end - base)).from_address(base)), base


def _refuse(bad: int, positions: Numbers) -> None:
    """Refuse a value that does not lie in its block; -1 is none."""
    if bad >= 0:
        raise FeedError(f"row {positions[bad]}: its value does not lie in its shard; the shard is damaged, build again")


@njit()
def _copy_rows(memory: Bytes, offsets: Numbers, starts: Numbers, positions: Numbers, width: int, out: Bytes) -> None:
    for i in range(positions.shape[0]):
        block = np.searchsorted(starts, positions[i], side="right") - 1
        copy_bytes(out, i * width, memory, offsets[block] + (positions[i] - starts[block]) * width, width)


@njit(inline=True)
def _number(memory: Bytes, at: int, size: int) -> int:
    """Integer of 4 or 8 bytes, wherever it lies."""
    value = 0
    for j in range(size):
        value |= int(memory[at + j]) << (8 * j)
    return value


@njit()
def _locate(
    memory: Bytes,
    blocks: NDArray[np.int64],
    starts: Numbers,
    positions: Numbers,
    offset_bytes: int,
    width: int,
    begin: Numbers,
    length: Numbers,
) -> int:
    """Fill in where values lie; returns -1, or the first value that is not in its block."""
    for i in range(positions.shape[0]):
        block = np.searchsorted(starts, positions[i], side="right") - 1
        row = positions[i] - starts[block] + blocks[block, 2]
        if blocks[block, 0] >= 0 and not (memory[blocks[block, 0] + (row >> 3)] >> (row & 7)) & 1:
            length[i] = -1
            continue
        at = blocks[block, 1] + row * offset_bytes
        first = _number(memory, at, offset_bytes)
        last = _number(memory, at + offset_bytes, offset_bytes)
        if first < 0 or last < first or last > blocks[block, 4] // width:
            return i
        begin[i] = blocks[block, 3] + first * width
        length[i] = (last - first) * width
    return -1


@njit()
def _locate_placed(
    memory: Bytes, blocks: NDArray[np.int64], starts: Numbers, positions: Numbers, begin: Numbers, length: Numbers
) -> int:
    """Fill in where values lie by the sidecars; returns -1, or the first value that is not in its file."""
    for i in range(positions.shape[0]):
        block = np.searchsorted(starts, positions[i], side="right") - 1
        row = positions[i] - starts[block]
        size = _number(memory, blocks[block, 1] + 4 * row, 4)
        if size == 0xFFFFFFFF:
            length[i] = -1
            continue
        at = _number(memory, blocks[block, 0] + 8 * row, 8)
        if at < 0 or at > blocks[block, 3] - size:
            return i
        begin[i], length[i] = blocks[block, 2] + at, size
    return -1


@njit()
def _copy_values(memory: Bytes, begin: Numbers, length: Numbers, out: Bytes) -> None:
    to = 0
    for i in range(begin.shape[0]):
        if length[i] > 0:
            copy_bytes(out, to, memory, begin[i], length[i])
            to += length[i]
