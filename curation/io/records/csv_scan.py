"""Finds the records of delimited text: aware of quotes, but a stray quote costs its own line only."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curation._jit import njit
from curation.io.records.splitter import Cut

OPEN_BYTES = 1 << 20
OPEN_LINES = 10_000
"""A record with an open quote is given up beyond these bytes or lines."""

FIELDS, QUOTE, OPEN, NUL, RETURN, LOOSE, BIG = range(1, 8)
REASONS = {
    FIELDS: "wrong number of fields",
    QUOTE: "a quote that is neither doubled nor the end of its field",
    OPEN: "a quote that is not closed",
    NUL: "a NUL byte",
    RETURN: "a carriage return outside of quotes",
}
INTEGER, FLOAT = 1, 2
"""Kinds of columns whose texts are looked at: ``LOOSE`` if Arrow would drop part of one, ``BIG`` if it may round."""

_START, _BARE, _QUOTED, _CLOSED, _LOST = range(5)
_LOOSE_TEXT = re.compile(r"^\s|\s$|^[+-]?0[0-9xX]")


class Scanner:
    """Scan for one delimiter; ``columns`` tells how many fields there must be and which hold numbers."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = ord(delimiter)
        self._kinds = np.zeros(0, np.uint8)

    def columns(self, kinds: NDArray[np.uint8]) -> None:
        """Set ``INTEGER``, ``FLOAT`` or 0 for every field of a record."""
        self._kinds = kinds

    def __call__(self, data: NDArray[np.uint8], last: bool, most: int = 1 << 62) -> Cut:
        """Records in these bytes, at most ``most`` (see :data:`curation.io.records.splitter.Scan`)."""
        return Cut(*_scan(data, last, self._delimiter, self._kinds, most, OPEN_BYTES, OPEN_LINES))


def loose(text: str, integer: bool, number: bool) -> str:
    """Say what Arrow would drop of a number's text."""
    if (integer or number) and _LOOSE_TEXT.search(text) and not text.isspace():
        return "has spaces or leading zeros, which a number loses"
    return ""


@njit()
def _scan(  # noqa: C901 - one loop over bytes, whose states would only hide in helpers
    data: NDArray[np.uint8],
    last: bool,
    delimiter: int,
    kinds: NDArray[np.uint8],
    most: int,
    open_bytes: int,
    open_lines: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], int]:
    size = len(data)
    room = 1024
    starts, stops, marks = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.uint8)
    found, start = 0, 0
    while start < size and found < most:
        if data[start] == 10:
            start += 1
            continue
        if data[start] == 13 and (start + 1 == size or data[start + 1] == 10):
            if start + 1 == size and not last:
                break
            start = min(start + 2, size)
            continue
        at, begun, fields, lines, state = start, start, 0, 0, _START
        line_end, mark, whole = -1, 0, False
        while at < size:
            byte = data[at]
            if state == _QUOTED:
                if byte == 34:
                    if at + 1 < size and data[at + 1] == 34:
                        at += 1
                    else:
                        state = _CLOSED
                elif byte == 10:
                    lines += 1
                    if line_end < 0:
                        line_end = at + 1
                    if at + 1 - start > open_bytes or lines > open_lines:
                        mark = OPEN
                        break
                elif byte == 0:
                    mark = NUL
                at += 1
                continue
            ends = byte == 10 or (byte == 13 and (at + 1 == size or data[at + 1] == 10))
            if state != _LOST and (ends or byte == delimiter):
                if mark == 0 and fields < len(kinds) and kinds[fields] != 0:
                    mark = _judge(data, begun, at, kinds[fields])
                fields += 1
                state, begun = _START, at + 1
            if ends:
                if byte == 13 and at + 1 == size and not last:
                    break
                at += 1 if byte == 10 else 2
                whole = True
                break
            if byte == delimiter:
                at += 1
                continue
            if byte == 34 and state == _START:
                state = _QUOTED
            elif state == _CLOSED:
                mark, state = QUOTE, _LOST
                if line_end >= 0:
                    break
            elif state == _START:
                state = _BARE
            if byte == 0 and mark != QUOTE:
                mark = NUL
            elif byte == 13 and mark == 0:
                mark = RETURN
            at += 1
        if not whole and mark in (QUOTE, OPEN) and line_end >= 0:
            stop = line_end  # a stray quote: what follows its first line are records of their own
        elif not whole and not last:
            break
        else:
            stop = min(at, size)
            if not whole:
                if state == _QUOTED:
                    mark = OPEN
                    if line_end >= 0:
                        stop = line_end
                elif state != _LOST:
                    if mark == 0 and fields < len(kinds) and kinds[fields] != 0:
                        mark = _judge(data, begun, size, kinds[fields])
                    fields += 1
        if len(kinds) > 0 and fields != len(kinds) and (mark == 0 or mark > RETURN):
            mark = FIELDS
        if found == room:
            room *= 2
            starts, stops, marks = _grown(starts, room), _grown(stops, room), _grown(marks, room)
        starts[found], stops[found], marks[found] = start, stop, mark
        found += 1
        start = stop
    return starts[:found], stops[:found], marks[:found], start


@njit()
def _grown(values: Any, room: int) -> Any:
    more = np.empty(room, values.dtype)
    more[: len(values)] = values
    return more


@njit()
def _judge(data: NDArray[np.uint8], start: int, stop: int, kind: int) -> int:
    """``LOOSE`` for spaces around a number and for leading zeros, ``BIG`` for long integers among floats."""
    if start < stop and data[start] == 34:
        start, stop = start + 1, stop - 1
    if start >= stop:
        return 0
    if data[start] <= 32 or data[stop - 1] <= 32:
        return LOOSE
    if data[start] == 45 or data[start] == 43:
        start += 1
    if start + 1 < stop and data[start] == 48 and (48 <= data[start + 1] <= 57 or data[start + 1] | 32 == 120):
        return LOOSE
    if kind == FLOAT and stop - start > 15:
        for at in range(start, stop):
            if data[at] < 48 or data[at] > 57:
                return 0
        return BIG
    return 0


@njit()
def count_fields(record: NDArray[np.uint8], delimiter: int) -> int:
    """Fields of one record whose quotes are sound."""
    fields, quoted, begins = 1, False, True
    for byte in record:
        if byte == 34 and (quoted or begins):
            quoted = not quoted
            begins = quoted
        elif byte == delimiter and not quoted:
            fields, begins = fields + 1, True
        else:
            begins = False
    return fields
