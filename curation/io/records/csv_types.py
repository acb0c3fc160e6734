"""Recognises the type of a column of texts: only one that all of them are."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

TRUE = ("true", "True", "TRUE")
FALSE = ("false", "False", "FALSE")

_INTEGER = r"^-?(0|[1-9][0-9]*)$"
_FLOAT = r"^([+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|NaN|NAN|inf|Inf|INF|[iI]nfinity))$"
_LONG = r"^[+-]?[0-9]{16,}$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_ZONE = r"(Z|[+-][0-9]{2}:[0-9]{2})"


def recognised(texts: pa.ChunkedArray, known: pa.DataType | None = None) -> pa.DataType:
    """Narrowest type of all texts.

    Parameters
    ----------
    texts
        Texts; NULLs say nothing.
    known
        Type of the column so far: int64 becomes float64 if there is a float among the texts, or stays; NULL becomes
        whatever the texts are.
    """
    texts = texts.drop_null()
    if known is not None and pa.types.is_int64(known):
        floats = pc.and_(pc.match_substring_regex(texts, _FLOAT), pc.invert(pc.match_substring_regex(texts, _INTEGER)))
        return pa.float64() if pc.any(floats).as_py() else known
    if len(texts) == 0:
        return pa.null()
    for pattern, kind in _KINDS:
        if pc.all(pc.match_substring_regex(texts, pattern)).as_py() and _holds(texts, kind):
            return kind
    return pa.string()


def _holds(texts: pa.ChunkedArray, kind: pa.DataType) -> bool:
    if pa.types.is_float64(kind):
        return all(map(exact, texts.filter(pc.match_substring_regex(texts, _LONG)).to_pylist()))
    try:
        texts.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def exact(text: str) -> bool:
    """Whether a number's text, if it is an integer, is the same number as a float."""
    digits = text.lstrip("+-")
    if not (digits.isascii() and digits.isdigit()):
        return True
    return len(digits) <= 308 and int(float(text)) == int(text)


_KINDS = (
    (_INTEGER, pa.int64()),
    (_FLOAT, pa.float64()),
    (f"^({'|'.join(TRUE + FALSE)})$", pa.bool_()),
    (_DATE, pa.date32()),
    (f"{_TIME}$", pa.timestamp("us")),
    (f"{_TIME}{_ZONE}$", pa.timestamp("us", "UTC")),
)
