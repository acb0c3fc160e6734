"""How a column of Arrow becomes an array for a trainer.

The form is the same for every batch of a training, since it follows from the schema and from whether a column holds
any null at all:

=================================================  ===========================================================
column                                             array
=================================================  ===========================================================
integers, floats, without nulls                    same dtype, (k,)
boolean, timestamp, date, duration, without nulls  bool, datetime64, timedelta64 (time zones: UTC), (k,)
fixed-size list of integers or floats, no nulls    same dtype, (k, size), nested lists (k, size, size, ...)
string, binary                                     object: str or bytes, None for null
list                                               object: one numpy array per row, None for null
timestamp, date, duration, with nulls              object: numpy scalars, as exact as the column, None for null
anything with a null, and all other types          object: Python values, None for null
=================================================  ===========================================================

Numbers with nulls become objects rather than masked arrays or NaN, because code that is unaware of a mask reads what
is under it without a word; fill such a column in the recipe. With ``as_="arrow"`` whatever would be objects is one
Arrow array a column instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.feed.plan import FeedError
from curation.tables import take

Array = NDArray[Any]
As = Literal["numpy", "arrow", "values"]
"""``values`` is for adapters: like ``arrow``, but values of varying length are not copied yet (`gather.Values`)."""


@dataclass(frozen=True)
class Column:
    """How one column becomes an array."""

    name: str
    type: pa.DataType
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    kind: Literal["view", "numpy", "times", "python"]

    @classmethod
    def of(cls, field: pa.Field, has_null: bool) -> Column:
        """Form of a column that holds a null somewhere, or none at all."""
        shape: tuple[int, ...] = ()
        kind = field.type
        while pa.types.is_fixed_size_list(kind):
            shape, kind = (*shape, kind.list_size), kind.value_type
        if not has_null and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return cls(field.name, field.type, np.dtype(kind.to_pandas_dtype()), shape, "view")
        dtype = _numpy_dtype(field.type)
        if dtype is None:
            return cls(field.name, field.type, np.dtype(object), (), "python")
        if dtype.kind != "O" and not has_null:
            return cls(field.name, field.type, dtype, (), "numpy")
        if dtype.kind in "mM":
            return cls(field.name, field.type, np.dtype(object), (), "times")
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
        lists = (pa.types.is_list, pa.types.is_large_list)
        as_numpy = any(test(field.type) for test in (*texts, *lists))
        return cls(field.name, field.type, np.dtype(object), (), "numpy" if as_numpy else "python")

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, of columns that numpy holds as they are."""
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))

    def output(self, n: int, as_: As) -> Output:
        """Somewhere to put ``n`` rows."""
        if as_ != "numpy" and self.dtype == object:
            return _ArrowOutput(self)
        return _NumpyOutput(self, np.empty((n, *self.shape), dtype=self.dtype))

    def values(self, taken: pa.ChunkedArray) -> Any:
        """Rows as what fits into an array of ``dtype``.

        Raises
        ------
        FeedError
            If Python has nothing to hold a value.
        """
        if self.kind == "numpy":
            return taken.to_numpy(zero_copy_only=False)
        if self.kind == "times":  # Python's own hold no nanoseconds, and only the years 1 to 9999
            return [None if np.isnat(value) else value for value in taken.to_numpy()]
        try:
            return taken.to_pylist()
        except (ValueError, OverflowError) as error:
            raise FeedError(
                f"column {self.name!r} of type {taken.type} holds a value that Python cannot: {error}; leave the "
                "column out, or make it text or a number in the recipe"
            ) from error


class Output(ABC):
    """Rows of a batch as they are collected, block by block."""

    @abstractmethod
    def put(self, array: pa.Array, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Write some rows of a block to their places in the batch."""

    @abstractmethod
    def done(self) -> Any:
        """All rows, in the order of the batch."""


class _NumpyOutput(Output):
    def __init__(self, column: Column, out: Array) -> None:
        self._column, self._out = column, out

    def put(self, array: pa.Array, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        column = self._column
        if column.kind == "view":
            while pa.types.is_fixed_size_list(array.type):
                array = array.flatten()
            self._out[targets] = array.to_numpy().reshape(-1, *column.shape)[rows]
            return
        values = column.values(_taken(array, rows))
        if isinstance(values, np.ndarray):
            self._out[targets] = values
            return
        for target, value in zip(targets.tolist(), values, strict=True):
            self._out[target] = value

    def done(self) -> Array:
        return self._out


class _ArrowOutput(Output):
    def __init__(self, column: Column) -> None:
        self._column = column
        self._parts: list[pa.ChunkedArray] = []
        self._targets: list[NDArray[np.int64]] = []

    def put(self, array: pa.Array, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        self._parts.append(_taken(array, rows))
        self._targets.append(targets)

    def done(self) -> pa.Array:
        chunks = [chunk for part in self._parts for chunk in part.chunks]
        whole = pa.chunked_array(chunks, self._column.type).unify_dictionaries()
        if not self._targets:
            return whole.combine_chunks()
        joined = pa.concat_arrays(whole.chunks)
        back = np.argsort(np.concatenate(self._targets), kind="stable")
        found = _taken(joined, back).combine_chunks()
        return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found


def _taken(array: pa.Array, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    return take(pa.table([array], names=[""]), rows).column(0)


def has_null(array: pa.Array) -> bool:
    """Whether an array holds a null, also inside lists of a fixed size."""
    if array.null_count:
        return True
    return pa.types.is_fixed_size_list(array.type) and has_null(array.flatten())


def _numpy_dtype(kind: pa.DataType) -> np.dtype[Any] | None:
    """Dtype that Arrow gives a column without nulls, or None if it knows none, as for lists of views."""
    try:
        dtype: np.dtype[Any] = pa.array([], kind).to_numpy(zero_copy_only=False).dtype
    except pa.ArrowNotImplementedError:
        return None
    return dtype
