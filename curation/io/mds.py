"""Writes shards in the format MDS, version 2, of MosaicML Streaming: a sample is one stretch of bytes.

A shard is the number of samples and their offsets (uint32, one more than there are samples), the JSON of its
columns, and the samples. A sample is the sizes of its values that have no fixed size (uint32), then all values, in the
order of the names of the columns. ``index.json`` names the shards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.io.plain import (
    has_bytes,
    is_bytes,
    is_number,
    is_text,
    json_text,
    list_shape,
    number_arrays,
    python_values,
)

INDEX = "index.json"

MAX_BYTES = (1 << 32) - 1
"""Offsets are of 32 bits, so that no shard is larger."""


@dataclass(frozen=True)
class Encoding:
    """How a column is stored: its name in the format, and the bytes of a value where all have as many."""

    name: str
    size: int | None = None


def encodings(schema: pa.Schema, *, gaps: frozenset[str]) -> dict[str, Encoding]:
    """Encoding of each column, sorted by name.

    Parameters
    ----------
    schema
        Columns.
    gaps
        Columns with a NULL, also inside of lists, or with an empty list: the format knows neither in numbers, so that
        they become JSON.

    Raises
    ------
    ValueError
        If a column cannot be written; begins with ``column ``.
    """
    return {name: _encoding(schema.field(name), gap=name in gaps) for name in sorted(schema.names)}


def _encoding(field: pa.Field, *, gap: bool) -> Encoding:
    kind = field.type
    if is_bytes(kind):
        if gap:
            raise ValueError(f"column {field.name!r} of bytes holds a NULL, which MDS has no value for")
        return Encoding("bytes")
    if has_bytes(kind):
        raise ValueError(f"column {field.name!r} of type {kind} has bytes inside other values")
    if gap:
        return Encoding("json")
    if is_text(kind):
        return Encoding("str")
    if pa.types.is_boolean(kind):
        return Encoding("uint8", 1)
    if is_number(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
        return Encoding(dtype.name, dtype.itemsize)
    return _list_encoding(kind)


def _list_encoding(kind: pa.DataType) -> Encoding:
    found = list_shape(kind)
    if found is None or 0 in found[1] or found[1][0] == -1 != found[1][-1]:
        return Encoding("json")
    dtype, shape = found
    if shape == (-1,):
        return Encoding(f"ndarray:{dtype.name}")
    sides = ",".join(map(str, shape))
    return Encoding(f"ndarray:{dtype.name}:{sides}", dtype.itemsize * int(np.prod(shape)))


def write_mds(table: pa.Table, path: Path, columns: Mapping[str, Encoding]) -> dict[str, Any]:
    """Write a shard, and return its entry for the index; equal rows give equal bytes.

    Parameters
    ----------
    table
        Rows, at least one.
    path
        File to write.
    columns
        From :func:`encodings`.

    Raises
    ------
    ValueError
        If the shard would be larger than ``MAX_BYTES``.
    """
    config = _config(columns)
    head = json.dumps(config, sort_keys=True).encode()
    encoded = {name: _read(table, name, each) for name, each in columns.items()}
    varying = [encoded[name] for name, each in columns.items() if each.size is None]
    samples = [
        np.array([len(values[row]) for values in varying], "<u4").tobytes()
        + b"".join(values[row] for values in encoded.values())
        for row in range(table.num_rows)
    ]
    offsets = np.cumsum([0, *map(len, samples)]) + 4 + 4 * (len(samples) + 1) + len(head)
    if offsets[-1] > MAX_BYTES:
        raise ValueError(f"{path.name}: {offsets[-1]:,} bytes, {MAX_BYTES:,} fit; export fewer rows a shard")
    with path.open("wb") as file:
        file.write(np.uint32(len(samples)).astype("<u4").tobytes() + offsets.astype("<u4").tobytes() + head)
        file.writelines(samples)
    raw = {"basename": path.name, "bytes": int(offsets[-1]), "hashes": {}}
    return config | {"samples": len(samples), "raw_data": raw, "zip_data": None}


def mds_index(shards: Sequence[Mapping[str, Any]]) -> str:
    """Content of ``index.json``."""
    return json.dumps({"shards": list(shards), "version": 2}, sort_keys=True)


def _config(columns: Mapping[str, Encoding]) -> dict[str, Any]:
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": None,
        "column_names": list(columns),
        "column_encodings": [each.name for each in columns.values()],
        "column_sizes": [each.size for each in columns.values()],
    }


def _read(table: pa.Table, name: str, encoding: Encoding) -> list[bytes]:
    try:
        return _encoded(table.column(name), encoding)
    except ValueError as error:
        raise ValueError(f"column {name!r} holds {error}") from error


def _encoded(column: pa.ChunkedArray, encoding: Encoding) -> list[bytes]:
    name = encoding.name
    if name in _SIMPLE:
        return [_SIMPLE[name](value) for value in column.to_pylist()]
    if name == "json":
        return [json_text(value).encode() for value in python_values(column)]
    if name.startswith("ndarray"):
        return [_array(each, encoding) for each in number_arrays(column) if each is not None]
    values: NDArray[Any] = column.to_numpy()
    data = values.astype(np.dtype(name).newbyteorder("<")).tobytes()
    width = np.dtype(name).itemsize
    return [data[at : at + width] for at in range(0, len(data), width)]


_SIMPLE: Mapping[str, Callable[[Any], bytes]] = {"bytes": bytes, "str": str.encode}


def _array(values: NDArray[Any], encoding: Encoding) -> bytes:
    """Values, and before them, where the column states no shape, the number of axes and the length."""
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    if encoding.size is not None:
        return data
    width = next(i for i in range(4) if len(values) < 1 << (8 << i))
    return bytes([1 << 2 | width]) + np.array([len(values)], f"<u{1 << width}").tobytes() + data
