"""Places of single values in a Parquet file: walks the pages of uncompressed PLAIN columns of text or bytes.

Only what such a column needs is understood: data pages of version 1, PLAIN values, RLE definition levels. Everything
else, damage included, is an :class:`~curation.io.formats.UnreadableError`; no length in the file is believed before it
is checked against the bytes that are there. The footer is read here, too: Arrow's reader ends the whole process over
some damaged ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from curation._jit import njit
from curation.io.formats import UnreadableError
from curation.io.thrift import Compact, Struct

NULL_LENGTH = 2**32 - 1
"""Length that marks a NULL; its offset is 0."""

Bytes = NDArray[np.uint8]

_MAGIC = b"PAR1"
_BYTE_ARRAY, _REPEATED, _UNCOMPRESSED = 6, 2, 0
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3


@dataclass(frozen=True)
class ChunkPlace:
    """A column in one row group: first row, rows, and where its pages lie [bytes]."""

    row: int
    rows: int
    offset: int
    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Places:
    """Where the values of a column lie.

    ``offsets`` (n,) uint64 is the position of a value's first byte in the file, ``lengths`` (n,) uint32 its bytes;
    a NULL has offset 0 and length ``NULL_LENGTH``. ``chunks`` are the column's parts by row group, with their xxh3-64.
    """

    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint32]
    chunks: tuple[ChunkPlace, ...]


@dataclass(frozen=True)
class Leaf:
    """A column that is not inside another one: its number among all leaves, and what its values are."""

    index: int
    bytes_like: bool
    nullable: bool


@dataclass(frozen=True)
class Footer:
    """What the footer of a file says: columns that are not nested, by name, and the row groups."""

    leaves: dict[str, Leaf]
    groups: tuple[Struct, ...]

    def bare(self) -> list[str]:
        """Columns of text or bytes that no row group compresses or has a dictionary for."""
        return [name for name, leaf in self.leaves.items() if leaf.bytes_like and self.groups and self._is_bare(leaf)]

    def _is_bare(self, leaf: Leaf) -> bool:
        metas = [_meta(group, leaf, "") for group in self.groups]
        return all(meta.get(4) == _UNCOMPRESSED and 11 not in meta for meta in metas)


@dataclass(frozen=True)
class PageHeader:
    """What the header of a data page says; ``start`` and ``stop`` are where its bytes lie in the file."""

    values: int
    start: int
    stop: int


def read_footer(data: Bytes) -> Footer:
    """Read the footer of a Parquet file.

    Parameters
    ----------
    data : (n_bytes,)
        The whole file, usually mapped.

    Raises
    ------
    UnreadableError
        If it is no Parquet file, or damaged.
    """
    size = len(data)
    if size < 12 or data[:4].tobytes() != _MAGIC or data[-4:].tobytes() != _MAGIC:
        raise UnreadableError("no Parquet file, or cut short: it does not begin and end with PAR1")
    length = int.from_bytes(data[-8:-4].tobytes(), "little")
    if length > size - 12:
        raise UnreadableError(f"the footer of {length} bytes does not fit into the file of {size} bytes")
    fields = Compact(data, size - 8 - length, size - 8, "footer").struct()
    groups = tuple(each for each in _list(fields, 4) if isinstance(each, dict))
    return Footer(_leaves(_list(fields, 2)), groups)


def _list(fields: Struct, number: int) -> list[Any]:
    found = fields.get(number)
    return found if isinstance(found, list) else []


def _leaves(elements: list[Any]) -> dict[str, Leaf]:
    """Columns at the top of a schema that is written as a tree in pre-order, with the root first."""
    leaves: dict[str, Leaf] = {}
    at, index = 1, 0
    while at < len(elements):
        top, begin, count = elements[at], at, 0
        pending = 1
        while pending > 0 and at < len(elements):
            children = elements[at].get(5) if isinstance(elements[at], dict) else None
            pending += children - 1 if isinstance(children, int) and children > 0 else -1
            count += not children
            at += 1
        if isinstance(top, dict) and isinstance(top.get(4), bytes) and at == begin + 1 and top.get(3) != _REPEATED:
            name = top[4].decode("utf-8", "replace")
            if name in leaves:
                raise UnreadableError(f"column '{name}': there are two of this name")
            leaves[name] = Leaf(index, top.get(1) == _BYTE_ARRAY, nullable=top.get(3) != 0)
        index += count
    return leaves


def value_places(data: Bytes, footer: Footer, column: str) -> Places:
    """Find every value of a column.

    Parameters
    ----------
    data : (n_bytes,)
        The whole file, usually mapped.
    footer
        Its footer.
    column
        Name of a column of text or bytes that is not inside another one.

    Raises
    ------
    UnreadableError
        If the column is compressed, encoded otherwise or nested, or the file is damaged.
    """
    leaf = footer.leaves.get(column)
    if leaf is None or not leaf.bytes_like:
        raise UnreadableError(f"column '{column}': expected text or bytes that are not nested, got none of this name")
    offsets, lengths, chunks, row = [], [], [], 0
    for number, group in enumerate(footer.groups):
        where = f"column '{column}', row group {number}"
        start, stop, rows = _extent(group, leaf, len(data), where)
        found = _chunk(data, start, stop, rows, leaf.nullable, where)
        offsets.append(found[0])
        lengths.append(found[1])
        digest = xxhash.xxh3_64(data[start:stop].data).hexdigest()
        chunks.append(ChunkPlace(row, rows, start, stop - start, digest))
        row += rows
    whole = np.concatenate(offsets) if offsets else np.zeros(0, np.uint64)
    return Places(whole, np.concatenate(lengths) if lengths else np.zeros(0, np.uint32), tuple(chunks))


def _meta(group: Struct, leaf: Leaf, where: str) -> Struct:
    """What a row group says of a column."""
    columns = _list(group, 1)
    chunk = columns[leaf.index] if leaf.index < len(columns) else None
    meta = chunk.get(3) if isinstance(chunk, dict) else None
    if not isinstance(meta, dict):
        raise UnreadableError(f"{where}: the footer lacks it; the file is damaged")
    return meta


def _extent(group: Struct, leaf: Leaf, size: int, where: str) -> tuple[int, int, int]:
    """Where the pages of a column lie, and its rows, if it is of the kind that is understood here and in the file."""
    meta = _meta(group, leaf, where)
    if meta.get(4) != _UNCOMPRESSED:
        raise UnreadableError(f"{where}: expected uncompressed pages, got codec {meta.get(4)}")
    if 11 in meta:
        raise UnreadableError(f"{where}: expected PLAIN values, got a dictionary")
    rows, values, length, start = group.get(3), meta.get(5), meta.get(7), meta.get(9)
    if not (isinstance(rows, int) and rows >= 0 and values == rows):
        raise UnreadableError(f"{where}: expected {rows} values, got {values}")
    if not (isinstance(start, int) and isinstance(length, int) and start >= 0 <= length and start + length <= size):
        raise UnreadableError(f"{where}: {length} bytes from {start} are not all in the file of {size} bytes")
    return start, start + length, rows


def _chunk(
    data: Bytes, start: int, stop: int, rows: int, nullable: bool, where: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Offsets and lengths of one chunk's values."""
    pages = list(_pages(data, start, stop, rows, where))
    counted = sum(page.values for page in pages)
    if counted != rows:
        raise UnreadableError(f"{where}: expected {rows} values in the pages, got {counted}")
    # Only now is the number of rows one that two places of the file agree on.
    offsets, lengths, at = np.zeros(rows, np.uint64), np.full(rows, NULL_LENGTH, np.uint32), 0
    for page in pages:
        here = slice(at, at + page.values)
        present = np.ones(page.values, np.bool_)
        first = _levels(data, page, present, where) if nullable else page.start
        end = _walk(data, first, page.stop, present, offsets[here], lengths[here])
        if end != page.stop:
            raise UnreadableError(f"{where}: the values do not fill their page at byte {page.start}; it is damaged")
        at += page.values
    return offsets, lengths


def _pages(data: Bytes, start: int, stop: int, rows: int, where: str) -> Iterator[PageHeader]:
    """Pages of a chunk; each has a header of at least one byte, so that this ends."""
    at, counted = start, 0
    while at < stop:
        page = page_header(data, at, stop, where)
        counted += page.values
        if counted > rows:
            return  # the caller counts, too, and says so
        yield page
        at = page.stop


def page_header(data: Bytes, at: int, stop: int, where: str) -> PageHeader:
    """Read the header of the page that begins at byte ``at`` and must end by ``stop``.

    Raises
    ------
    UnreadableError
        If it is damaged, or the page of a kind that is not understood here.
    """
    reader = Compact(data, at, stop, f"{where}, page at byte {at}")
    fields = reader.struct()
    kind, size = fields.get(1), fields.get(3)
    if kind != _DATA_PAGE:
        raise UnreadableError(f"{reader.where}: expected a data page of version 1, got page type {kind}")
    inner = fields.get(5)
    if not isinstance(inner, dict) or not isinstance(size, int) or fields.get(2) != size:
        raise UnreadableError(f"{reader.where}: the header lacks a field, or the page is compressed")
    values, encoding, levels = inner.get(1), inner.get(2), inner.get(3)
    if encoding != _PLAIN or levels != _RLE:
        raise UnreadableError(f"{reader.where}: expected PLAIN values with RLE levels, got {encoding} and {levels}")
    if not isinstance(values, int) or values < 0 or size < 0 or reader.at + size > stop:
        raise UnreadableError(
            f"{reader.where}: {values} values in {size} bytes do not lie in the column; it is damaged"
        )
    return PageHeader(values, reader.at, reader.at + size)


def _levels(data: Bytes, page: PageHeader, present: NDArray[np.bool_], where: str) -> int:
    """Fill ``present`` from the definition levels of a page; returns where its values begin."""
    first = page.start + 4
    size = int.from_bytes(data[page.start : first].tobytes(), "little")
    if first + size > page.stop or not _present(data, first, first + size, present):
        raise UnreadableError(f"{where}: the levels of the page at byte {page.start} are damaged")
    return first + size


@njit()
def _present(data: Bytes, at: int, stop: int, present: NDArray[np.bool_]) -> bool:
    """Decode levels of one bit (runs, and groups of eight); False if they are damaged or too few."""
    done, rows = 0, len(present)
    while done < rows:
        head, shift = 0, 0
        while True:
            if at >= stop or shift > 35:
                return False
            byte = int(data[at])
            at += 1
            head |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if head & 1:
            size = head >> 1
            if size == 0 or size > stop - at:
                return False
            for i in range(min(8 * size, rows - done)):
                present[done + i] = (int(data[at + (i >> 3)]) >> (i & 7)) & 1
            at += size
            done += 8 * size
        else:
            size = head >> 1
            if size == 0 or size > rows - done or at >= stop or int(data[at]) > 1:
                return False
            present[done : done + size] = int(data[at]) == 1
            at += 1
            done += size
    return True


@njit()
def _walk(
    data: Bytes,
    at: int,
    stop: int,
    present: NDArray[np.bool_],
    offsets: NDArray[np.uint64],
    lengths: NDArray[np.uint32],
) -> int:
    """Step from length to length; returns where the last value ends, -1 if one does not lie in the page."""
    for i in range(len(present)):
        if not present[i]:
            continue
        if stop - at < 4:
            return -1
        size = int(data[at]) | int(data[at + 1]) << 8 | int(data[at + 2]) << 16 | int(data[at + 3]) << 24
        at += 4
        if size > stop - at:
            return -1
        offsets[i] = at
        lengths[i] = size
        at += size
    return at
