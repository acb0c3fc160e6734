"""Which Arrow type holds a JSON value, and what is wrong with a line that no type holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from curation.io.records.base import Options, shown

EXACT = 2.0**53
"""Integers below it are floats without loss."""
INT64 = range(-(2**63), 2**63)


class Fault(Exception):  # noqa: N818 - a finding about one record, never seen outside of these modules
    """What is wrong with one record."""


class Twice(dict[str, Any]):
    """An object in which ``key`` stands more than once."""

    key = ""


class Token:
    """``NaN`` or ``Infinity``: no JSON, but widely written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Number(float):
    """A number with the text that it was written as."""

    text: str


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    twice = Twice(found)
    twice.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return twice


def _float(text: str) -> Number:
    number = Number(text)
    number.text = text
    if number in (float("inf"), float("-inf")):
        raise Fault(f"{shown(text)} is beyond float64")
    return number


def _int(text: str) -> int:
    if len(text) > 4000:
        raise Fault(f"an integer of {len(text)} digits")
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=Token, parse_float=_float, parse_int=_int)


def decode_line(line: bytes) -> dict[str, Any]:
    """Read one line as a JSON object; raises ``Fault``."""
    try:
        text = line.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise Fault(f"not UTF-8: byte {error.start} is 0x{line[error.start]:02x}") from None
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise Fault(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Fault("nested too deeply") from None
    if end < len(text):
        raise Fault(f"not JSON: more than one value in the line, the next at character {end}")
    if not isinstance(value, dict):
        raise Fault(f"expected a JSON object, got {shown(value)}")
    if "\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        raise Fault("not JSON: half of a surrogate pair") from None


def encode_line(value: Mapping[str, Any]) -> bytes:
    """Write an object that :func:`decode_line` has read."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n"


class Fields:
    """Columns that grow with the values seen.

    Parameters
    ----------
    schema
        Columns to begin with.
    options
        ``types`` are never widened; with ``partial`` no column is added; structs grow in the columns there are.
    """

    def __init__(self, schema: pa.Schema, options: Options) -> None:
        self._options = options
        self._kinds: dict[str, pa.DataType] = {each.name: each.type for each in schema}
        if not options.partial:
            self._kinds |= {name: kind for name, kind in options.types.items() if name not in self._kinds}

    def schema(self) -> pa.Schema:
        """Columns as they are now."""
        return pa.schema(list(self._kinds.items()))

    def check(self, value: Mapping[str, Any]) -> None:
        """Raise ``Fault`` if a value fits no column."""
        self._grown(value)

    def add(self, value: Mapping[str, Any]) -> None:
        """Widen the columns for an object; raises ``Fault`` and changes nothing if it does not fit."""
        self._kinds |= self._grown(value)

    def fit(self, value: Mapping[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
        """Say why columns must be widened for an object, or give it with texts where text is declared."""
        for name, kind in self._grown(value).items():
            if name not in self._kinds:
                return f"column '{name}' is new", None
            if not kind.equals(self._kinds[name]):
                return f"column '{name}': {shown(value.get(name))} needs {kind}, not {self._kinds[name]}", None
        texts = {
            name: _text(each)
            for name, each in value.items()
            if each is not None and not isinstance(each, str) and self._declared_text(name)
        }
        return None, ({**value, **texts} if texts else None)

    def _declared_text(self, name: str) -> bool:
        kind = self._options.types.get(name)
        return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))

    def _grown(self, value: Mapping[str, Any]) -> dict[str, pa.DataType]:
        if isinstance(value, Twice) and (not self._options.partial or value.key in self._kinds):
            raise Fault(f"key {shown(value.key)} stands twice")
        found = {}
        for name, each in value.items():
            if name not in self._kinds and self._options.partial:
                continue
            known = self._kinds.get(name, pa.null())
            declared = name in self._options.types
            if not (declared and self._declared_text(name)):
                found[name] = _wider(known, each, _Place(name, declared))
        return found


class _Place:
    """Where a value stands, for reasons; ``fixed`` types are not widened."""

    def __init__(self, column: str, fixed: bool, path: str = "") -> None:
        self.column, self.fixed, self.path = column, fixed, path

    def inside(self, step: str) -> _Place:
        return _Place(self.column, self.fixed, self.path + step)

    def fault(self, value: Any, what: str) -> Fault:
        hint = "" if self.fixed else f"; declare it: types: {{{self.column}: string}}"
        return Fault(f"column '{self.column}{self.path}': {shown(value)} {what}{hint}")


def _wider(known: pa.DataType, value: Any, place: _Place) -> pa.DataType:
    """Narrowest type that holds what ``known`` holds and the value; raises ``Fault``."""
    if value is None:
        return known
    if isinstance(value, Token):
        raise Fault(f"column '{place.column}{place.path}': {value.text} is no JSON; write null")
    for fits, kind, widen in _RULES:
        if isinstance(value, kind):
            return (
                widen(known, value, place) if fits(known) or pa.types.is_null(known) else _refuse(known, value, place)
            )
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def _refuse(known: pa.DataType, value: Any, place: _Place) -> pa.DataType:
    if place.fixed and not _judged(known):
        return known  # Arrow has rules of its own for dates, decimals and the like
    raise place.fault(value, f"is no {_word(known)}")


def _judged(kind: pa.DataType) -> bool:
    own = (pa.types.is_struct, pa.types.is_list, pa.types.is_boolean, pa.types.is_int64, pa.types.is_float64)
    return any(rule(kind) for rule in own) or pa.types.is_string(kind)


def _word(kind: pa.DataType) -> str:
    return "object" if pa.types.is_struct(kind) else "list" if pa.types.is_list(kind) else str(kind)


def _wider_int(known: pa.DataType, value: int, place: _Place) -> pa.DataType:
    if pa.types.is_floating(known):
        if not place.fixed and (abs(value) >= 2**1023 or int(float(value)) != value):
            raise place.fault(value, "is not exact as float64")
        if abs(value) >= 2**1023:
            raise place.fault(value, "is beyond float64")
        return known
    if value not in INT64:
        raise place.fault(value, "is beyond int64")
    return pa.int64()


def _wider_float(known: pa.DataType, value: Number, place: _Place) -> pa.DataType:
    if place.fixed and pa.types.is_int64(known):
        raise place.fault(value, "is no int64")
    return pa.float64() if not pa.types.is_floating(known) else known


def _wider_list(known: pa.DataType, value: list[Any], place: _Place) -> pa.DataType:
    item = known.value_type if pa.types.is_list(known) else pa.null()
    inside = place.inside("[]")
    for each in value:
        item = _wider(item, each, inside)
    return pa.list_(item)


def _wider_struct(known: pa.DataType, value: dict[str, Any], place: _Place) -> pa.DataType:
    kinds = {each.name: each.type for each in known} if pa.types.is_struct(known) else {}
    if isinstance(value, Twice):
        raise Fault(f"column '{place.column}{place.path}': key {shown(value.key)} stands twice")
    for name, each in value.items():
        if place.fixed and name not in kinds:
            raise place.fault(value, f"has a field {shown(name)} that the declared type lacks")
        kinds[name] = _wider(kinds.get(name, pa.null()), each, place.inside(f".{name}"))
    return pa.struct(list(kinds.items()))


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_int64(kind) or pa.types.is_floating(kind))


_RULES: tuple[tuple[Callable[[pa.DataType], bool], type, Callable[[pa.DataType, Any, _Place], pa.DataType]], ...] = (
    (pa.types.is_string, str, lambda known, value, place: pa.string()),
    (pa.types.is_boolean, bool, lambda known, value, place: pa.bool_()),
    (_numeric, Number, _wider_float),
    (_numeric, int, _wider_int),
    (pa.types.is_list, list, _wider_list),
    (pa.types.is_struct, dict, _wider_struct),
)


def _text(value: Any) -> str:
    """Text of a value in a column that is declared as text: numbers as they were written."""
    return value.text if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)
