from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from scipy.sparse import csgraph

from curation.methods.minhash import (
    band_hashes,
    collision_probability,
    connected_components,
    link_bands,
    minhash_signatures,
    normalized,
    permutation_seeds,
    text_buffers,
    text_keys,
)
from curation.rng import stream_key

IDENTITY = np.array([[1 << 32, 0]], np.uint64)  # ((2^32 x) mod 2^64) >> 32 = x
MODES = ("none", "whitespace", "aggressive")


def seeds_of(n, seed=0):
    return permutation_seeds(stream_key(seed, "dedup", "minhash"), n)


def signed(texts, *, ngram=3, seeds=IDENTITY, **options):
    return minhash_signatures(*text_buffers(pa.array(texts, pa.string())), ngram=ngram, seeds=seeds, **options)


def pairs(n, common, own, seed):
    """Texts 2i and 2i + 1 share ``common`` words, and each has ``own`` of its own; all others are different."""
    width = common + 2 * own
    number = np.random.default_rng(seed).permutation(n * width).astype(np.int64).reshape(n, width)
    both = np.stack([number[:, : common + own], np.delete(number, np.s_[common : common + own], axis=1)], axis=1)
    letters = 97 + (both[..., None] // 26 ** np.arange(6)) % 26
    data = np.concatenate([letters, np.full((*both.shape, 1), 32)], axis=-1).astype(np.uint8).ravel()
    return np.arange(2 * n + 1, dtype=np.int64) * 7 * (common + own), data


# ---- text


def simplified(text):
    """The same by other means: over the whole text, with a regular expression."""

    def decomposed(some):
        return "".join(c if "\uac00" <= c <= "\ud7a3" else unicodedata.normalize("NFKD", c) for c in some)

    text = decomposed(text)
    for _ in range(2):
        text = decomposed(text.casefold())
    kept = []
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Cf" or unicodedata.combining(c):
            continue
        kept.append(str(unicodedata.decimal(c)) if kind == "Nd" else c if kind[0] in "LNM" else " ")
    return re.sub(" +", " ", "".join(kept)).strip(" ")


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_normalized__aggressive_is_what_it_says(text):
    assert normalized(text, "aggressive") == simplified(text)


@settings(deadline=None)
@given(st.text())
def test_normalized__whitespace_and_none_are_what_they_say(text):
    assert normalized(text, "whitespace") == " ".join(text.split())
    assert normalized(text, "none") == text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_normalized__accents_do_not_depend_on_how_they_are_composed(form):
    assert normalized(unicodedata.normalize(form, "Ça, où Ệ İ"), "aggressive") == "ca ou e i"


def test_text_keys__of_text_that_grows_beyond_its_bytes():
    texts = ["\ufdfa" * 2000, simplified("\ufdfa" * 2000)]  # one ligature of 3 bytes stands for 18 characters
    keys = text_keys(*text_buffers(pa.array(texts)), "aggressive")
    np.testing.assert_array_equal(keys[0], keys[1])


@settings(deadline=None)
@given(st.lists(st.text(alphabet=" aAÁé.1\u0661", max_size=6), max_size=8), st.sampled_from(MODES))
def test_text_keys__are_equal_for_texts_of_which_the_same_is_left(texts, mode):
    keys = [tuple(key) for key in text_keys(*text_buffers(pa.array(texts, pa.string())), mode).tolist()]
    left = [normalized(text, mode) for text in texts]
    assert [[a == b for b in keys] for a in keys] == [[a == b for b in left] for a in left]


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xf0\x9f", b"\xf7\xbf\xbf\xbf", b"\x80 b"])
def test_signatures__of_bytes_that_are_no_utf8_stay_inside_them(raw):
    data = np.frombuffer(raw + b" beyond the end", np.uint8)
    alone = np.frombuffer(raw, np.uint8)
    ends = np.array([0, len(raw)])
    inside, _ = minhash_signatures(ends, data, ngram=1, seeds=seeds_of(8))
    np.testing.assert_array_equal(inside, minhash_signatures(ends, alone, ngram=1, seeds=seeds_of(8))[0])


@pytest.mark.parametrize(
    "layout",
    [
        lambda a: a.cast(pa.large_string()),
        lambda a: a.cast(pa.string_view()),
        lambda a: a.dictionary_encode(),
        lambda a: pa.chunked_array([a.slice(0, 1), a.slice(1)]),
        lambda a: pa.concat_arrays([pa.array(["x"]), a]).slice(1),
    ],
)
def test_text_buffers__hold_the_same_text_in_any_layout(layout):
    offsets, data = text_buffers(layout(pa.array(["ab", None, "", "é"])))
    assert [bytes(data[a:b]).decode() for a, b in pairwise(offsets)] == ["ab", "", "", "é"]


# ---- signatures


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=9), st.integers(1, 4), st.sampled_from(["word", "char"]))
def test_signatures__are_the_minima_over_the_set_of_shingles(units, ngram, unit):
    join = " ".join if unit == "word" else "".join
    size = min(ngram, len(units))
    shingles = {join(units[i : i + size]) for i in range(len(units) - size + 1)} if units else set()
    seeds = seeds_of(5)
    found, count = signed([join(units)], ngram=ngram, seeds=seeds, unit=unit)
    x = [int(each[0]) for each in signed(sorted(shingles), ngram=ngram, unit=unit)[0]]
    expected = [min([((int(a) * each + int(b)) % 2**64) >> 32 for each in x], default=2**32 - 1) for a, b in seeds]
    assert found[0].tolist() == expected
    assert count[0] == (len(units) - size + 1 if units else 0)


def test_signatures__tell_shingles_apart_by_order_and_by_where_words_end():
    texts = ["a b c", "c b a", "ab c", "a bc", "abc", "a b", "a b c d"]
    found, _ = signed(texts, ngram=4)
    assert len(np.unique(found)) == len(texts)


def test_signatures__of_short_text_are_one_shingle_and_of_no_text_none():
    found, count = signed(["One, two", "one two", "one", "", " -- "], ngram=5)
    assert count.tolist() == [1, 1, 1, 0, 0]
    assert found[0] == found[1] != found[2]
    assert found[3] == found[4] == 2**32 - 1


def test_signatures__do_not_depend_on_neighbouring_texts():
    offsets, data = pairs(50, 10, 5, seed=0)
    whole, _ = minhash_signatures(offsets, data, ngram=2, seeds=seeds_of(20))
    part, _ = minhash_signatures(offsets[30:41], data, ngram=2, seeds=seeds_of(20))
    np.testing.assert_array_equal(whole[30:40], part)


def test_signatures__of_one_long_text_among_short_ones():
    long = " ".join(map(str, range(20_000)))
    found, count = signed(["a b c", long, "a b c"], ngram=3, seeds=seeds_of(4))
    assert count.tolist() == [1, 19_998, 1]
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("ngram", "offsets", "match"),
    [
        (0, [0, 2], "ngram: expected >= 1, got 0"),
        (1, [0, 5], r"offsets: expected ascending places in 0 .. 4"),
        (1, [2, 0], r"offsets: expected ascending places in 0 .. 4"),
    ],
)
def test_signatures__refuse_what_they_cannot_read(ngram, offsets, match):
    with pytest.raises(ValueError, match=match):
        minhash_signatures(np.array(offsets), np.zeros(4, np.uint8), ngram=ngram, seeds=IDENTITY)


def agreement_p(common, own, seed, *, forgotten=0, n=20_000):
    """Chance of so many agreeing minima, if each agrees with the probability of the Jaccard similarity."""
    offsets, data = pairs(n, common, own, seed)
    for word in range(forgotten):  # what a kernel would see that leaves out the last words
        data[(offsets[1:, None] - 7 * (word + 1) + np.arange(7)).ravel()] = ord(" ")
    found, _ = minhash_signatures(offsets, data, ngram=1, seeds=seeds_of(20, seed))
    agree = int((found[::2] == found[1::2]).sum())
    return stats.binomtest(agree, n * 20, common / (common + 2 * own)).pvalue


@pytest.mark.parametrize(("common", "own"), [(1, 10), (6, 7), (14, 3), (30, 1)])
@pytest.mark.parametrize("seed", range(2))
def test_signatures__agree_as_often_as_shingles_are_shared(common, own, seed):
    assert agreement_p(common, own, seed) > 1e-4


def test_signatures__the_test_catches_one_of_50_shingles_that_is_left_out():
    assert agreement_p(40, 10, 0) > 1e-4
    assert agreement_p(40, 10, 0, forgotten=1) < 1e-4  # 40 / 58 instead of 40 / 60: 30 standard deviations


@pytest.mark.parametrize(("common", "own"), [(50, 50), (80, 20), (95, 5)])
def test_signatures__estimate_the_jaccard_similarity_as_datasketch_does(common, own):
    n, exact = 512, common / (common + 2 * own)
    offsets, data = pairs(1, common, own, seed=3)
    found, _ = minhash_signatures(offsets, data, ngram=1, seeds=seeds_of(n))
    theirs = [MinHash(num_perm=n, seed=1), MinHash(num_perm=n, seed=1)]
    for each, (a, b) in zip(theirs, pairwise(offsets), strict=True):
        each.update_batch(bytes(data[a:b]).split())
    bound = 4 * np.sqrt(exact * (1 - exact) / n)  # both are binomial around the exact value
    assert (found[0] == found[1]).mean() == pytest.approx(exact, abs=bound)
    assert theirs[0].jaccard(theirs[1]) == pytest.approx(exact, abs=bound)


# ---- bands


def collision_p(seeds, seed, n=150_000):
    """Chance of so many linked pairs of similarity 0.7, if 14 bands of 8 rows follow the curve."""
    found, _ = minhash_signatures(*pairs(n, 14, 3, seed), ngram=1, seeds=seeds)
    hashes = band_hashes(found, bands=14)
    linked = int((hashes[::2] == hashes[1::2]).any(axis=1).sum())
    return stats.binomtest(linked, n, float(collision_probability(0.7, bands=14, rows=8))).pvalue


@pytest.mark.parametrize("seed", range(2))
def test_bands__link_pairs_by_the_s_curve(seed):
    assert collision_p(seeds_of(112, seed), seed) > 1e-4


def test_bands__the_test_catches_one_permutation_of_112_that_is_repeated():
    # 0.575 instead of 0.564 of the pairs: 8.8 standard deviations; found with probability 1 - 1e-6.
    seeds = seeds_of(112)
    seeds[1] = seeds[0]
    assert collision_p(seeds, 0) < 1e-4


def test_band_hashes__are_equal_where_all_rows_of_the_band_are():
    signatures = np.array([[1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 3, 4], [3, 4, 1, 2]], np.uint32)
    hashes = band_hashes(signatures, bands=2)
    assert (hashes[0] == hashes).tolist() == [[True, True], [True, False], [False, True], [False, False]]
    assert len(np.unique(hashes)) == 6  # nor does a band equal another band


def test_band_hashes__keep_groups_apart():
    hashes = band_hashes(np.ones((3, 4), np.uint32), bands=2, group=np.array([7, 8, 7], np.uint64))
    assert (hashes[0] == hashes).all(axis=1).tolist() == [True, False, True]


def test_band_hashes__refuse_bands_that_do_not_fit():
    with pytest.raises(ValueError, match=r"bands: expected a divisor of 4 .* got 3"):
        band_hashes(np.ones((3, 4), np.uint32), bands=3)


# ---- links


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=40))
def test_link_bands__links_each_node_to_the_smallest_of_its_hash(rows):
    smallest = {h: min(node for other, node in rows if other == h) for h, _ in rows}
    expected = sorted((h, node) for h, node in rows if node != smallest[h])
    band, node = np.array([h for h, _ in rows], np.uint64), np.array([node for _, node in rows], np.int64)
    assert sorted(map(tuple, link_bands(band, node).tolist())) == sorted((node, smallest[h]) for h, node in expected)


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_components__parity_with_scipy(n, data):
    node = st.integers(0, n - 1)
    edges = np.array(data.draw(st.lists(st.tuples(node, node), max_size=40)), np.int64).reshape(-1, 2)
    graph = sparse.coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, label = csgraph.connected_components(graph, directed=False)
    expected = [int(np.flatnonzero(label == each)[0]) for each in label]
    assert connected_components(edges, n).tolist() == expected


def test_components__of_a_long_chain_in_the_worst_order():
    n = 100_000
    chain = np.stack([np.arange(1, n), np.arange(n - 1)], axis=1)[::-1]
    assert not connected_components(chain, n).any()


def test_components__refuse_nodes_that_are_not_there():
    with pytest.raises(ValueError, match=r"edges: expected nodes 0 .. 2"):
        connected_components(np.array([[0, 3]]), 3)
