"""Rows of fixed width from many mapped blocks into one array, in one compiled loop."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation._jit import njit


class FixedWidth:
    """One column of numbers, or of fixed-size lists of numbers, over all record batches of a build.

    A loader asks for few rows of many blocks, so the work per block and batch must not be Python's: the addresses of
    the blocks are looked up once, and a batch is one loop that copies rows.

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
        self, arrays: Sequence[pa.Array], starts: NDArray[np.int64], dtype: np.dtype[np.generic], shape: tuple[int, ...]
    ) -> None:
        self._arrays = [_values(array) for array in arrays]
        self._starts = starts
        self._dtype, self._shape = dtype, shape
        self._row_bytes = int(dtype.itemsize * np.prod(shape, dtype=np.int64))
        addresses = np.array([values.ctypes.data if values.size else 0 for values in self._arrays], np.uint64)
        used = addresses[addresses > 0]
        base = int(used.min()) if used.size else 0
        # One array over the whole stretch in which the blocks lie; only bytes inside the blocks are ever touched.
        end = max((int(a) + v.nbytes for a, v in zip(addresses, self._arrays, strict=True) if a), default=base)
        self._memory = np.ctypeslib.as_array((ctypes.c_uint8 * (end - base)).from_address(base)) if used.size else None
        self._offsets = (addresses - np.uint64(base)).astype(np.int64)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.generic]:
        """Rows at positions of the build, in their order."""
        out = np.empty((len(positions), *self._shape), self._dtype)
        if self._memory is not None and len(positions) and self._row_bytes:
            flat = out.reshape(len(positions), -1).view(np.uint8)
            _copy_rows(self._memory, self._offsets, self._starts, positions, flat)
        return out


def _values(array: pa.Array) -> NDArray[np.generic]:
    while pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    values: NDArray[np.generic] = array.to_numpy(zero_copy_only=True)
    return values


@njit()
def _copy_rows(
    memory: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    starts: NDArray[np.int64],
    positions: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> None:
    width = out.shape[1]
    for i in range(positions.shape[0]):
        block = np.searchsorted(starts, positions[i], side="right") - 1
        at = offsets[block] + (positions[i] - starts[block]) * width
        for j in range(width):
            out[i, j] = memory[at + j]
