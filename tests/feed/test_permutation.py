"""The keyed bijection: bijective, shuffled like a real shuffle, and the same in every version."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy.stats import chi2

from curation.feed import ALGORITHM, Permutation, derive_key
from curation.feed.permutation import TABLE_MAX, child_keys, permute_runs
from tests.feed.shuffles import BATCH, defects, feistel_with_affine_rounds, simon_of_four_rounds

uncompiled = os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"
compiled = pytest.mark.skipif(uncompiled, reason="a million rows need the compiled kernels")

SMALL = [*range(1, 301), *(2**k + d for k in range(9, 17) for d in (-1, 0, 1))]
LARGE = [TABLE_MAX + 1, 2**17 - 1, 2**17, 2**17 + 1, 2**18 + 1, 2**19 - 1, 2**20, 1_000_000]


def shuffle(n, seed):
    return Permutation(n, derive_key(seed, "test")).at(np.arange(n))


# bijectivity


def test_permutation__is_a_bijection_on_small_domains():
    for n in SMALL[:: 20 if uncompiled else 1]:
        p = Permutation(n, derive_key(1, "test", n))
        values = p.at(np.arange(n))
        assert np.array_equal(np.sort(values), np.arange(n)), n
        assert np.array_equal(p.inverse(values), np.arange(n)), n


@compiled
@pytest.mark.parametrize("n", LARGE)
def test_permutation__is_a_bijection_on_large_domains(n):
    p = Permutation(n, derive_key(1, "test"))
    values = p.at(np.arange(n))
    assert np.bincount(values, minlength=n).max() == 1
    assert np.array_equal(p.inverse(values), np.arange(n))


@pytest.mark.parametrize("n", [TABLE_MAX + 1, 10**12, 2**62 - 1, 2**62])
def test_permutation__inverts_in_domains_too_large_to_list(n):
    p = Permutation(n, derive_key(3, "test"))
    x = np.concatenate([np.arange(100), np.arange(n - 100, n), np.random.default_rng(0).integers(0, n, 500)])
    values = p.at(x)
    assert values.min() >= 0
    assert values.max() < n
    assert np.array_equal(p.inverse(values), x)


def test_permutation__a_slice_is_the_slice_of_the_whole():
    p = Permutation(TABLE_MAX + 5, derive_key(2, "test"))
    whole = p.at(np.arange(2_000))
    assert np.array_equal(p.at(np.arange(700, 800)), whole[700:800])
    assert np.array_equal(p.at(np.array([5, 5, 1999])), whole[[5, 5, 1999]])


def test_permute_runs__equals_one_permutation_after_the_other():
    rng = np.random.default_rng(0)
    sizes = np.array([1, 70_000, 2, 300, 10**9])
    keys = np.array([derive_key(1, i) for i in range(5)])
    parts = [rng.integers(0, n, k) for n, k in zip(sizes, (3, 50, 2, 40, 600), strict=True)]
    starts = np.cumsum([0, *map(len, parts)])
    expected = [Permutation(n, key).at(part) for n, key, part in zip(sizes, keys, parts, strict=True)]
    got = permute_runs(np.concatenate(parts), starts, sizes, keys)
    assert np.array_equal(got, np.concatenate(expected))


@pytest.mark.parametrize("position", [-1, 10])
def test_permutation__refuses_positions_outside(position):
    with pytest.raises(ValueError, match=r"positions\[1\]: expected 0 <= position < 10, got"):
        Permutation(10, derive_key(1)).at(np.array([0, position]))


@pytest.mark.parametrize("n", [-1, 2**62 + 1])
def test_permutation__refuses_a_size_out_of_range(n):
    with pytest.raises(ValueError, match=r"n: expected 0 <= n <= 2\*\*62"):
        Permutation(n, derive_key(1))


GOLDEN_KEY = "0xd210bf5b4aeeb718"
GOLDEN_CHILD = "0x4c06ffb8c5e84a9f"
GOLDEN_ORDER = {
    8: [3, 2, 4, 0, 7, 5, 6, 1],
    1000: [159, 126, 526, 923, 893, 855, 969, 321],
    65536: [43973, 30576, 2098, 28409, 40205, 60809, 3683, 6434],
    65537: [46642, 61156, 9757, 17043, 34007, 25847, 62504, 20635],
    10**6: [952919, 572781, 701841, 998374, 675283, 669471, 283063, 620552],
    10**12: [636504106843, 647537362922, 546021783132, 806385754883, 538737300644],
}


# keys and golden values


def test_derive_key__depends_on_every_name_and_on_their_borders():
    keys = [
        derive_key(0),
        derive_key(1),
        derive_key(0, ""),
        derive_key(0, "a"),
        derive_key(0, "a", "b"),
        derive_key(0, "ab"),
        derive_key(0, "b", "a"),
        derive_key(0, "a", 1),
        derive_key(1, "a", 0),
    ]
    assert len(set(keys)) == len(keys)


def test_derive_key__refuses_what_would_be_ambiguous():
    with pytest.raises(ValueError, match=r"names\[1\]: expected no NUL"):
        derive_key(0, "a", "b\0c")
    with pytest.raises(ValueError, match=r"seed: expected 0 <= seed < 2\*\*64"):
        derive_key(-1, "a")


def test_child_keys__are_distinct_over_keys_and_numbers():
    keys = np.repeat(np.array([derive_key(0, i) for i in range(50)]), 50)
    assert np.unique(child_keys(keys, np.tile(np.arange(50), 50))).size == 2500


def test_golden__keys_and_orders_never_change():
    """A change here makes every stored plan and every saved state mean something else: bump ``ALGORITHM``."""
    assert ALGORITHM == "feistel8/1"
    assert hex(derive_key(7, "digits", "rows", 3)) == GOLDEN_KEY
    assert hex(child_keys(np.array([derive_key(7, "digits")]), np.array([3]))[0]) == GOLDEN_CHILD
    for n, expected in GOLDEN_ORDER.items():
        assert Permutation(n, derive_key(7, "golden")).at(np.arange(len(expected))).tolist() == expected, n


# quality: indistinguishable from a real shuffle by what a training would notice


def place_chi2_p(order, n, n_seeds):
    """P value of position x value counts over keys; a table of permutations has (n - 1)**2 d.f."""
    counts = np.zeros((n, n))
    for seed in range(n_seeds):
        counts[np.arange(n), order(n, seed)] += 1
    expected = n_seeds / n
    statistic = ((counts - expected) ** 2 / expected).sum() * (n - 1) / n
    return float(chi2.sf(statistic, (n - 1) ** 2))


@compiled
@pytest.mark.parametrize("n", [2**16, 2**16 + 1, 1_000_000, 2**20, 1_281_167])
def test_quality__large_domains_look_like_a_shuffle(n):
    found = defects(shuffle, n, range(5))
    assert max(found.values()) < 5, found


@compiled
def test_quality__a_sorted_table_gives_batches_as_mixed_as_a_shuffle():
    n, n_classes = 1_281_167, 1000
    classes = shuffle(n, 0) * n_classes // n
    batches = classes[: n // BATCH * BATCH].reshape(-1, BATCH)
    distinct = np.array([np.unique(batch).size for batch in batches[:1000]])
    ideal = n_classes * (1 - (1 - 1 / n_classes) ** BATCH)
    assert distinct.mean() > 0.99 * ideal


@compiled
@pytest.mark.parametrize(("n", "n_seeds"), [(2, 5000), (5, 5000), (10, 5000), (37, 4000), (100, 3000)])
def test_quality__every_value_is_equally_likely_at_every_place(n, n_seeds):
    assert place_chi2_p(shuffle, n, n_seeds) > 1e-4


@compiled
def test_quality__the_first_size_of_the_cipher_reaches_every_place():
    n, cells = TABLE_MAX + 1, 16

    def coarse(_, seed):
        return shuffle(n, seed)[:: n // 2000][:2000] * cells // n

    counts = np.zeros((2000, cells))
    for seed in range(400):
        counts[np.arange(2000), coarse(n, seed)] += 1
    statistic = ((counts - 400 / cells) ** 2 / (400 / cells)).sum()
    assert chi2.sf(statistic, 2000 * (cells - 1)) > 1e-4


@compiled
@pytest.mark.parametrize("n", [60_000, 200_000])
def test_quality__orders_of_different_keys_are_unrelated(n):
    orders = np.array([shuffle(n, seed) for seed in range(6)], dtype=np.float64)
    z = (np.corrcoef(orders) - np.eye(6)) * np.sqrt(n)
    assert np.abs(z).max() < 5
    assert (orders[1:] == orders[:-1]).sum() < 40  # 5 fixed points expected, Poisson


@compiled
@pytest.mark.parametrize("n", [1_000_000, 2**20])
def test_quality__the_suite_fails_an_affine_feistel(n):
    found = defects(feistel_with_affine_rounds, n, range(2))
    assert found["parity"] > 50, found


@compiled
def test_quality__the_suite_fails_four_rounds_of_simon():
    found = defects(simon_of_four_rounds, 2**20, range(2))
    assert found["lag"] > 50, found


@compiled
@pytest.mark.parametrize(("cipher", "n"), [(feistel_with_affine_rounds, 10), (feistel_with_affine_rounds, 100)])
def test_quality__the_place_test_fails_an_affine_feistel(cipher, n):
    assert place_chi2_p(cipher, n, 2000) < 1e-4


def test_quality__the_suite_passes_a_real_shuffle():
    found = defects(lambda n, seed: np.random.default_rng(seed).permutation(n), 2**18, range(5))
    assert max(found.values()) < 5, found
