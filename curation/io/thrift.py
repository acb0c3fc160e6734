"""Reads Thrift's compact protocol, as Parquet's footers and page headers need it; nothing it is told is believed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation.io.formats import UnreadableError

Struct = dict[int, Any]
"""Fields by number: int, bool, bytes, list or Struct; None for what no reader here needs."""

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)

DEPTH = 16
"""Structs and lists inside one another that are read; Parquet needs six."""


class Compact:
    """A place in bytes, from which a struct is read.

    Every step takes a byte at least and none goes past the end, so that any bytes give a struct or an error.

    Parameters
    ----------
    data : (n_bytes,)
        The file.
    at, stop
        Where the struct begins, and where it must have ended.
    where
        Names the place in errors.
    """

    def __init__(self, data: NDArray[np.uint8], at: int, stop: int, where: str) -> None:
        self.at = at
        self.where = where
        self._data = data
        self._stop = stop

    def struct(self, depth: int = 0) -> Struct:
        """Read a struct; ``at`` is behind it then.

        Raises
        ------
        UnreadableError
            If the bytes are no struct.
        """
        fields: Struct = {}
        number = 0
        while True:
            head = self._byte()
            kind = head & 15
            if kind == _STOP:
                return fields
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth + 1)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > DEPTH:
            raise UnreadableError(f"{self.where}: nested too deep; the file is damaged")
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _MAP:
            return self._map(depth)
        if kind in (_TRUE, _FALSE, _BYTE):  # in lists, truth values take a byte
            return self._byte()
        if kind == _DOUBLE:
            self._take(8)
            return None
        raise UnreadableError(f"{self.where}: unknown type {kind}; the file is damaged")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        self._refuse_beyond(count)  # an item takes a byte at least
        return [self._value(head & 15, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> None:
        count = self._varint()
        self._refuse_beyond(count)
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _refuse_beyond(self, count: int) -> None:
        if count > self._stop - self.at:
            raise UnreadableError(f"{self.where}: cut short; the file is damaged")

    def _take(self, count: int) -> bytes:
        self._refuse_beyond(count)
        self.at += count
        return self._data[self.at - count : self.at].tobytes()

    def _byte(self) -> int:
        self._refuse_beyond(1)
        self.at += 1
        return int(self._data[self.at - 1])

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise UnreadableError(f"{self.where}: a number has no end; the file is damaged")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
