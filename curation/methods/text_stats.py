"""Text stats measures texts by counts and shares that need no language: sizes, kinds of characters, repetition."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from curation._jit import njit
from curation.methods.base import Params
from curation.methods.names import checked_names

TextStat: TypeAlias = Literal[
    "chars",
    "words",
    "lines",
    "mean_word_chars",
    "alpha_share",
    "digit_share",
    "punct_share",
    "upper_share",
    "space_share",
    "non_ascii_share",
    "unique_word_share",
    "duplicate_line_share",
    "duplicate_line_char_share",
    "top_2gram_char_share",
    "top_3gram_char_share",
    "top_4gram_char_share",
    "symbol_word_ratio",
    "ellipsis_line_share",
    "bullet_line_share",
    "longest_run",
    "duplicate_5gram_char_share",
    "duplicate_6gram_char_share",
    "duplicate_7gram_char_share",
    "duplicate_8gram_char_share",
    "duplicate_9gram_char_share",
    "duplicate_10gram_char_share",
]
ALL: tuple[TextStat, ...] = get_args(TextStat)
"""Every statistic, in the order in which columns are added."""
DEFAULT: tuple[TextStat, ...] = tuple(name for name in ALL if not name.startswith("duplicate_") or "line" in name)
"""All but the shares of duplicate n-grams."""


class TextStats(Params):
    """Options of ``use: text_stats``."""

    column: str = Field(description="column of text")
    stats: list[TextStat] | None = Field(
        default=None, min_length=1, description="statistics to add; default: all but duplicate_5gram .. 10gram"
    )
    prefix: str | None = Field(
        default=None, description="what the names of the new columns begin with; default: the column's name and '_'"
    )

    @field_validator("stats", mode="before")
    @classmethod
    def _known_and_once(cls, stats: Any) -> Any:
        return checked_names(stats, ALL)

    def names(self) -> dict[str, TextStat]:
        """Statistic by the name of the column it fills."""
        prefix = f"{self.column}_" if self.prefix is None else self.prefix
        return {f"{prefix}{name}": name for name in self.stats or DEFAULT}


(
    _CHARS,
    _WORDS,
    _LINES,
    _WORD_CHARS,
    _ALPHA,
    _LETTERS,
    _DIGITS,
    _PUNCT,
    _UPPER,
    _SPACES,
    _NON_ASCII,
    _FULL_LINES,
    _REPEATED_LINES,
    _REPEATED_LINE_CHARS,
    _SYMBOLS,
    _ELLIPSIS_LINES,
    _BULLET_LINES,
    _LONGEST_RUN,
) = range(18)
_GRAMS = 17  # the tally of n-grams stands at _GRAMS + n: distinct words for n = 1, then characters
_TOP = 4  # up to this n the most frequent n-gram counts, above it every repeated one
_LONGEST_GRAM = 10
_LONGEST_TEXT = (1 << 31) - 2  # counts within a text are held in 32 bits [bytes]
_TALLIES = _GRAMS + _LONGEST_GRAM + 1

_RATIOS: dict[TextStat, tuple[int, int]] = {
    "mean_word_chars": (_WORD_CHARS, _WORDS),
    "alpha_share": (_ALPHA, _CHARS),
    "digit_share": (_DIGITS, _CHARS),
    "punct_share": (_PUNCT, _CHARS),
    "upper_share": (_UPPER, _LETTERS),
    "space_share": (_SPACES, _CHARS),
    "non_ascii_share": (_NON_ASCII, _CHARS),
    "unique_word_share": (_GRAMS + 1, _WORDS),
    "duplicate_line_share": (_REPEATED_LINES, _FULL_LINES),
    "duplicate_line_char_share": (_REPEATED_LINE_CHARS, _WORD_CHARS),
    "top_2gram_char_share": (_GRAMS + 2, _WORD_CHARS),
    "top_3gram_char_share": (_GRAMS + 3, _WORD_CHARS),
    "top_4gram_char_share": (_GRAMS + 4, _WORD_CHARS),
    "symbol_word_ratio": (_SYMBOLS, _WORDS),
    "ellipsis_line_share": (_ELLIPSIS_LINES, _FULL_LINES),
    "bullet_line_share": (_BULLET_LINES, _FULL_LINES),
    "duplicate_5gram_char_share": (_GRAMS + 5, _WORD_CHARS),
    "duplicate_6gram_char_share": (_GRAMS + 6, _WORD_CHARS),
    "duplicate_7gram_char_share": (_GRAMS + 7, _WORD_CHARS),
    "duplicate_8gram_char_share": (_GRAMS + 8, _WORD_CHARS),
    "duplicate_9gram_char_share": (_GRAMS + 9, _WORD_CHARS),
    "duplicate_10gram_char_share": (_GRAMS + 10, _WORD_CHARS),
}
COUNTS: dict[TextStat, int] = {"chars": _CHARS, "words": _WORDS, "lines": _LINES, "longest_run": _LONGEST_RUN}
"""Statistics that are whole numbers."""

BULLETS = "\u2022\u2023\u2043\u25e6\u25aa\u25cf\u25a0*-"
"""Characters with which a line of a list begins."""

_SPACE, _LETTER, _MARK, _DIGIT, _PUNCTUATION, _CAPITAL, _BULLET = 1, 2, 4, 8, 16, 32, 64
_KINDS = {"L": _LETTER, "M": _MARK, "P": _PUNCTUATION, "S": _PUNCTUATION}
_NEWLINE, _HASH, _DOT, _ELLIPSIS, _REPLACEMENT = 0x0A, 0x23, 0x2E, 0x2026, np.int64(0xFFFD)

# Odd multipliers (FNV-1a, SplitMix64); a word is hashed by characters, an n-gram by the hashes of its words.
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_M0, _M1 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


def packed_texts(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts as bytes and offsets, as :func:`text_stats` takes them.

    Parameters
    ----------
    texts : (n,)
        Texts; a lone surrogate becomes ``?``.

    Returns
    -------
    tuple
        UTF-8 bytes of all texts one after the other, and the (n + 1,) offsets [bytes] between which each lies.
    """
    raw = [text.encode("utf-8", "replace") for text in texts]
    offsets = np.zeros(len(raw) + 1, np.int64)
    np.cumsum([len(each) for each in raw], out=offsets[1:])
    return np.frombuffer(b"".join(raw), np.uint8), offsets


def text_stats(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], stats: Sequence[TextStat] = DEFAULT
) -> dict[TextStat, NDArray[np.int64] | NDArray[np.float64]]:
    """Statistics of texts that lie one after the other in one array of bytes, as Arrow keeps them.

    Parameters
    ----------
    data : (n_bytes,)
        UTF-8; a byte that is no part of a character counts as one U+FFFD.
    offsets : (n + 1,)
        Ascending; text i is ``data[offsets[i]:offsets[i + 1]]`` [bytes].
    stats
        Names of :data:`ALL`; what they mean stands in ``cards/text_stats.md``.

    Returns
    -------
    dict
        (n,) per name, in the order of ``stats``: int64 for ``chars``, ``words``, ``lines`` and ``longest_run`` [1],
        float64 for the others [-]. What is divided by nothing is 0, so that all of an empty text is 0.

    Raises
    ------
    ValueError
        If the offsets do not ascend inside the data, a text has 2 GiB or more, or a name is not known.

    Source
    ------
    Rae et al. 2021, appendix A.1.1, for repetition and symbols (card: ``cards/text_stats.md``).
    """
    unknown = [name for name in stats if name not in ALL]
    if unknown:
        raise ValueError(f"stats: expected names of ALL, got {unknown[0]!r}; see cards/text_stats.md")
    if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets: expected n + 1 ascending numbers within 0 .. {len(data)}; end with the last byte")
    if len(offsets) > 1 and (longest := int(np.diff(offsets).max())) > _LONGEST_TEXT:
        raise ValueError(f"offsets: expected texts of at most {_LONGEST_TEXT} bytes, got {longest}; split the text")
    grams = [tally - _GRAMS for tally, _ in (_RATIOS[name] for name in stats if name in _RATIOS) if tally > _GRAMS]
    lines = any(name.startswith("duplicate_line") for name in stats)
    tallies = np.zeros((_TALLIES, len(offsets) - 1), np.int64)
    _tally(data, offsets, _classes(), max(grams, default=0), lines, tallies)
    return {name: _figure(name, tallies) for name in stats}


def _figure(name: TextStat, tallies: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.float64]:
    if name in COUNTS:
        count: NDArray[np.int64] = tallies[COUNTS[name]]
        return count
    above, below = (tallies[i] for i in _RATIOS[name])
    ratio = np.zeros(len(above), np.float64)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


@cache
def _classes() -> NDArray[np.uint8]:
    """Bits of every code point, shape (0x110000,): what kinds of character it is."""
    table = np.zeros(0x110000, np.uint8)
    for point in range(len(table)):
        kind = unicodedata.category(chr(point))
        bits = _KINDS.get(kind[0], 0) | (_DIGIT if kind == "Nd" else 0) | (_CAPITAL if kind in ("Lu", "Lt") else 0)
        table[point] = bits | (_SPACE if chr(point).isspace() else 0)
    table[[ord(each) for each in BULLETS]] |= _BULLET
    return table


@njit()
def _tally(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    classes: NDArray[np.uint8],
    longest_gram: int,
    lines: bool,
    tallies: NDArray[np.int64],
) -> None:
    most = 1
    for i in range(offsets.shape[0] - 1):
        most = max(most, _most_words(data, offsets[i], offsets[i + 1]))
    words, ends, breaks = _scratch(most)
    table = _table(most if lines or longest_gram > 0 else 1)
    row = np.zeros(tallies.shape[0], np.int64)
    for i in range(offsets.shape[0] - 1):
        row[:] = 0
        _scan(data, offsets[i], offsets[i + 1], classes, words, ends, breaks, row)
        if lines:
            _repeated_lines(words, ends, breaks, table, row)
        if longest_gram > 0:
            _repeated_grams(words, ends, longest_gram, table, row)
        tallies[:, i] = row


@njit()
def _most_words(data: NDArray[np.uint8], at: int, end: int) -> int:
    """Bound on the words of a text: bytes with which whitespace may begin, and one."""
    n = 1
    for i in range(at, end):
        byte = data[i]
        n += (byte <= 0x20) | (byte == 0xC2) | ((byte >= 0xE1) & (byte <= 0xE3))
    return n


@njit()
def _scratch(n: int) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]:
    """Of each word its hash and the non-space characters up to its end (after a 0); of each line the words so far."""
    return np.empty(n, np.uint64), np.zeros(n + 1, np.int32), np.empty(n + 1, np.int32)


@njit()
def _scan(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    classes: NDArray[np.uint8],
    words: NDArray[np.uint64],
    ends: NDArray[np.int32],
    breaks: NDArray[np.int32],
    row: NDArray[np.int64],
) -> None:
    """Go through one text: characters, words and lines."""
    n_chars = n_wide = n_letters = n_marks = n_digits = n_punct = n_upper = n_spaces = n_symbols = 0
    n_words = n_newlines = n_full = n_trailing = n_bullets = n_inside = longest = run = 0
    start = 0  # number of the first word of the line at hand
    last = np.int64(-1)
    inside = bullet = trailing = False
    h = _BASIS
    while at < end:
        size = 1
        point = np.int64(data[at])
        if point >= 0x80:
            point, size = _decoded(data, at, end)
            n_wide += 1
        at += size
        bits = classes[point]
        n_chars += 1
        n_letters += (bits >> 1) & 1
        n_marks += (bits >> 2) & 1
        n_digits += (bits >> 3) & 1
        n_punct += (bits >> 4) & 1
        n_upper += (bits >> 5) & 1
        if not bits & _SPACE:
            if not inside:
                inside = True
                h = _BASIS
                if n_words == start:
                    bullet = (bits & _BULLET) != 0
            h = (h ^ np.uint64(point)) * _PRIME
            n_inside += 1
        else:
            n_spaces += 1
            if inside:
                inside = False
                trailing = _is_ellipsis(last, run)
                words[n_words], ends[n_words + 1] = _mixed(h), n_inside
                n_words += 1
            if point == _NEWLINE:
                n_newlines += 1
                full = n_words > start
                n_trailing += trailing & full
                n_bullets += bullet & full
                breaks[n_full] = n_words  # overwritten by the next line if this one has no word
                n_full += full
                start = n_words
        run = run + 1 if point == last else 1
        longest = max(longest, run)
        last = point
        if bits & _PUNCTUATION:
            n_symbols += (point == _HASH) | (point == _ELLIPSIS) | ((point == _DOT) & (run % 3 == 0))
    if inside:
        trailing = _is_ellipsis(last, run)
        words[n_words], ends[n_words + 1] = _mixed(h), n_inside
        n_words += 1
    full = n_words > start
    breaks[n_full] = n_words
    row[_CHARS], row[_WORDS], row[_WORD_CHARS] = n_chars, n_words, n_inside
    row[_LINES] = n_newlines + ((n_chars > 0) & (last != _NEWLINE))
    row[_ALPHA], row[_LETTERS], row[_UPPER] = n_letters + n_marks, n_letters, n_upper
    row[_DIGITS], row[_PUNCT], row[_SPACES], row[_NON_ASCII] = n_digits, n_punct, n_spaces, n_wide
    row[_FULL_LINES] = n_full + full
    row[_ELLIPSIS_LINES], row[_BULLET_LINES] = n_trailing + (trailing & full), n_bullets + (bullet & full)
    row[_SYMBOLS], row[_LONGEST_RUN] = n_symbols, longest


@njit()
def _is_ellipsis(last: np.int64, run: int) -> bool:
    """Whether a word ends in one, by its last character and how often that came in a row."""
    return last == _ELLIPSIS or (last == _DOT and run >= 3)


@njit()
def _mixed(h: np.uint64) -> np.uint64:
    # Finaliser of SplitMix64: a bijection in which every input bit changes half of the output bits.
    h = (h ^ (h >> _S30)) * _M0
    h = (h ^ (h >> _S27)) * _M1
    return h ^ (h >> _S31)


@njit()
def _decoded(data: NDArray[np.uint8], at: int, end: int) -> tuple[np.int64, int]:
    """Code point of several bytes and their number; a byte out of place is U+FFFD."""
    lead = np.int64(data[at])
    size = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 0
    if size == 0 or at + size > end:
        return _REPLACEMENT, 1
    point = lead & (0x7F >> size)
    for k in range(1, size):
        byte = np.int64(data[at + k])
        if byte & 0xC0 != 0x80:
            return _REPLACEMENT, 1
        point = (point << 6) | (byte & 0x3F)
    if (
        point > 0x10FFFF
        or (size == 3 and (point < 0x800 or 0xD800 <= point < 0xE000))
        or (size == 4 and point < 0x10000)
    ):
        return _REPLACEMENT, 1
    return point, size


@njit()
def _table(n: int) -> tuple[NDArray[Any], ...]:
    """Scratch for a row of up to n words: keys, counts, ends and characters by slot; hashes, positions and slots."""
    size = _slots(n)
    return (
        np.empty(size, np.uint64),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(n, np.uint64),
        np.empty(n, np.int32),
        np.empty(n, np.int32),
    )


@njit()
def _slots(n: int) -> int:
    """Slots of a table for n keys: a power of 2, a third of them free."""
    size = 2
    while 2 * size < 3 * n:
        size *= 2
    return size


@njit()
def _slot(keys: NDArray[np.uint64], counts: NDArray[np.int32], mask: int, key: np.uint64) -> np.int64:
    """Count a key; returns its slot."""
    s = np.int64(key ^ (key >> _S32)) & np.int64(mask)
    while counts[s] != 0 and keys[s] != key:
        s = (s + 1) & np.int64(mask)
    keys[s] = key
    counts[s] += 1
    return s


@njit()
def _repeated_lines(
    words: NDArray[np.uint64],
    ends: NDArray[np.int32],
    breaks: NDArray[np.int32],
    table: tuple[NDArray[Any], ...],
    row: NDArray[np.int64],
) -> None:
    keys, counts = table[0], table[1]
    mask = _slots(row[_FULL_LINES]) - 1
    counts[: mask + 1] = 0
    begin = 0
    for k in range(row[_FULL_LINES]):
        h = _BASIS
        for i in range(begin, breaks[k]):
            h = h * _M0 + words[i]
        if counts[_slot(keys, counts, mask, h)] > 1:
            row[_REPEATED_LINES] += 1
            row[_REPEATED_LINE_CHARS] += ends[breaks[k]] - ends[begin]
        begin = breaks[k]


@njit()
def _repeated_grams(
    words: NDArray[np.uint64],
    ends: NDArray[np.int32],
    longest: int,
    table: tuple[NDArray[Any], ...],
    row: NDArray[np.int64],
) -> None:
    keys, counts, until, inside, gram, place, slot = table
    m = row[_WORDS]  # places at which an n-gram may be repeated: all, then those where both (n-1)-grams are
    gram[:m] = np.uint64(0)
    place[:m] = np.arange(m)
    for n in range(1, longest + 1):
        mask = _slots(m) - 1
        counts[: mask + 1] = 0
        best = most = covered = np.int64(0)
        for j in range(m):
            i = np.int64(place[j])
            gram[i] = gram[i] * _M0 + words[i + n - 1]
            s = _slot(keys, counts, mask, gram[i])
            slot[j] = s
            if n == 1:
                row[_GRAMS + 1] += counts[s] == 1
            elif n <= _TOP:
                if counts[s] == 1:
                    inside[s], until[s] = 0, i
                # What the occurrence before covers counts once.
                inside[s] += ends[i + n] - ends[until[s] if until[s] > i else i]
                until[s] = i + n
                if counts[s] > max(best, np.int64(1)) or (counts[s] == best and inside[s] > most):
                    best, most = np.int64(counts[s]), inside[s]
            elif counts[s] > 1:
                row[_GRAMS + n] += ends[i + n] - ends[covered if covered > i else i]
                covered = np.int64(i + n)
        if 1 < n <= _TOP:
            row[_GRAMS + n] = most
        m = _still_possible(place, slot, counts, m)


@njit()
def _still_possible(place: NDArray[np.int32], slot: NDArray[np.int32], counts: NDArray[np.int32], m: int) -> int:
    """Keep the places where the n-gram and the one that begins a word later are both repeated; their number."""
    kept = 0
    for j in range(m - 1):
        if place[j + 1] == place[j] + 1 and counts[slot[j]] > 1 and counts[slot[j + 1]] > 1:
            place[kept] = place[j]
            kept += 1
    return kept
