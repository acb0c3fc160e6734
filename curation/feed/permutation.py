"""Keyed bijections of [0, n): a shuffle that is computed row by row instead of being stored."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from curation._jit import njit

ALGORITHM = "feistel8/1"
"""Name and version of the bijection; part of every key and of every plan's fingerprint."""

TABLE_MAX = 65_536
"""Up to this many rows the bijection is a stored shuffle: a cipher is measurably biased on tiny domains."""

N_MAX = 1 << 62
"""Largest domain: the two halves of the cipher then have at most 31 bits."""

_ALGORITHM_BYTES = ALGORITHM.encode()
_ROUNDS = 8
_BLOCK = 512  # positions enciphered in one branch-free sweep before the few that left [0, n) walk on
_CACHE_BYTES = 64 << 20

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_A = np.uint64(0xBF58476D1CE4E5B9)
_MUL_B = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_ONE, _WORD = np.uint64(1), np.uint64(64)


def derive_key(seed: int, *names: str | int) -> np.uint64:
    r"""Key of one purpose, addressed by name and never by sums of seeds.

    Parameters
    ----------
    seed
        Seed of the recipe, in [0, 2**64).
    *names
        What the key is for, outermost first, such as recipe name, purpose, group, pass. Integers count as
        their decimal text; text must not hold the NUL character, which separates the names.

    Returns
    -------
    np.uint64
        blake2b with an 8-byte digest, little endian, of ``ALGORITHM``, the seed (8 bytes, little endian) and
        the names in UTF-8, joined by NUL.

    Raises
    ------
    ValueError
        If the seed is out of range or a name holds NUL.

    Examples
    --------
    >>> hex(derive_key(7, "digits", "rows", 3))
    '0xd210bf5b4aeeb718'
    """
    text = "\0".join(map(str, names))
    if names and text.count("\0") != len(names) - 1:
        i = next(i for i, name in enumerate(names) if "\0" in str(name))
        raise ValueError(f"names[{i}]: expected no NUL character, got {names[i]!r}; encode the name, e.g. as JSON")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}; choose a smaller non-negative number")
    words = [_ALGORITHM_BYTES, seed.to_bytes(8, "little")]
    if names:
        words.append(text.encode())
    return np.uint64(int.from_bytes(blake2b(b"\0".join(words), digest_size=8).digest(), "little"))


def child_keys(keys: NDArray[np.uint64], numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys of numbered parts of named things, such as the passes over a group, many at once.

    Parameters
    ----------
    keys : (k,)
        Keys from `derive_key`.
    numbers : (k,)
        Number of the part, >= 0.

    Returns
    -------
    (k,)
        splitmix64 finaliser of (key xor finaliser of (number + 1) times the golden ratio): unlike sums of
        seeds, equal only by chance (2**-64) for different pairs.
    """
    inner = (numbers.astype(np.uint64) + _ONE) * _GOLDEN
    out: NDArray[np.uint64] = _mix_each(keys ^ _mix_each(inner))
    return out


class Permutation:
    """Bijection of [0, n) fixed by a key: no memory per row above ``TABLE_MAX`` rows, every position at once.

    Above ``TABLE_MAX`` rows it is an alternating unbalanced Feistel cipher on ceil(log2 n) bits: 8 rounds,
    each the splitmix64 finaliser of (half xor round key), of which the top bits are taken; results outside
    [0, n) are enciphered again until they fall inside (cycle walking, fewer than 2 rounds on average). Up to
    ``TABLE_MAX`` rows it is a keyed Fisher-Yates shuffle, 2 B per row, held in a cache of 64 MiB that all
    permutations share.

    Parameters
    ----------
    n
        Size of the domain [rows], in [0, 2**62].
    key
        Key from `derive_key`; another key gives an unrelated order.

    Raises
    ------
    ValueError
        If ``n`` is out of range.

    Source
    ------
    Black and Rogaway, Ciphers with Arbitrary Finite Domains (CT-RSA 2002), section 5 for cycle walking;
    Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators (OOPSLA 2014) for the finaliser.

    Examples
    --------
    >>> p = Permutation(5, derive_key(7, "demo"))
    >>> sorted(p.at(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """

    __slots__ = ("key", "n")

    def __init__(self, n: int, key: np.uint64 | int) -> None:
        if not 0 <= n <= N_MAX:
            raise ValueError(f"n: expected 0 <= n <= 2**62, got {n}; split the table")
        self.n = int(n)
        self.key = np.uint64(key)

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values at some positions of the shuffled domain.

        Parameters
        ----------
        positions : (k,)
            Positions in [0, n), any order, repeats allowed.

        Returns
        -------
        (k,)
            Values in [0, n); distinct positions give distinct values.

        Raises
        ------
        ValueError
            If a position is outside [0, n).
        """
        return self._map(positions, inverse=False)

    def inverse(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions at which some values stand: ``p.inverse(p.at(x)) == x``.

        Parameters
        ----------
        values : (k,)
            Values in [0, n).

        Returns
        -------
        (k,)
            Their positions in [0, n).

        Raises
        ------
        ValueError
            If a value is outside [0, n).
        """
        return self._map(values, inverse=True)

    def _map(self, x: NDArray[np.int64], *, inverse: bool) -> NDArray[np.int64]:
        x = np.ascontiguousarray(x, dtype=np.int64)
        _check_inside(x, self.n)
        if self.n <= TABLE_MAX:
            return _TABLES.get(self.n, self.key, inverse=inverse)[x].astype(np.int64)
        out = np.empty(x.shape[0], dtype=np.int64)
        with np.errstate(over="ignore"):  # wrap-around is meant; numpy warns of it when the kernels run uncompiled
            _feistel(x, out, np.int64(self.n), _round_keys(self.key), inverse)
        return out


def permute_runs(
    positions: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Apply many bijections at once, each to its own run of positions.

    Parameters
    ----------
    positions : (k,)
        Positions; those of run i lie in [0, sizes[i]).
    starts : (n_runs + 1,)
        Run i is ``positions[starts[i]:starts[i + 1]]``; increasing, from 0 to k.
    sizes : (n_runs,)
        Size of the domain of each run [rows].
    keys : (n_runs,)
        Key of each run.

    Returns
    -------
    (k,)
        ``Permutation(sizes[i], keys[i]).at(run i)``, run after run.
    """
    out = np.empty(positions.shape[0], dtype=np.int64)
    large = sizes > TABLE_MAX
    if large.any():
        with np.errstate(over="ignore"):
            _feistel_runs(positions, out, starts, sizes, keys, large)
    for i in np.flatnonzero(~large).tolist():
        run = slice(starts[i], starts[i + 1])
        n = int(sizes[i])
        out[run] = 0 if n == 1 else _TABLES.get(n, keys[i], inverse=False)[positions[run]]
    return out


def shuffled(n: int, key: np.uint64) -> NDArray[np.uint16]:
    """Whole keyed Fisher-Yates shuffle of [0, n), not cached.

    Parameters
    ----------
    n
        Size, in [0, ``TABLE_MAX``] [rows].
    key
        Key from `derive_key`.

    Returns
    -------
    (n,)
        The values in shuffled order.
    """
    with np.errstate(over="ignore"):
        table: NDArray[np.uint16] = _fisher_yates(n, key)
    return table


def _check_inside(x: NDArray[np.int64], n: int) -> None:
    if x.size and (x.min() < 0 or x.max() >= n):
        wrong = np.flatnonzero((x < 0) | (x >= n))[0]
        raise ValueError(f"positions[{wrong}]: expected 0 <= position < {n}, got {x[wrong]}; take it modulo n first")


class _Tables:
    """Shuffles of small domains, the most recently used ones, bounded in bytes and safe to share."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tables: OrderedDict[tuple[int, int, bool], NDArray[np.uint16]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, n: int, key: np.uint64, *, inverse: bool) -> NDArray[np.uint16]:
        name = (n, int(key), inverse)
        with self._lock:
            table = self._tables.get(name)
            if table is not None:
                self._tables.move_to_end(name)
                return table
        table = shuffled(n, key)
        if inverse:
            flipped = np.empty_like(table)
            flipped[table] = np.arange(n, dtype=np.uint16)
            table = flipped
        with self._lock:
            if name not in self._tables:
                self._tables[name] = table
                self._bytes += table.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


_TABLES = _Tables(_CACHE_BYTES)


def _mix_each(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> _S30)) * _MUL_A
    z = (z ^ (z >> _S27)) * _MUL_B
    return z ^ (z >> _S31)


@njit()
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> _S30)) * _MUL_A
    z = (z ^ (z >> _S27)) * _MUL_B
    return z ^ (z >> _S31)


@njit()
def _fisher_yates(n: int, key: np.uint64) -> NDArray[np.uint16]:
    table = np.empty(n, dtype=np.uint16)
    for i in range(n):
        table[i] = i
    state = key
    for i in range(n - 1, 0, -1):
        state = state + _GOLDEN
        # top 32 bits scaled to [0, i]: the bias is below 2**-16 of a cell and costs no division
        j = np.int64(((_mix(state) >> _S32) * np.uint64(i + 1)) >> _S32)
        table[i], table[j] = table[j], table[i]
    return table


@njit()
def _fill_round_keys(key: np.uint64, out: NDArray[np.uint64]) -> None:
    state = key
    for r in range(_ROUNDS):
        state = state + _GOLDEN
        out[r] = _mix(state)


def _round_keys(key: np.uint64) -> NDArray[np.uint64]:
    out = np.empty(_ROUNDS, dtype=np.uint64)
    _fill_round_keys(key, out)
    return out


@njit()
def _n_bits(n: np.int64) -> int:
    bits = 0
    while (np.int64(1) << bits) < n:
        bits += 1
    return bits


@njit(inline=True)
def _round(half: np.uint64, key: np.uint64, drop: np.uint64) -> np.uint64:
    z = half ^ key
    z = (z ^ (z >> _S30)) * _MUL_A
    # the finaliser's last step, z ^ (z >> 31), leaves the top 31 bits as they are, and no more are taken
    return ((z ^ (z >> _S27)) * _MUL_B) >> drop


@njit(inline=True)
def _encipher(
    x: np.uint64,
    keys: NDArray[np.uint64],
    low: np.uint64,
    mask: np.uint64,
    drop_a: np.uint64,
    drop_b: np.uint64,
) -> np.uint64:
    a, b = x >> low, x & mask
    a ^= _round(b, keys[0], drop_a)
    b ^= _round(a, keys[1], drop_b)
    a ^= _round(b, keys[2], drop_a)
    b ^= _round(a, keys[3], drop_b)
    a ^= _round(b, keys[4], drop_a)
    b ^= _round(a, keys[5], drop_b)
    a ^= _round(b, keys[6], drop_a)
    b ^= _round(a, keys[7], drop_b)
    return (a << low) | b


@njit(inline=True)
def _decipher(
    x: np.uint64,
    keys: NDArray[np.uint64],
    low: np.uint64,
    mask: np.uint64,
    drop_a: np.uint64,
    drop_b: np.uint64,
) -> np.uint64:
    a, b = x >> low, x & mask
    b ^= _round(a, keys[7], drop_b)
    a ^= _round(b, keys[6], drop_a)
    b ^= _round(a, keys[5], drop_b)
    a ^= _round(b, keys[4], drop_a)
    b ^= _round(a, keys[3], drop_b)
    a ^= _round(b, keys[2], drop_a)
    b ^= _round(a, keys[1], drop_b)
    a ^= _round(b, keys[0], drop_a)
    return (a << low) | b


@njit()
def _feistel(
    x: NDArray[np.int64], out: NDArray[np.int64], n: np.int64, keys: NDArray[np.uint64], inverse: bool
) -> None:
    bits = _n_bits(n)
    low = np.uint64((bits + 1) // 2)
    high = np.uint64(bits // 2)
    mask = (_ONE << low) - _ONE
    drop_a, drop_b = _WORD - high, _WORD - low
    outside = np.empty(_BLOCK, dtype=np.int64)
    for begin in range(0, x.shape[0], _BLOCK):
        end = min(begin + _BLOCK, x.shape[0])
        if inverse:
            for i in range(begin, end):
                out[i] = np.int64(_decipher(np.uint64(x[i]), keys, low, mask, drop_a, drop_b))
        else:
            for i in range(begin, end):
                out[i] = np.int64(_encipher(np.uint64(x[i]), keys, low, mask, drop_a, drop_b))
        n_outside = 0
        for i in range(begin, end):  # written always, counted only if outside: no branch to mispredict
            outside[n_outside] = i
            n_outside += int(out[i] >= n)
        while n_outside > 0:
            left = 0
            for k in range(n_outside):
                i = outside[k]
                y = np.uint64(out[i])
                if inverse:
                    y = _decipher(y, keys, low, mask, drop_a, drop_b)
                else:
                    y = _encipher(y, keys, low, mask, drop_a, drop_b)
                out[i] = np.int64(y)
                outside[left] = i
                left += int(out[i] >= n)
            n_outside = left


@njit()
def _feistel_runs(
    x: NDArray[np.int64],
    out: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    keys: NDArray[np.uint64],
    chosen: NDArray[np.bool_],
) -> None:
    round_keys = np.empty(_ROUNDS, dtype=np.uint64)
    for run in range(sizes.shape[0]):
        if chosen[run]:
            _fill_round_keys(keys[run], round_keys)
            begin, end = starts[run], starts[run + 1]
            _feistel(x[begin:end], out[begin:end], sizes[run], round_keys, False)
