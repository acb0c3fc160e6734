from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curation.rng import bits_at, philox4x32, random_bits, stream_key, uniform, uniform_at

KEY = np.uint64(42)
words = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox__gives_the_known_answers(counter, key, block):
    words = [np.array([int(w, 16) for w in text.split()], np.uint32) for text in (counter, key, block)]
    np.testing.assert_array_equal(philox4x32(words[0][None], words[1]), words[2][None])


def test_uniform__gives_the_known_answers():
    expected = [0.010058844724, 0.128899647387, 0.212787656375, 0.119350896608]
    np.testing.assert_allclose(uniform(KEY, np.arange(4), stream=1), expected, atol=5e-13)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=70), words, words)
def test_random_bits__are_the_block_of_their_counter(key, row_id, stream, word):
    counter = np.array([[r & 0xFFFFFFFF, r >> 32, stream, word] for r in row_id], np.uint32)
    block = philox4x32(counter, np.array([key & 0xFFFFFFFF, key >> 32], np.uint32)).astype(np.uint64)
    bits = random_bits(np.uint64(key), np.array(row_id, np.uint64), stream=stream, word=word)
    np.testing.assert_array_equal(bits, block[:, 0] << np.uint64(32) | block[:, 1])


def test_scalar_kernels__agree_with_the_vectorised_call():
    ids = np.array([0, 5, 2**40 + 3, 2**64 - 1], np.uint64)
    three, two = np.uint64(3), np.uint64(2)
    np.testing.assert_array_equal([bits_at(KEY, i, three, two) for i in ids], random_bits(KEY, ids, stream=3, word=2))
    np.testing.assert_array_equal([uniform_at(KEY, i, three, two) for i in ids], uniform(KEY, ids, stream=3, word=2))


@settings(deadline=None)
@given(st.permutations(range(130)), st.integers(1, 129))
def test_draws__do_not_depend_on_order_or_batching(order, cut):
    ids = np.array(order, np.uint64)
    whole = uniform(KEY, np.arange(130), stream=np.arange(130))
    parts = [uniform(KEY, part, stream=part) for part in (ids[:cut], ids[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


def test_stream__scalar_equals_array():
    ids = np.arange(100)
    np.testing.assert_array_equal(uniform(KEY, ids, stream=7), uniform(KEY, ids, stream=np.full(100, 7)))


def test_stream_key__is_the_documented_digest():
    data = b"curation/1\0" + (7).to_bytes(8, "little") + b"\0rare\0draws"
    assert int(stream_key(7, "rare", "draws")) == int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
    assert isinstance(stream_key(7, "rare", "draws"), np.uint64)


def test_stream_key__differs_by_seed_stage_and_purpose():
    keys = {int(stream_key(s, a, b)) for s in (0, 1) for a in ("x", "xy") for b in ("y", "yy")}
    assert len(keys) == 8


@pytest.mark.parametrize("seed", range(3))
def test_uniform__is_uniform(seed):
    u = uniform(stream_key(seed, "t", "ks"), np.arange(100_000))
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert u.min() >= 0.0
    assert u.max() < 1.0


def test_uniform__the_test_has_power():
    u = uniform(stream_key(0, "t", "ks"), np.arange(100_000)) ** 1.03
    assert stats.kstest(u, "uniform").pvalue < 1e-4


@pytest.mark.parametrize("other", [{"stream": 1}, {"word": 1}])
def test_streams_and_words__are_independent(other):
    ids = np.arange(100_000)
    r = np.corrcoef(uniform(KEY, ids), uniform(KEY, ids, **other))[0, 1]
    assert abs(r) < 4 / np.sqrt(ids.size)


def test_empty_rows__give_no_draws():
    assert uniform(KEY, np.empty(0, np.uint64), stream=np.empty(0, np.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"stream": [1, 2]}, r"stream: expected 1 or 3 numbers, got \(2,\)"),
        ({"stream": 2**32}, r"stream: expected 0 .. 2\^32 - 1, got 4294967296"),
        ({"word": -1}, r"word: expected 0 .. 2\^32 - 1, got -1"),
    ],
)
def test_random_bits__refuses_bad_addresses(kwargs, match):
    with pytest.raises(ValueError, match=match):
        random_bits(KEY, [1, 2, 3], **kwargs)


def test_random_bits__refuses_floats_and_matrices():
    with pytest.raises(TypeError, match="row_id: expected integers, got float64"):
        random_bits(KEY, [0.5])
    with pytest.raises(ValueError, match="row_id: expected one dimension"):
        random_bits(KEY, [[1]])


def test_stream_key__refuses_bad_names():
    with pytest.raises(ValueError, match=r"seed: expected 0 .. 2\^64 - 1, got -1"):
        stream_key(-1, "a", "b")
    with pytest.raises(ValueError, match="NUL"):
        stream_key(1, "a\0", "b")


def test_philox__refuses_bad_shapes():
    with pytest.raises(ValueError, match="counter, key: expected"):
        philox4x32(np.zeros((2, 3), np.uint32), np.zeros(2, np.uint32))
