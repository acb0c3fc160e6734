"""Dedup keeps one row of those that are equal, or of texts that are nearly so, and says which one it was."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from curation._jit import njit
from curation.hashing import row_hashes
from curation.methods.base import Params, Shape
from curation.methods.minhash import (
    Normalize,
    Unit,
    band_hashes,
    connected_components,
    is_text,
    link_bands,
    minhash_signatures,
    permutation_seeds,
    text_buffers,
    text_keys,
)
from curation.rng import stream_key
from curation.types import Ids, Positions

Words = NDArray[np.uint64]
Copies = NDArray[np.uint32]


class Near(BaseModel):
    """Options of ``near:`` in ``use: dedup``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    column: str = Field(description="column of text that is compared")
    unit: Unit = Field(
        default="word", description="what shingles are made of: word, or char for scripts without spaces"
    )
    ngram: int = Field(default=5, ge=1, le=1000, description="words or characters of a shingle")
    bands: int = Field(default=14, ge=1, le=1024, description="bands of a signature; more of them find more pairs")
    rows: int = Field(default=8, ge=1, le=1024, description="minima in a band; more of them find fewer pairs")

    @model_validator(mode="after")
    def _bounded(self) -> Near:
        if self.bands * self.rows > 4096:
            raise ValueError(f"bands x rows: expected <= 4096, got {self.bands * self.rows}; 14 x 8 is usual")
        return self


class Prefer(BaseModel):
    """Options of ``prefer:`` in ``use: dedup``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    column: str = Field(description="column of numbers, times or booleans that decides which row stays")
    order: Literal["largest", "smallest"] = Field(
        default="largest", description="which value stays; NULL and NaN come last, equal values go by row id"
    )


class Dedup(Params):
    """Options of ``use: dedup``."""

    shape: ClassVar[Shape] = "artifact"

    columns: list[str] | None = Field(
        default=None, min_length=1, description="columns in which rows must be equal; default: all but ours"
    )
    near: Near | None = Field(
        default=None,
        description="compare one text by MinHash instead, e.g. {column: text, ngram: 5, bands: 14, rows: 8}",
    )
    normalize: Normalize | None = Field(
        default=None,
        description="what is not told apart in text: none, whitespace or aggressive (also case, accents, punctuation); "
        "default: none, with near aggressive",
    )
    prefer: Prefer | None = Field(
        default=None, description="which row stays, e.g. {column: score, order: largest}; default: the smallest row id"
    )
    by: str | None = Field(default=None, description="column of groups; only rows of one group are compared")

    @model_validator(mode="after")
    def _one_way(self) -> Dedup:
        if self.columns is not None and self.near is not None:
            raise ValueError("columns, near: expected one of the two, got both; use two stages")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns: expected each name once, got {self.columns}; leave the second out")
        return self

    @property
    def normalization(self) -> Normalize:
        """What is not told apart in text, with the default of the way of comparing."""
        return self.normalize or ("none" if self.near is None else "aggressive")


# ---- keys


def row_keys(columns: pa.Table, *, normalize: Normalize = "none") -> Words:
    """Keys of rows by value: equal for rows whose columns hold equal values of equal types.

    NULL equals NULL, NaN equals NaN of the same width, and -0.0 equals 0.0 (in columns, lists and structs of floats;
    inside maps, unions and list views they differ). How values are chunked, sliced or encoded does not matter.

    Parameters
    ----------
    columns
        The columns that are compared, n rows of any types; their order does not matter, their names do.
    normalize
        What is not told apart in columns of text, see :func:`curation.methods.minhash.normalized`.

    Returns
    -------
    (n, 2)
        128 bits. Among 10^12 different rows, two share a key with probability 1e-15.

    Raises
    ------
    TypeError
        If a column has a type that cannot be hashed.

    Examples
    --------
    >>> keys = row_keys(pa.table({"x": [0.0, -0.0, 1.0]}))
    >>> (keys[0] == keys).all(axis=1).tolist()
    [True, True, False]
    """
    plain = columns  # put in one by one, since only so a table without columns keeps its rows
    for i, (name, column) in enumerate(zip(columns.column_names, columns.columns, strict=True)):
        text = normalize != "none" and is_text(column.type)
        plain = plain.set_column(i, name, _text_as_keys(column, normalize) if text else _positive(column))
    return row_hashes(plain)


def _text_as_keys(column: pa.ChunkedArray, normalize: Normalize) -> pa.ChunkedArray:
    keys = [text_keys(*text_buffers(chunk), normalize) for chunk in column.chunks]
    kind = pa.binary(16)
    plain = [pa.Array.from_buffers(kind, len(each), [None, pa.py_buffer(each.tobytes())]) for each in keys]
    known = [chunk.is_valid() for chunk in column.chunks]
    return pa.chunked_array(
        [pc.if_else(valid, each, pa.scalar(None, kind)) for valid, each in zip(known, plain, strict=True)], kind
    )


def _positive(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind, chunks = column.type, column.chunks
    if isinstance(kind, pa.BaseExtensionType):
        kind, chunks = kind.storage_type, [chunk.storage for chunk in chunks]
    if not _holds_floats(kind):
        return column
    return pa.chunked_array([_positive_zeros(chunk) for chunk in chunks], kind)


def _holds_floats(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _holds_floats(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_holds_floats(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _positive_zeros(array: pa.Array) -> pa.Array:
    """The same array with 0.0 for -0.0."""
    kind = array.type
    if not _holds_floats(kind):
        return array
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(array.indices, _positive_zeros(array.dictionary), ordered=kind.ordered)
    if array.offset:
        array = array.take(pa.array(np.arange(len(array))))  # buffers of its own, from 0
    if pa.types.is_struct(kind):
        fields = [_positive_zeros(array.field(i)) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    buffers = array.buffers()
    if _is_list(kind):
        own = buffers[: 1 if pa.types.is_fixed_size_list(kind) else 2]
        return pa.Array.from_buffers(kind, len(array), own, children=[_positive_zeros(array.values)])
    if buffers[1] is None:
        return array
    real = np.frombuffer(buffers[1], kind.to_pandas_dtype(), len(array))
    return pa.Array.from_buffers(kind, len(array), [buffers[0], pa.py_buffer(real + real.dtype.type(0))])


# ---- who stays


def rank_keys(values: NDArray[Any], known: NDArray[np.bool_], order: Literal["largest", "smallest"]) -> Words:
    """Numbers that rise from the value that is preferred to the one that is not.

    Parameters
    ----------
    values : (n,)
        Integers, floats or booleans; times as integers.
    known : (n,)
        False where there is no value; what ``values`` holds there does not matter.
    order
        Whether the largest or the smallest value comes first.

    Returns
    -------
    (n,)
        Rank; 2^64 - 1 where there is no value or it is NaN, at most 2^64 - 2 elsewhere (so that the two largest
        integers of 64 bits are not told apart).

    Raises
    ------
    TypeError
        If values are other than numbers.
    """
    kind = values.dtype.kind
    top = np.uint64(1 << 63)
    if kind == "f":
        known = known & ~np.isnan(values)
        bits = (values.astype(np.float64) + 0.0).view(np.uint64)
        rank = np.where(bits >= top, ~bits, bits | top)
    elif kind in "bu":
        rank = values.astype(np.uint64)
    elif kind == "i":
        rank = values.astype(np.int64).view(np.uint64) ^ top
    else:
        raise TypeError(f"values: expected numbers, got {values.dtype}; derive a number to prefer rows by")
    last = np.uint64(2**64 - 2)
    rank = np.minimum(rank, last)
    return np.where(known, last - rank if order == "largest" else rank, last + np.uint64(1))


def equal_groups(keys: Words) -> Positions:
    """Places at which groups of equal keys begin.

    Parameters
    ----------
    keys : (n,) or (n, m)
        Keys, equal ones side by side.

    Returns
    -------
    (n_groups,)
        Ascending places; the first is 0 if there are keys.
    """
    new = np.ones(len(keys), np.bool_)
    differs = keys[1:] != keys[:-1]
    new[1:] = differs if keys.ndim == 1 else differs.any(axis=1)
    return np.flatnonzero(new)


def survivors(keys: Words, *, rank: Words, row_id: Ids, copy: Copies) -> tuple[Positions, Positions]:
    """Rows that have an equal one that is preferred, and which one that is.

    The row of lowest rank stays; of equal ranks, the one of the smallest row id, then of the smallest copy number. So
    the result does not depend on the order of the rows.

    Parameters
    ----------
    keys : (n, 2)
        From :func:`row_keys`: all rows of the keys that are there, such as those of a range of keys.
    rank, row_id, copy : (n,)
        What decides; no two rows agree in row id and copy.

    Returns
    -------
    dropped, kept : (m,)
        Positions of rows to drop, ascending, and of the row that stays instead of each.
    """
    suspects = repeated(keys[:, 0])
    order = suspects[np.lexsort([each[suspects] for each in (copy, row_id, rank, keys[:, 1], keys[:, 0])])]
    starts = equal_groups(keys[order])
    first = np.repeat(order[starts], np.diff(starts, append=len(order)))
    dropped = np.flatnonzero(order != first)
    dropped = dropped[np.argsort(order[dropped])]
    return order[dropped], first[dropped]


def repeated(keys: Words) -> Positions:
    """Positions of keys that are there more than once.

    Parameters
    ----------
    keys : (n,)
        Keys.

    Returns
    -------
    (m,)
        Positions, equal keys side by side.
    """
    order = np.argsort(keys)
    equal = keys[order[1:]] == keys[order[:-1]]
    found = np.zeros(len(keys), np.bool_)
    found[1:] = equal
    found[:-1] |= equal
    return order[found]


def ranked_nodes(*, rank: Words, row_id: Ids, copy: Copies) -> tuple[Positions, Positions]:
    """Number rows in the order in which they should survive, equal rows (of one id and copy) alike.

    Parameters
    ----------
    rank, row_id, copy : (n,)
        What decides, see :func:`survivors`; a row may be named more than once, with the same rank.

    Returns
    -------
    number : (n,)
        Number of each row, 0 .. n_nodes - 1.
    place : (n_nodes,)
        A position of the row of each number.
    """
    order = np.lexsort((copy, row_id, rank))
    starts = equal_groups(np.stack([row_id[order], copy[order].astype(np.uint64)], axis=1))
    number = np.empty(len(order), np.int64)
    number[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    return number, order[starts]


def linked_survivors(
    edges: NDArray[np.int64], *, rank: Words, row_id: Ids, copy: Copies
) -> tuple[Positions, Positions]:
    """Rows of which a preferred one is linked, directly or over others, and which one that is.

    Of each connected component one row stays, by the rule of :func:`survivors`.

    Parameters
    ----------
    edges : (m, 2)
        Links between positions.
    rank, row_id, copy : (n,)
        What decides; a row may be named more than once, with the same rank, and counts as one.

    Returns
    -------
    dropped, kept : (k,)
        A position of each row to drop, and of the row that stays instead; in the order of preference.
    """
    number, place = ranked_nodes(rank=rank, row_id=row_id, copy=copy)
    root = connected_components(number[edges], len(place))
    dropped = np.flatnonzero(root != np.arange(len(root)))
    return place[dropped], place[root[dropped]]


@njit()
def _search(row_id: Ids, copy: Copies, listed_id: Ids, listed_copy: Copies, out: NDArray[np.int64]) -> None:
    for i in range(row_id.shape[0]):
        low, high = 0, listed_id.shape[0]
        while low < high:
            middle = (low + high) // 2
            other = listed_id[middle]
            if other < row_id[i] or (other == row_id[i] and listed_copy[middle] < copy[i]):
                low = middle + 1
            else:
                high = middle
        found = low < listed_id.shape[0] and listed_id[low] == row_id[i] and listed_copy[low] == copy[i]
        out[i] = low if found else -1


def listed(row_id: Ids, copy: Copies, *, listed_id: Ids, listed_copy: Copies) -> Positions:
    """Place of each row in a sorted list.

    Parameters
    ----------
    row_id, copy : (n,)
        Rows to look up, in any order.
    listed_id, listed_copy : (m,)
        The list, ascending by row id and copy.

    Returns
    -------
    (n,)
        Position in the list, -1 for rows that are not listed.
    """
    out = np.empty(len(row_id), np.int64)
    _search(row_id, copy, listed_id, listed_copy, out)
    return out


def near_duplicates(
    text: pa.Array | pa.ChunkedArray,
    near: Near | None = None,
    *,
    normalize: Normalize = "aggressive",
    seed: int = 0,
) -> tuple[Positions, Positions]:
    """Near duplicates among texts in memory; of each component the first text stays.

    Parameters
    ----------
    text : (n,)
        Texts; NULL and texts of which nothing is left duplicate nothing.
    near
        Shingles and bands; its column is not looked at. Words, 5-grams, 14 bands of 8 rows if not given.
    normalize
        What is not told apart, see :func:`curation.methods.minhash.normalized`.
    seed
        Seed of the permutations, 0 .. 2^64 - 1.

    Returns
    -------
    dropped, kept : (m,)
        Positions of near duplicates, ascending, and of the text that stays instead of each.

    Examples
    --------
    >>> dropped, kept = near_duplicates(pa.array(["One two, three four five.", "Six.", "one two three four FIVE"]))
    >>> dropped.tolist(), kept.tolist()
    ([2], [0])
    """
    options = Near(column="text") if near is None else near
    seeds = permutation_seeds(stream_key(seed, "dedup", "minhash"), options.bands * options.rows)
    offsets, data = text_buffers(text)
    signatures, n_shingles = minhash_signatures(
        offsets, data, ngram=options.ngram, seeds=seeds, unit=options.unit, normalize=normalize
    )
    node = np.flatnonzero(n_shingles)
    hashes = band_hashes(signatures[node], bands=options.bands)
    edges = link_bands(hashes.reshape(-1), np.repeat(node, options.bands))
    position = np.arange(len(n_shingles), dtype=np.uint64)
    return linked_survivors(edges, rank=position, row_id=position, copy=np.zeros(len(position), np.uint32))
