"""Statistics of texts, against the definitions written out in plain Python over all of Unicode."""

import unicodedata
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.methods.text_stats import ALL, BULLETS, DEFAULT, TextStats, packed_texts, text_stats

PIECES = [
    "a",
    "b",
    "the",
    "Über",
    "...",
    "…",
    "#",
    "- ",
    "\u2022 ",
    " ",
    "\n",
    "\t",
    "\u3000",
    "\u0967",
    "\u0915\u093f",
    "😀",
]
characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
repetitive = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)
sentences = st.lists(st.sampled_from(["aa ", "b ", "ccc ", "\n"]), max_size=60).map("".join)
texts = st.lists(st.one_of(characters, repetitive, sentences), max_size=6)


def ratio(above, below):
    return above / below if below else 0.0


def covered(words, n, starts):
    """Characters of the words in n-grams that begin at ``starts``, each counted once."""
    return sum(len(words[i]) for i in {i for s in starts for i in range(s, s + n)})


def top(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    found = [
        (count, covered(words, n, [i for i, g in enumerate(grams) if g == gram]))
        for gram, count in Counter(grams).items()
    ]
    return max((each for each in found if each[0] > 1), default=(0, 0))[1]


def repeated(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return covered(words, n, [i for i, gram in enumerate(grams) if gram in grams[:i]])


def plain(text):
    """Every statistic of one text, by its definition."""
    kinds = [unicodedata.category(c) for c in text]
    words = text.split()
    within = sum(map(len, words))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    as_words = [line.split() for line in lines]
    again = [line for i, line in enumerate(as_words) if line in as_words[:i]]
    letters = sum(k[0] == "L" for k in kinds)
    return {
        "chars": len(text),
        "words": len(words),
        "lines": text.count("\n") + (not text.endswith("\n") and text != ""),
        "mean_word_chars": ratio(within, len(words)),
        "alpha_share": ratio(sum(k[0] in "LM" for k in kinds), len(text)),
        "digit_share": ratio(kinds.count("Nd"), len(text)),
        "punct_share": ratio(sum(k[0] in "PS" for k in kinds), len(text)),
        "upper_share": ratio(sum(k in ("Lu", "Lt") for k in kinds), letters),
        "space_share": ratio(sum(map(str.isspace, text)), len(text)),
        "non_ascii_share": ratio(sum(c > "\x7f" for c in text), len(text)),
        "unique_word_share": ratio(len(set(words)), len(words)),
        "duplicate_line_share": ratio(len(again), len(lines)),
        "duplicate_line_char_share": ratio(sum(len(word) for line in again for word in line), within),
        **{f"top_{n}gram_char_share": ratio(top(words, n), within) for n in (2, 3, 4)},
        "symbol_word_ratio": ratio(text.count("#") + text.count("...") + text.count("…"), len(words)),
        "ellipsis_line_share": ratio(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        "bullet_line_share": ratio(sum(line.startswith(tuple(BULLETS)) for line in lines), len(lines)),
        "longest_run": max((len(list(run)) for _, run in groupby(text)), default=0),
        **{f"duplicate_{n}gram_char_share": ratio(repeated(words, n), within) for n in range(5, 11)},
    }


def measured(text, stats=ALL):
    return {name: values[0].item() for name, values in text_stats(*packed_texts([text]), stats).items()}


@settings(deadline=None, max_examples=300)
@given(texts)
def test_text_stats__parity_with_the_definitions(many):
    found = text_stats(*packed_texts(many), ALL)
    assert [{name: values[i].item() for name, values in found.items()} for i in range(len(many))] == [
        plain(text) for text in many
    ]


def test_text_stats__parity_of_every_code_point():
    many = [f"a{chr(c)}b" for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    found = text_stats(*packed_texts(many), ["chars", "words", "lines", "alpha_share"])
    assert (found["chars"] == 3).all()
    assert found["words"].tolist() == [len(text.split()) for text in many]
    assert found["lines"].sum() == len(many) + 1
    kinds = [unicodedata.category(text[1])[0] in "LM" for text in many]
    np.testing.assert_array_equal(found["alpha_share"], np.where(kinds, 1.0, 2 / 3))


@pytest.mark.parametrize("space", [c for c in map(chr, range(0x110000)) if c.isspace()])
def test_text_stats__of_many_words_apart_by_any_whitespace(space):
    found = measured(f"a{space}" * 3000, ["words", "unique_word_share", "top_4gram_char_share"])
    assert found == {"words": 3000, "unique_word_share": 1 / 3000, "top_4gram_char_share": 1.0}


@pytest.mark.parametrize("text", ["", " ", "\n \n"])
def test_text_stats__of_no_words_have_no_words_to_divide_by(text):
    found = measured(text)
    assert found.pop("space_share") == (len(text) > 0)
    assert all(found[name] == 0 for name in ALL if name.endswith(("share", "ratio")) and name in found)


def test_text_stats__of_nothing_are_empty():
    assert {name: len(values) for name, values in text_stats(*packed_texts([])).items()} == dict.fromkeys(DEFAULT, 0)


def test_text_stats__do_not_depend_on_what_else_is_asked():
    text = "one two three one two three one two three four five six seven\n- b\n- b\n" * 3
    for name in ALL:
        assert measured(text, [name]) == {name: measured(text)[name]}


def test_text_stats__of_a_long_text_after_a_short_one():
    many = ["a b a b", "w " * 5000 + "end " + "w " * 20_000, "a b a b"]
    found = text_stats(*packed_texts(many), ["words", "top_2gram_char_share", "duplicate_5gram_char_share"])
    assert found["words"].tolist() == [4, 25_001, 4]
    assert found["top_2gram_char_share"].tolist() == [1.0, 25_000 / 25_003, 1.0]
    assert found["duplicate_5gram_char_share"][1] == pytest.approx((25_000 - 1) / 25_003)


def test_top_ngram__covers_a_character_once_where_occurrences_overlap():
    assert measured("la la la la end")["top_2gram_char_share"] == 8 / 11


def test_top_ngram__of_words_that_do_not_repeat_is_none():
    assert measured("all of these words differ")["top_2gram_char_share"] == 0


def test_duplicate_line__is_compared_by_its_words():
    assert measured("x  y\n  x y\nz")["duplicate_line_share"] == 1 / 3


def by_force(raw):
    """Text of bytes, U+FFFD for each that is no part of a character."""
    if not raw:
        return ""
    for size in range(1, 5):
        try:
            return raw[:size].decode() + by_force(raw[size:])
        except UnicodeDecodeError:
            pass
    return "\ufffd" + by_force(raw[1:])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC2, 0xE0, 0xA0, 0xED, 0xEF, 0xF0, 0x90, 0xF4, 0xF5])))
def test_text_stats__of_broken_utf8_count_each_byte_out_of_place(values):
    raw = bytes(values)
    data = np.frombuffer(raw + b"\x80\x80\x80", np.uint8)  # what follows belongs to another text
    found = text_stats(data, np.array([0, len(raw)]), ALL)
    assert {name: values[0].item() for name, values in found.items()} == plain(by_force(raw))


@pytest.mark.parametrize("offsets", [[], [0, 4], [2, 1], [-1, 2]])
def test_text_stats__refuses_offsets_outside_of_the_data(offsets):
    with pytest.raises(ValueError, match="ascending numbers within 0"):
        text_stats(np.zeros(3, np.uint8), np.array(offsets, np.int64))


def test_text_stats__refuses_an_unknown_name():
    with pytest.raises(ValueError, match="expected names of ALL, got 'bytes'"):
        text_stats(*packed_texts(["a"]), ["bytes"])  # type: ignore[list-item]


def test_text_stats__names_begin_with_the_column_or_the_prefix():
    assert TextStats(column="t", stats=["words", "chars"]).names() == {"t_words": "words", "t_chars": "chars"}
    assert TextStats(column="t", prefix="", stats=["words"]).names() == {"words": "words"}
    assert list(TextStats(column="t").names()) == [f"t_{name}" for name in DEFAULT]


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ([], "at least 1 item"),
        (["words"] * 2, "'words' twice"),
        (["word"], "no name 'word'; did you mean 'words'"),
        (["x"], "there are chars, words"),
        ([1], "should be"),
    ],
)
def test_text_stats__refuses_bad_lists(stats, message):
    with pytest.raises(ValidationError, match=message):
        TextStats(column="t", stats=stats)
