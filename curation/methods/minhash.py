"""MinHash finds texts that share most of their shingles, without comparing every pair.

Text is UTF-8 in one buffer with offsets, as Arrow keeps it. The steps: shingles, their minima under random
permutations, bands of minima, links between rows that share a band, and the connected components of the links.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation._jit import njit
from curation.hashing import mixed
from curation.rng import random_bits

Unit = Literal["word", "char"]
Normalize = Literal["none", "whitespace", "aggressive"]

Words = NDArray[np.uint64]
Codes = NDArray[np.uint32]
Edges = NDArray[np.int64]

UNICODE = unicodedata.unidata_version
"""Version of the tables by which letters are told from other characters; part of what results depend on."""

_GAP, _NOTHING, _MANY = 0xFFFFFFFF, 0xFFFFFFFE, 0x80000000
_G, _N, _E, _OFFSET = np.uint32(_GAP), np.uint32(_NOTHING), np.uint32(_MANY), np.uint32(_MANY - 1)
_SPACE, _LARGEST = np.uint32(0x20), np.uint32(0xFFFFFFFF)
_A, _B, _SEED = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x27D4EB2F165667C5)
_C, _D = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xBF58476D1CE4E5B9)
_R, _L, _HALF = np.uint64(31), np.uint64(33), np.uint64(32)
_ROOM = 64  # code points that one character can become at most, with room


def is_text(kind: pa.DataType) -> bool:
    """Whether :func:`text_buffers` reads columns of a type: text in any layout, or a dictionary of it."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def text_buffers(text: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets and bytes of a column of text.

    Parameters
    ----------
    text : (n,)
        Text in any layout (views, dictionaries); NULL becomes empty text.

    Returns
    -------
    offsets : (n + 1,)
        Ascending places in ``data`` [bytes].
    data : (m,)
        UTF-8, without a copy where the layout allows it.
    """
    whole = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    plain = whole.cast(pa.large_string())
    if plain.null_count:
        plain = plain.fill_null("")
    if len(plain) == 0:
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offsets, data = plain.buffers()
    places = np.frombuffer(offsets, np.int64)[plain.offset : plain.offset + len(plain) + 1]
    return places, np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)


# ---- what becomes of each character


@lru_cache
def _alphabet(unit: Unit, normalize: Normalize) -> tuple[Codes, Codes]:
    """What each code point becomes: itself, another, a gap, nothing, or a list in the second table."""
    codes = np.arange(0x110000, dtype=np.uint32)
    more: list[int] = []
    for code in range(0x110000):
        char = chr(code)
        if normalize == "aggressive":
            kept = _simplified(char)
            if len(kept) == 1:
                codes[code] = kept[0]
            elif kept:
                codes[code] = _MANY | len(more)
                more += [len(kept), *kept]
            else:
                codes[code] = _NOTHING
        elif (unit == "word" and unicodedata.category(char)[0] not in "LNM") or (
            normalize == "whitespace" and char.isspace()
        ):
            codes[code] = _GAP
    codes.setflags(write=False)
    return codes, np.array([*more, 0], np.uint32)


def _simplified(char: str) -> list[int]:
    """Code points of a character without case, accents and compatibility forms; what is no letter or digit is a gap."""
    kind = unicodedata.category(char)
    if kind in ("Cn", "Co", "Cs"):
        return [_GAP]
    if kind == "Lo" and not unicodedata.decomposition(char):
        return [ord(char)]  # most of Unicode; syllables of Hangul, which have none on paper, stay whole by this
    text = unicodedata.normalize("NFKD", char)
    for _ in range(2):  # folding can make way for another decomposition and the other way round
        text = unicodedata.normalize("NFKD", text.casefold())
    out = []
    for each in text:
        kind = unicodedata.category(each)
        if kind == "Nd":
            out.append(ord(str(unicodedata.decimal(each))))
        elif kind[0] in "LN" or (kind[0] == "M" and not unicodedata.combining(each)):
            out.append(ord(each))
        elif kind[0] != "M" and kind != "Cf":
            out.append(_GAP)
    return out


@njit()
def _decoded(data: NDArray[np.uint8], at: int, stop: int) -> tuple[int, int]:
    """Code point at a byte and the place behind it; a byte that is no UTF-8 is a character of its own."""
    lead = int(data[at])
    size = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
    if size == 1 or at + size > stop:
        return lead, at + 1
    code = lead & (0x7F >> size)
    for i in range(1, size):
        code = (code << 6) | (int(data[at + i]) & 0x3F)
    return (code, at + size) if code < 0x110000 else (lead, at + 1)


@njit()
def _spelled(data: NDArray[np.uint8], start: int, stop: int, codes: Codes, more: Codes, out: Codes) -> int:
    """Write the normalised code points of a text, one space for a gap, none at the ends; -1 if ``out`` is too short."""
    at, n, gap, room = start, 0, False, out.shape[0] - _ROOM
    while at < stop:
        if n > room:
            return -1
        if data[at] < 0x80:
            code = codes[data[at]]
            at += 1
        else:
            point, at = _decoded(data, at, stop)
            code = codes[point]
        if code < _E:
            if gap:
                out[n] = _SPACE
                n += 1
                gap = False
            out[n] = code
            n += 1
        elif code == _G:
            gap = n > 0
        elif code != _N:
            n, gap = _many(more, int(code & _OFFSET), out, n, gap)
    return n


@njit()
def _many(more: Codes, at: int, out: Codes, n: int, gap: bool) -> tuple[int, bool]:
    for i in range(at + 1, at + 1 + int(more[at])):
        if more[i] == _G:
            gap = n > 0
            continue
        if gap:
            out[n] = _SPACE
            n += 1
            gap = False
        out[n] = more[i]
        n += 1
    return n, gap


# ---- shingles


@njit()
def _step(h: np.uint64, word: np.uint64) -> np.uint64:
    h = h ^ (word * _A)
    return ((h << _R) | (h >> _L)) * _B


@njit()
def _word_hashes(spelled: Codes, n: int, out: Words) -> int:
    count, h, inside = 0, _SEED, False
    for i in range(n):
        if spelled[i] == _SPACE:
            out[count] = mixed(h)
            count += 1
            h, inside = _SEED, False
        else:
            h = _step(h, np.uint64(spelled[i]))
            inside = True
    if inside:
        out[count] = mixed(h)
        count += 1
    return count


@njit()
def _shingles(units: Words, n_units: int, ngram: int, out: Codes) -> int:
    """Top 32 bits of the hash of each n-gram; of all units there are if they are fewer than one n-gram."""
    size = min(ngram, n_units)
    count = n_units - size + 1 if n_units > 0 else 0
    for i in range(count):
        h = _SEED
        for t in range(size):
            h = _step(h, units[i + t])
        out[i] = np.uint32(mixed(h) >> _HALF)
    return count


@njit()
def _minima(shingles: Codes, n: int, multiplier: Words, shift: Words, out: Codes) -> None:
    # Four shingles for each load of a permutation; the inner loop becomes SIMD over the permutations.
    for j in range(out.shape[0]):
        out[j] = _LARGEST
    for i in range(0, n, 4):
        x0, x1 = np.uint64(shingles[i]), np.uint64(shingles[min(i + 1, n - 1)])
        x2, x3 = np.uint64(shingles[min(i + 2, n - 1)]), np.uint64(shingles[min(i + 3, n - 1)])
        for j in range(out.shape[0]):
            a, b = multiplier[j], shift[j]
            low = min(np.uint32((a * x0 + b) >> _HALF), np.uint32((a * x1 + b) >> _HALF))
            high = min(np.uint32((a * x2 + b) >> _HALF), np.uint32((a * x3 + b) >> _HALF))
            out[j] = min(out[j], min(low, high))


@njit()
def _signatures(
    offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    words: bool,
    ngram: int,
    codes: Codes,
    more: Codes,
    multiplier: Words,
    shift: Words,
    out: Codes,
    count: NDArray[np.int64],
) -> None:
    buffer, units, shingles = np.empty(1024, np.uint32), np.empty(1024, np.uint64), np.empty(1024, np.uint32)
    for d in range(offsets.shape[0] - 1):
        n = _spelled(data, offsets[d], offsets[d + 1], codes, more, buffer)
        while n < 0:
            buffer = np.empty(2 * (buffer.shape[0] + offsets[d + 1] - offsets[d]), np.uint32)
            n = _spelled(data, offsets[d], offsets[d + 1], codes, more, buffer)
        if units.shape[0] < n:
            units, shingles = np.empty(2 * n, np.uint64), np.empty(2 * n, np.uint32)
        if words:
            n_units = _word_hashes(buffer, n, units)
        else:
            n_units = n
            for i in range(n):
                units[i] = np.uint64(buffer[i])
        count[d] = _shingles(units, n_units, ngram, shingles)
        _minima(shingles, count[d], multiplier, shift, out[d])


def permutation_seeds(key: np.uint64, n: int) -> Words:
    """Random numbers that make permutations.

    Parameters
    ----------
    key
        From :func:`curation.rng.stream_key`.
    n
        Permutations, >= 1.

    Returns
    -------
    (n, 2)
        Multiplier a and shift b of each, uniform over 64 bits.
    """
    number = np.arange(n, dtype=np.uint64)
    return np.stack([random_bits(key, number), random_bits(key, number, word=1)], axis=1)


def minhash_signatures(
    offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    *,
    ngram: int,
    seeds: Words,
    unit: Unit = "word",
    normalize: Normalize = "aggressive",
) -> tuple[Codes, NDArray[np.int64]]:
    r"""Smallest shingle of each text under each permutation.

    A shingle is ``ngram`` neighbouring words or characters of the normalised text, hashed to 32 bits x. A permutation
    is :math:`h(x) = ((a x + b) \bmod 2^{64}) \gg 32`, which is strongly universal from 32 to 32 bits, as
    (a x + b) mod p is: any two different x are mapped independently and uniformly. Two texts of Jaccard
    similarity s agree in one permutation with probability s.

    Parameters
    ----------
    offsets : (n + 1,)
        Ascending places in ``data``; text i is ``data[offsets[i]:offsets[i + 1]]`` [bytes].
    data : (m,)
        UTF-8. A byte that is none counts as the character of its number.
    ngram
        Units of a shingle, >= 1. A shorter text has one shingle, of all that is there.
    seeds : (p, 2)
        Multiplier and shift of each permutation, from :func:`permutation_seeds`.
    unit
        ``word``: runs of letters, digits and marks; ``char``: characters, for scripts without spaces.
    normalize
        What is not told apart, see :func:`normalized`.

    Returns
    -------
    signatures : (n, p)
        Minima; 2^32 - 1 for a text without shingles.
    n_shingles : (n,)
        Shingles of each text, repeats counted; 0 where nothing is left of it.

    Raises
    ------
    ValueError
        If ``ngram`` < 1, or offsets do not fit ``data``.

    Source
    ------
    Broder, "On the resemblance and containment of documents", 1997. Permutation: Dietzfelbinger, "Universal hashing
    and k-wise independent random variables via integer arithmetic without primes", STACS 1996, theorem 3.
    """
    if ngram < 1:
        raise ValueError(f"ngram: expected >= 1, got {ngram}; 5 words are usual")
    offsets, data = _checked(offsets, data)
    out = np.empty((len(offsets) - 1, len(seeds)), np.uint32)
    count = np.zeros(len(offsets) - 1, np.int64)
    multiplier, shift = np.ascontiguousarray(seeds[:, 0]), np.ascontiguousarray(seeds[:, 1])
    codes, more = _alphabet(unit, normalize)
    with np.errstate(over="ignore"):  # wrap-around is meant; only uncompiled kernels would warn
        _signatures(offsets, data, unit == "word", ngram, codes, more, multiplier, shift, out, count)
    return out, count


def normalized(text: str, normalize: Normalize, unit: Unit = "char") -> str:
    """What is compared of a text.

    ``none``: the text. ``whitespace``: each run of white space is one space, none at the ends. ``aggressive``:
    compatibility forms are decomposed (NFKD; syllables of Hangul stay whole), case is folded, accents (marks of a
    combining class above 0) and format characters vanish, digits of any script become 0 .. 9, and each run of what is
    no letter, number or mark is one space, none at the ends. With ``unit="word"`` such runs are one space always.

    Parameters
    ----------
    text
        Any text.
    normalize, unit
        As in :func:`minhash_signatures`.

    Returns
    -------
    str
        The normalised text.

    Examples
    --------
    >>> normalized("  Ça, c'est ½ MÈTRE (n. 3)!", "aggressive")
    'ca c est 1 2 metre n 3'
    """
    data = np.frombuffer(text.encode(), np.uint8)
    buffer = np.empty(8 * len(data) + _ROOM, np.uint32)
    n = _spelled(data, 0, len(data), *_alphabet(unit, normalize), buffer)
    return "".join(map(chr, buffer[:n].tolist()))


@njit()
def _keys(offsets: NDArray[np.int64], data: NDArray[np.uint8], codes: Codes, more: Codes, out: Words) -> None:
    buffer = np.empty(1024, np.uint32)
    for d in range(offsets.shape[0] - 1):
        n = _spelled(data, offsets[d], offsets[d + 1], codes, more, buffer)
        while n < 0:
            buffer = np.empty(2 * (buffer.shape[0] + offsets[d + 1] - offsets[d]), np.uint32)
            n = _spelled(data, offsets[d], offsets[d + 1], codes, more, buffer)
        h0, h1 = _SEED ^ np.uint64(n), _A ^ np.uint64(n)
        for i in range(n):
            word = np.uint64(buffer[i])
            h0 = _step(h0, word)
            h1 = h1 ^ (word * _C)
            h1 = ((h1 << _HALF) | (h1 >> _HALF)) * _D
        out[d, 0] = mixed(h0)
        out[d, 1] = mixed(h1)


def text_keys(offsets: NDArray[np.int64], data: NDArray[np.uint8], normalize: Normalize) -> Words:
    """128-bit keys of normalised texts: equal for texts of which the same is left.

    Parameters
    ----------
    offsets : (n + 1,)
        Ascending places in ``data`` [bytes].
    data : (m,)
        UTF-8.
    normalize
        See :func:`normalized`.

    Returns
    -------
    (n, 2)
        Two lanes of 64 bits that are hashed apart.

    Raises
    ------
    ValueError
        If offsets do not fit ``data``.
    """
    offsets, data = _checked(offsets, data)
    out = np.empty((len(offsets) - 1, 2), np.uint64)
    with np.errstate(over="ignore"):
        _keys(offsets, data, *_alphabet("char", normalize), out)
    return out


def _checked(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    if (
        offsets.ndim != 1
        or offsets.size < 1
        or offsets[0] < 0
        or offsets[-1] > data.size
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError(f"offsets: expected ascending places in 0 .. {data.size}, got others; pass n + 1 of n texts")
    return np.ascontiguousarray(offsets, np.int64), np.ascontiguousarray(data, np.uint8)


# ---- bands


@njit()
def _bands(signatures: Codes, rows: int, group: Words, out: Words) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            h = _step(_SEED, np.uint64(j))
            if group.shape[0] > 0:
                h = _step(h, group[i])
            for r in range(j * rows, (j + 1) * rows):
                h = _step(h, np.uint64(signatures[i, r]))
            out[i, j] = mixed(h)


def band_hashes(signatures: Codes, *, bands: int, group: Words | None = None) -> Words:
    """One hash for each band of a signature; rows whose hashes of a band are equal are linked.

    Parameters
    ----------
    signatures : (n, bands * rows)
        From :func:`minhash_signatures`.
    bands
        Bands, >= 1; their number divides the width of the signatures.
    group : (n,)
        Numbers (hashes) of groups: rows of different groups share no band.

    Returns
    -------
    (n, bands)
        Hashes; different bands give unrelated ones.

    Raises
    ------
    ValueError
        If the width is no multiple of ``bands``.
    """
    width = signatures.shape[1]
    if bands < 1 or width % bands:
        raise ValueError(f"bands: expected a divisor of {width} (the width of the signatures), got {bands}")
    out = np.empty((len(signatures), bands), np.uint64)
    groups = np.zeros(0, np.uint64) if group is None else group
    with np.errstate(over="ignore"):
        _bands(np.ascontiguousarray(signatures), width // bands, groups, out)
    return out


def collision_probability(similarity: float | NDArray[np.float64], *, bands: int, rows: int) -> NDArray[np.float64]:
    r"""Probability that two texts share a band, :math:`1 - (1 - s^r)^b`.

    Parameters
    ----------
    similarity
        Jaccard similarity s of their sets of shingles, 0 .. 1 [-].
    bands, rows
        b bands of r rows.

    Returns
    -------
    ndarray
        Probability [-] for each similarity.

    Examples
    --------
    >>> collision_probability(np.array([0.5, 0.7, 0.8, 0.9]), bands=14, rows=8).round(3).tolist()
    [0.053, 0.565, 0.924, 1.0]
    """
    shared: NDArray[np.float64] = 1.0 - (1.0 - np.asarray(similarity, np.float64) ** rows) ** bands
    return shared


# ---- links


def link_bands(band: Words, node: NDArray[np.int64]) -> Edges:
    """Links from every node to the smallest one with the same hash.

    Parameters
    ----------
    band : (n,)
        Hashes of one band, or of several (those of different bands are unrelated).
    node : (n,)
        Number of the row that has the hash, >= 0.

    Returns
    -------
    (m, 2)
        Pairs (node, smallest node), by ascending hash; none for hashes that are there once.
    """
    order = np.argsort(band, kind="stable")
    band, node = band[order], node[order]
    first = np.flatnonzero(np.append(True, band[1:] != band[:-1])[: len(band)])
    smallest = np.repeat(np.minimum.reduceat(node, first) if len(first) else node, np.diff(first, append=len(band)))
    linked = node != smallest
    return np.stack([node[linked], smallest[linked]], axis=1).astype(np.int64, copy=False)


@njit()
def _root(parent: NDArray[np.int64], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]  # halves the path for whoever comes next
        node = parent[node]
    return node


@njit()
def _unite(edges: Edges, parent: NDArray[np.int64]) -> None:
    for e in range(edges.shape[0]):
        a, b = _root(parent, edges[e, 0]), _root(parent, edges[e, 1])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for node in range(parent.shape[0]):
        parent[node] = _root(parent, node)


def connected_components(edges: Edges, n_nodes: int) -> NDArray[np.int64]:
    """Smallest node of the component of each node.

    Number the nodes in the order in which they should survive, and the representative is the survivor. The result does
    not depend on the order of the edges.

    Parameters
    ----------
    edges : (m, 2)
        Pairs of nodes, 0 .. n_nodes - 1.
    n_nodes
        Nodes.

    Returns
    -------
    (n_nodes,)
        Representative of each node; its own number for a node without edges.

    Raises
    ------
    ValueError
        If an edge names a node that is not there.

    Source
    ------
    Union-find with path halving: Tarjan, van Leeuwen, "Worst-case analysis of set union algorithms", JACM 31 (1984);
    linking by number instead of rank, so that the root is the smallest node: O(log n) a step in the mean.
    """
    if edges.size and not (edges.min() >= 0 and edges.max() < n_nodes):
        raise ValueError(f"edges: expected nodes 0 .. {n_nodes - 1}, got others; number the nodes densely")
    parent = np.arange(n_nodes, dtype=np.int64)
    _unite(np.ascontiguousarray(edges, np.int64).reshape(-1, 2), parent)
    return parent
