"""A versioned 128-bit hash of a row's content, and hashes of key values, over Arrow data of any layout.

Equal content gives equal hashes however it is laid out: in chunks or slices, dictionary- or run-end-encoded,
with 32- or 64-bit offsets or views. What counts is the column's name, its logical type (with width, unit,
time zone, precision) and its value; the order of columns and of the fields of a struct does not.
Extension types count as their storage, fixed-size lists as lists. All NaN are one value; -0.0 and 0.0 are two.
A null is a value of its own, whatever bytes lie under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types as pt

from curation._jit import njit

HASH_VERSION = 1
"""Part of every hash; goes up when the hash of any value changes."""

Words = NDArray[np.uint64]

# Odd multipliers and rotations of the two lanes (constants of xxHash64 and SplitMix64).
_A0, _B0 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_A1, _B1 = np.uint64(0x165667B19E3779F9), np.uint64(0xD6E8FEB86659FD93)
_R0, _R1, _L0, _L1 = np.uint64(31), np.uint64(27), np.uint64(33), np.uint64(37)
_M0, _M1 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SEVEN, _THREE, _ONE, _63, _64 = np.uint64(7), np.uint64(3), np.uint64(1), np.uint64(63), np.uint64(64)
_FULL = np.uint64(2**64 - 1)


def _seed(*parts: str | bytes) -> tuple[np.uint64, np.uint64]:
    texts = (
        b"curation/hash",
        b"%d" % HASH_VERSION,
        *(p.encode() if isinstance(p, str) else p for p in parts),
    )
    digest = blake2b(b"".join(len(t).to_bytes(8, "little") + t for t in texts), digest_size=16).digest()
    return np.uint64(int.from_bytes(digest[:8], "little")), np.uint64(int.from_bytes(digest[8:], "little"))


_NULL = _seed("null")
_ROW = _seed("row")


def row_hashes(table: pa.Table) -> Words:
    """Hash of each row over all columns.

    Parameters
    ----------
    table
        Rows of any Arrow types, n of them.

    Returns
    -------
    (n, 2)
        128 bits per row: two lanes of 64 that are hashed apart.

    Raises
    ------
    TypeError
        If a column has a type that is not known here; the message names the column.
    """
    total = np.zeros((table.num_rows, 2), np.uint64)
    with np.errstate(over="ignore"):  # wrap-around is meant; only uncompiled kernels would warn
        for name, column in zip(table.column_names, table.columns, strict=True):
            seed = _seed("column", name)
            start = 0
            for chunk in column.chunks:
                _add(total[start : start + len(chunk)], _elements(chunk, name), *seed)
                start += len(chunk)
        _finish(total, *_ROW)
    return total


def fingerprint(hashes: Words) -> int:
    """Sum of the rows' hashes mod 2^128, so independent of their order.

    Parameters
    ----------
    hashes : (n, 2)
        From :func:`row_hashes`.

    Returns
    -------
    int
        0 .. 2^128 - 1; 0 for no rows.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    parts = (int((lane & low).sum()) + (int((lane >> half).sum()) << 32) for lane in (hashes[:, 0], hashes[:, 1]))
    return combine(*(part << (64 * lane) for lane, part in enumerate(parts)))


def combine(*fingerprints: int) -> int:
    """Fingerprint of several sets of rows together: the sum mod 2^128.

    Parameters
    ----------
    *fingerprints
        From :func:`fingerprint`.

    Returns
    -------
    int
        0 .. 2^128 - 1.
    """
    return sum(fingerprints) % (1 << 128)


def key_hashes(values: pa.Array | pa.ChunkedArray, *, salt: bytes | str, bits: int = 63) -> Words:
    """Hash of key values: equal values give equal hashes, in any width, offset size or encoding.

    Integers of any width agree with each other, and so do floats (-0.0 equals 0.0 here); integers, floats,
    text and bytes differ from each other. Of one salt, no two int64 values collide at 64 bits.

    Parameters
    ----------
    values : (n,)
        Keys, without nulls.
    salt
        Name of the key space, such as the input; other salts give unrelated hashes.
    bits
        Bits to keep, 1 .. 64.

    Returns
    -------
    (n,)
        Numbers below ``2 ** bits``.

    Raises
    ------
    ValueError
        If a key is null or ``bits`` is out of range.
    TypeError
        If the type is not known here.
    """
    if not 1 <= bits <= 64:
        raise ValueError(f"bits: expected 1 .. 64, got {bits}; keep 63 for row ids")
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    seed, _ = _seed("key", salt)
    out = np.empty(len(values), np.uint64)
    start = 0
    with np.errstate(over="ignore"):
        for chunk in chunks:
            lanes = _key_elements(chunk, "keys")
            null = (lanes[:, 0] == _NULL[0]) & (lanes[:, 1] == _NULL[1])
            if null.any():
                at = start + int(null.argmax())
                raise ValueError(f"keys[{at}]: expected a value, got null; filter such rows out first")
            part = out[start : start + len(chunk)]
            _salted(lanes, seed, part)
            start += len(chunk)
    if bits < 64:
        out >>= np.uint64(64 - bits)
    return out


# ---- kernels: all lanes are uint64, wrap-around is meant


@njit()
def mixed(h: np.uint64) -> np.uint64:
    """Finaliser of SplitMix64: a bijection in which every input bit changes half of the output bits (in kernels)."""
    h = (h ^ (h >> _S30)) * _M0
    h = (h ^ (h >> _S27)) * _M1
    return h ^ (h >> _S31)


@njit()
def _step(h0: np.uint64, h1: np.uint64, w0: np.uint64, w1: np.uint64) -> tuple[np.uint64, np.uint64]:
    # One word into each lane; a bijection of the word for a given state, and of the state for a given word.
    h0 = h0 ^ (w0 * _A0)
    h1 = h1 ^ (w1 * _A1)
    return ((h0 << _R0) | (h0 >> _L0)) * _B0, ((h1 << _R1) | (h1 >> _L1)) * _B1


@njit()
def _add(total: Words, lanes: Words, s0: np.uint64, s1: np.uint64) -> None:
    for i in range(total.shape[0]):
        total[i, 0] += mixed(lanes[i, 0] + s0)
        total[i, 1] += mixed(lanes[i, 1] + s1)


@njit()
def _finish(total: Words, s0: np.uint64, s1: np.uint64) -> None:
    for i in range(total.shape[0]):
        total[i, 0] = mixed(total[i, 0] + s0)
        total[i, 1] = mixed(total[i, 1] + s1)


@njit()
def _salted(lanes: Words, seed: np.uint64, out: Words) -> None:
    for i in range(out.shape[0]):
        out[i] = mixed(lanes[i, 0] ^ seed)


@njit()
def _hash_words(words: Words, s0: np.uint64, s1: np.uint64, out: Words) -> None:
    for i in range(words.shape[0]):
        h0, h1 = _step(s0, s1, words[i], words[i])
        out[i, 0] = mixed(h0)
        out[i, 1] = mixed(h1)


@njit()
def _hash_bytes(
    data: Words, starts: NDArray[np.int64], sizes: NDArray[np.int64], s0: np.uint64, s1: np.uint64, out: Words
) -> None:
    """Bytes [start, start + size) of ``data``, which ends in two spare words."""
    for i in range(starts.shape[0]):
        h0, h1 = s0, s1
        word = starts[i] >> 3
        shift = (np.uint64(starts[i]) & _SEVEN) << _THREE
        for _ in range(sizes[i] >> 3):
            # Eight bytes from two aligned words; shifted twice, as a shift by 64 is undefined.
            w = (data[word] >> shift) | ((data[word + 1] << _ONE) << (_63 - shift))
            h0, h1 = _step(h0, h1, w, w)
            word += 1
        rest = (np.uint64(sizes[i]) & _SEVEN) << _THREE
        if rest > 0:
            w = (data[word] >> shift) | ((data[word + 1] << _ONE) << (_63 - shift))
            w &= _FULL >> (_64 - rest)
            h0, h1 = _step(h0, h1, w, w)
        n = np.uint64(sizes[i])
        out[i, 0] = mixed(h0 ^ (n * _B1))
        out[i, 1] = mixed(h1 ^ (n * _B0))


@njit()
def _hash_lists(
    lanes: Words,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    s0: np.uint64,
    s1: np.uint64,
    out: Words,
) -> None:
    for i in range(starts.shape[0]):
        h0, h1 = s0, s1
        for e in range(starts[i], starts[i] + sizes[i]):
            h0, h1 = _step(h0, h1, lanes[e, 0], lanes[e, 1])
        n = np.uint64(sizes[i])
        out[i, 0] = mixed(h0 ^ (n * _B1))
        out[i, 1] = mixed(h1 ^ (n * _B0))


@njit()
def _fold_nulls(valid: NDArray[np.bool_], starts: NDArray[np.int64], sizes: NDArray[np.int64], out: Words) -> None:
    # Only rows that hold a null change, so that a row's hash does not depend on its neighbours.
    for i in range(starts.shape[0]):
        for e in range(sizes[i]):
            if not valid[starts[i] + e]:
                w = np.uint64(e)
                h0, h1 = _step(out[i, 0], out[i, 1], w, w)
                out[i, 0] = mixed(h0)
                out[i, 1] = mixed(h1)


# ---- Arrow: from an array to one pair of lanes per element


def _elements(array: pa.Array, where: str) -> Words:
    """Lanes (n, 2) of an array; ``where`` is the column's name, for messages."""
    unwrapped = _through_encoding(array, lambda inner: _elements(inner, where))
    if unwrapped is not None:
        return unwrapped
    kind = array.type
    for test, hashed in _KINDS:
        if test(kind):
            lanes = hashed(array, where)
            if array.null_count:
                lanes[~_valid(array)] = _NULL
            return lanes
    raise TypeError(f"column {where!r}: expected a type that can be hashed, got {kind}; cast or leave the column out")


def _key_elements(array: pa.Array, where: str) -> Words:
    """Like :func:`_elements`, with one type for all integers and one for all floats."""
    unwrapped = _through_encoding(array, lambda inner: _key_elements(inner, where))
    if unwrapped is not None:
        return unwrapped
    kind = array.type
    if not (pt.is_integer(kind) or pt.is_floating(kind)):
        return _elements(array, where)
    plain = _fixed(array)[0]
    out = np.empty((len(array), 2), np.uint64)
    if pt.is_integer(kind):
        number = plain.view(("i" if pt.is_signed_integer(kind) else "u") + str(plain.shape[1])).ravel()
        _hash_words(number.astype(np.int64).view(np.uint64), *_seed("key int"), out)
        huge = number >= np.uint64(1 << 63) if number.dtype == np.uint64 else np.zeros(0, bool)
        if huge.any():  # the same 64 bits as a negative number
            above = np.empty((int(huge.sum()), 2), np.uint64)
            _hash_words(number[huge], *_seed("key int above int64"), above)
            out[huge] = above
    else:
        real = plain.view("f" + str(plain.shape[1])).ravel().astype(np.float64) + 0.0  # -0.0 becomes 0.0
        real[np.isnan(real)] = np.nan
        _hash_words(real.view(np.uint64), *_seed("key float"), out)
    out[~_valid(array)] = _NULL
    return out


def _through_encoding(array: pa.Array, hashed: Callable[[pa.Array], Words]) -> Words | None:
    """Lanes of an encoded array by those of its values, None if it is plain."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return hashed(array.storage)
    if pt.is_dictionary(kind):
        index, valid = _indices(array)
        lanes = np.concatenate([hashed(array.dictionary), np.array([_NULL], np.uint64)])
        return lanes[np.where(valid, index, -1)]
    if pt.is_run_end_encoded(kind):
        return hashed(array.values)[_runs(array)]
    return None


def _indices(array: pa.DictionaryArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    plain, valid = _fixed(array.indices)
    sign = "i" if pt.is_signed_integer(array.indices.type) else "u"
    return plain.view(f"{sign}{plain.shape[1]}").ravel().astype(np.int64), valid


def _runs(array: pa.RunEndEncodedArray) -> NDArray[np.int64]:
    ends = np.asarray(array.run_ends)
    return np.searchsorted(ends, np.arange(array.offset, array.offset + len(array)), side="right").astype(np.int64)


def _valid(array: pa.Array) -> NDArray[np.bool_]:
    if array.null_count == 0:
        return np.broadcast_to(np.True_, len(array))
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _tag(kind: pa.DataType) -> str:
    """Name of the logical type: one for all layouts of the same content."""
    if isinstance(kind, pa.BaseExtensionType):
        return _tag(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return _tag(kind.value_type)
    if _is_text(kind):
        return "text"
    if _is_bytes(kind):
        return "bytes"
    if _is_list(kind):
        return f"list<{_tag(kind.value_type)}>"
    return str(kind)


def _width(kind: pa.DataType) -> int | None:
    """Bytes per value of a fixed-width type, seen through its encoding; None for others."""
    if isinstance(kind, pa.BaseExtensionType):
        return _width(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return _width(kind.value_type)
    if pt.is_boolean(kind):
        return 1
    if pt.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_temporal(kind) or pt.is_decimal(kind):
        return int(kind.bit_width) // 8
    return int(kind.bit_width) // 8 if pt.is_interval(kind) else None


def _fixed(array: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bytes (n, width) of fixed-width values, NaN and nulls made uniform; and which are valid."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _fixed(array.storage)
    if pt.is_dictionary(kind):
        plain, known = _fixed(array.dictionary)
        index, valid = _indices(array)
        nothing = np.zeros((1, plain.shape[1]), np.uint8)
        at = np.where(valid, index, -1)
        return np.concatenate([plain, nothing])[at], np.append(known, False)[at]
    if pt.is_run_end_encoded(kind):
        plain, valid = _fixed(array.values)
        runs = _runs(array)
        return plain[runs], valid[runs]
    plain, valid = _raw(array), _valid(array)
    if pt.is_floating(kind):
        real = plain.view(f"f{plain.shape[1]}")
        if np.isnan(real.max(initial=0.0)):
            plain = np.where(np.isnan(real), np.array(np.nan, real.dtype), real).view(np.uint8)
    if array.null_count:
        plain = np.where(valid[:, None], plain, np.uint8(0))
    return np.ascontiguousarray(plain), valid


def _raw(array: pa.Array) -> NDArray[np.uint8]:
    n, start, buffer = len(array), array.offset, array.buffers()[1]
    width = _width(array.type) or 0
    if buffer is None or n == 0:
        return np.zeros((n, width), np.uint8)
    data = np.frombuffer(buffer, np.uint8)
    if pt.is_boolean(array.type):
        return np.unpackbits(data[start // 8 : (start + n + 7) // 8], bitorder="little")[start % 8 :][:n, None]
    return data[start * width : (start + n) * width].reshape(n, width)


def _padded(data: NDArray[np.uint8]) -> Words:
    words = np.zeros(data.size // 8 + 2, np.uint64)
    words.view(np.uint8)[: data.size] = data
    return words


def _hash_fixed(array: pa.Array, where: str) -> Words:
    plain, _ = _fixed(array)
    n, width = plain.shape
    out = np.empty((n, 2), np.uint64)
    seed = _seed("type", _tag(array.type))
    if width in (1, 2, 4, 8):
        _hash_words(plain.view(f"u{width}").ravel().astype(np.uint64), *seed, out)
    else:
        starts = np.arange(n, dtype=np.int64) * width
        _hash_bytes(_padded(plain.ravel()), starts, np.full(n, width, np.int64), *seed, out)
    return out


def _hash_varying(array: pa.Array, where: str) -> Words:
    large = array
    if _is_view(array.type):
        large = array.cast(pa.large_string() if _is_text(array.type) else pa.large_binary())
    starts, sizes = _spans(large)
    data = large.buffers()[2]
    seen = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    low, high = (int(starts.min()), int((starts + sizes).max())) if len(starts) else (0, 0)
    out = np.empty((len(array), 2), np.uint64)
    _hash_bytes(_padded(seen[low:high]), starts - low, sizes, *_seed("type", _tag(array.type)), out)
    return out


def _spans(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and size of each element in the child data; a null spans nothing."""
    kind, n, start = array.type, len(array), array.offset
    if pt.is_fixed_size_list(kind):
        starts = np.arange(start, start + n, dtype=np.int64) * kind.list_size
        sizes = np.full(n, kind.list_size, np.int64)
    elif _is_list_view(kind):
        starts = _integers(array.buffers()[1], start, n, _is_large(kind))
        sizes = _integers(array.buffers()[2], start, n, _is_large(kind))
    else:
        offsets = _integers(array.buffers()[1], start, n + 1, _is_large(kind))
        starts, sizes = offsets[:-1].copy(), np.diff(offsets)
    if array.null_count:
        valid = _valid(array)
        starts[~valid] = starts[valid].min() if valid.any() else 0
        sizes[~valid] = 0
    return starts, sizes


def _integers(buffer: pa.Buffer | None, start: int, n: int, large: bool) -> NDArray[np.int64]:
    if buffer is None or buffer.size == 0:
        return np.zeros(n, np.int64)  # an empty array may come without offsets
    return np.frombuffer(buffer, np.int64 if large else np.int32)[start : start + n].astype(np.int64)


def _hash_list(array: pa.Array, where: str) -> Words:
    starts, sizes = _spans(array)
    low, high = (int(starts.min()), int((starts + sizes).max())) if len(starts) else (0, 0)
    values = array.values.slice(low, high - low)
    starts = starts - low
    out = np.empty((len(array), 2), np.uint64)
    seed = _seed("type", _tag(array.type))
    width = _width(values.type)
    if width is None:
        _hash_lists(_elements(values, where), starts, sizes, *seed, out)
        return out
    plain, valid = _fixed(values)
    _hash_bytes(_padded(plain.ravel()), starts * width, sizes * width, *seed, out)
    if valid.strides != (0,) and not valid.all():  # stride 0: all valid, see _valid
        _fold_nulls(valid, starts, sizes, out)
    return out


def _hash_map(array: pa.Array, where: str) -> Words:
    starts, sizes = _spans(array)
    low, high = (int(starts.min()), int((starts + sizes).max())) if len(starts) else (0, 0)
    entries = array.values.slice(low, high - low)
    lanes = np.zeros((len(entries), 2), np.uint64)
    for side, name in enumerate(("map key", "map value")):  # the fields' own names differ between writers
        _add(lanes, _elements(entries.field(side), where), *_seed(name))
    out = np.empty((len(array), 2), np.uint64)
    _hash_lists(lanes, starts - low, sizes, *_seed("type", "map"), out)
    return out


def _hash_struct(array: pa.Array, where: str) -> Words:
    lanes = np.zeros((len(array), 2), np.uint64)
    for i in range(array.type.num_fields):
        name = array.type.field(i).name
        _add(lanes, _elements(array.field(i), f"{where}.{name}"), *_seed("field", name))
    _finish(lanes, *_seed("type", "struct"))
    return lanes


def _hash_union(array: pa.Array, where: str) -> Words:
    # From the buffers, as the array's own type_codes and offsets ignore that it may be a slice.
    here, buffers = slice(array.offset, array.offset + len(array)), array.buffers()
    codes = np.frombuffer(buffers[1], np.int8)[here]
    lanes = np.zeros((len(array), 2), np.uint64)
    for i, code in enumerate(array.type.type_codes):
        name = array.type.field(i).name
        at = np.flatnonzero(codes == code)
        child = _elements(array.field(i), f"{where}.{name}")
        own = np.zeros((len(at), 2), np.uint64)
        inside = at if array.type.mode == "sparse" else np.frombuffer(buffers[2], np.int32)[here][at]
        _add(own, child[inside], *_seed("union", name))
        lanes[at] = own
    return lanes


def _hash_null(array: pa.Array, where: str) -> Words:
    return np.tile(np.array([_NULL], np.uint64), (len(array), 1))


def _named(*names: str) -> Callable[[Any], bool]:
    """Test for types of pyarrow.types, as far as the installed pyarrow knows them."""
    tests: Iterable[Callable[[Any], bool]] = [getattr(pt, name) for name in names if hasattr(pt, name)]
    return lambda kind: any(test(kind) for test in tests)


_is_text = _named("is_string", "is_large_string", "is_string_view")
_is_bytes = _named("is_binary", "is_large_binary", "is_binary_view")
_is_list = _named("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
_is_list_view = _named("is_list_view", "is_large_list_view")
_is_large = _named("is_large_string", "is_large_binary", "is_large_list", "is_large_list_view")
_is_view = _named("is_string_view", "is_binary_view")


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[pa.Array, str], Words]], ...] = (
    (lambda kind: _width(kind) is not None, _hash_fixed),
    (lambda kind: _is_text(kind) or _is_bytes(kind), _hash_varying),
    (_is_list, _hash_list),
    (pt.is_struct, _hash_struct),
    (pt.is_map, _hash_map),
    (pt.is_null, _hash_null),
    (pt.is_union, _hash_union),
)
