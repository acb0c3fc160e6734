"""Writes rows as samples of a WebDataset: tar members that share a key are a row."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from curation.io.plain import has_bytes, is_bytes, is_text, json_text, list_shape, number_arrays, python_values

REST = "json"
"""Member that holds all columns that have none of their own, as one object."""
OTHER_REST = "row.json"
"""Its name where a column is called ``json``."""

Kind = Literal["bytes", "text", "array", "integer"]


@dataclass(frozen=True)
class Members:
    """Which columns are members of their own, and the name of the member for all others."""

    own: Mapping[str, Kind]
    rest: str

    @classmethod
    def of(cls, schema: pa.Schema) -> Members:
        """Map the columns of a schema by type and name.

        Raises
        ------
        ValueError
            If a column cannot be written; begins with ``column ``.
        """
        own = {field.name: kind for field in schema if (kind := _kind(field)) is not None}
        for field in schema:
            if field.name not in own and has_bytes(field.type):
                raise ValueError(f"column {field.name!r} of type {field.type} has bytes inside other values")
            if not field.name or "/" in field.name or field.name[0] == ".":
                raise ValueError(f"column {field.name!r} cannot be the name of a member")
        taken: dict[str, str] = {}
        for name, kind in own.items():
            member = _member(name, kind).lower()  # as those who read samples see it
            if member in taken:
                raise ValueError(f"column {name!r} would be the same member as column {taken[member]!r}")
            taken[member] = name
        for name in (name for name, kind in own.items() if kind == "bytes"):  # a picture's suffix may come behind it
            for other in (other for member, other in taken.items() if member.startswith(f"{name.lower()}.")):
                raise ValueError(f"column {other!r} may be the same member as a picture of column {name!r}")
        return cls(own, OTHER_REST if REST in taken else REST)


def write_samples(table: pa.Table, path: Path, members: Members, *, first: int) -> None:
    """Write a tar file with the rows of a table; equal rows give equal bytes.

    Parameters
    ----------
    table
        Rows.
    path
        File to write.
    members
        What its columns become.
    first
        Number of the first row; keys of samples are numbers, since a row may come more than once.
    """
    columns = {name: _read(table, name, _READERS[kind]) for name, kind in members.own.items()}
    rest = {name: _read(table, name, python_values) for name in table.column_names if name not in members.own}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for row in range(table.num_rows):
            key = f"{first + row:012d}"
            there = {name: kind for name, kind in members.own.items() if columns[name][row] is not None}
            for name, kind in there.items():
                value = columns[name][row]
                _add(tar, f"{key}.{_name(name, kind, value)}", _ENCODERS[kind](value))
            if rest or not there:  # a sample without a member would be a row that is lost
                one = {name: values[row] for name, values in rest.items()}
                _add(tar, f"{key}.{members.rest}", json_text(one).encode())


def _read(table: pa.Table, name: str, reader: Callable[[pa.ChunkedArray], list[Any]]) -> list[Any]:
    try:
        return reader(table.column(name))
    except ValueError as error:
        raise ValueError(f"column {name!r} holds {error}") from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time, no owner: the same bytes every time
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _kind(field: pa.Field) -> Kind | None:
    """What a column is in a tar file; None: a part of the JSON member."""
    kind, last = field.type, _last(field.name)
    if is_bytes(kind):
        return "bytes"
    if is_text(kind):
        return "text"
    if pa.types.is_integer(kind) and last == "cls":
        return "integer"
    return None if list_shape(kind) is None else "array"


def _last(column: str) -> str:
    return column.rpartition(".")[2].lower()


def _npy(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return file.getvalue()


_READERS: Mapping[Kind, Callable[[pa.ChunkedArray], list[Any]]] = {
    "bytes": pa.ChunkedArray.to_pylist,
    "text": pa.ChunkedArray.to_pylist,
    "integer": pa.ChunkedArray.to_pylist,
    "array": number_arrays,
}

_ENCODERS: Mapping[Kind, Callable[[Any], bytes]] = {
    "bytes": bytes,
    "text": lambda value: str(value).encode(),
    "integer": lambda value: str(value).encode(),
    "array": _npy,
}


def _member(column: str, kind: Kind) -> str:
    """Name of a column's member, as far as it does not depend on the value.

    >>> _member("caption", "text"), _member("txt", "text"), _member("latent", "array"), _member("image", "bytes")
    ('caption.txt', 'txt', 'latent.npy', 'image')
    """
    suffix = {"text": "txt", "array": "npy", "integer": "cls", "bytes": ""}[kind]
    own = {suffix, "json"} if kind == "text" else {suffix}
    return column if not suffix or _last(column) in own else f"{column}.{suffix}"


def _name(column: str, kind: Kind, value: Any) -> str:
    if kind != "bytes":
        return _member(column, kind)
    suffix, last = image_suffix(value), _last(column)
    return column if not suffix or _ALIASES.get(last, last) == suffix else f"{column}.{suffix}"


_ALIASES = {"jpeg": "jpg", "tiff": "tif"}

_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
)


def image_suffix(data: bytes) -> str:
    r"""Suffix of an encoded picture by its first bytes; nothing if it is none.

    >>> image_suffix(b"\xff\xd8\xff\xe0"), image_suffix(b"RIFF....WEBPVP8 "), image_suffix(b"text")
    ('jpg', 'webp', '')
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "")
