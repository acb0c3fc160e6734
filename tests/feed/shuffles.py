"""What a training would notice of a bad shuffle, and ciphers that are one; shared with the benchmark of plans."""

from __future__ import annotations

import numpy as np

BATCH = 256


def lag_z(rows):
    """Correlation of successive row numbers, in standard deviations of a real shuffle."""
    x = rows - rows.mean()
    return float((x[1:] * x[:-1]).sum() / (x * x).sum() * np.sqrt(len(rows)))


def batch_variance(feature):
    """Variance of the mean of a feature over batches, relative to a real shuffle, as a z value."""
    n_batches = len(feature) // BATCH
    means = feature[: n_batches * BATCH].reshape(n_batches, BATCH).mean(axis=1)
    ratio = means.var(ddof=1) / (feature.var() / BATCH * (1 - BATCH / len(feature)))
    return float((ratio - 1) / np.sqrt(2 / n_batches))


def defects(order, n, seeds):
    """Largest |z| of each statistic over some keys; a real shuffle stays below 5."""
    worst = dict.fromkeys(("lag", "mean", "parity", "mod4", "neighbours"), 0.0)
    for seed in seeds:
        rows = order(n, seed).astype(np.float64)
        near = np.count_nonzero(np.abs(np.diff(rows)) < n / 1000)
        found = {
            "lag": lag_z(rows),
            "mean": batch_variance(rows),
            "parity": batch_variance(rows % 2),
            "mod4": batch_variance((rows % 4 == 1).astype(np.float64)),
            "neighbours": (near - n / 500) / np.sqrt(n / 500),
        }
        worst = {name: max(worst[name], abs(z)) for name, z in found.items()}
    return worst


def feistel_with_affine_rounds(n, seed, n_rounds=5):
    """Levanter's form: the round function is affine modulo a power of 2, so low bits never see high ones."""
    half = max(1, -(-(n - 1).bit_length() // 2))
    mask = (1 << half) - 1
    rng = np.random.default_rng([9, seed])
    factors, offsets = rng.integers(0, 1 << 16, n_rounds) | 1, rng.integers(0, 1 << 16, n_rounds)

    def encipher(x):
        a, b = x >> half, x & mask
        for factor, offset in zip(factors, offsets, strict=True):
            a, b = b, a ^ ((b * factor + offset) & mask)
        return (a << half) | b

    return walk(encipher, n)


def simon_of_four_rounds(n, seed, n_rounds=4):
    """Simon's round function, (x <<< 1 & x <<< 8) ^ x <<< 2, far below the number of rounds that it needs."""
    half = max(1, -(-(n - 1).bit_length() // 2))
    mask = (1 << half) - 1
    keys = np.random.default_rng([9, seed]).integers(0, mask + 1, n_rounds)

    def rotate(x, by):
        by %= half
        return ((x << by) | (x >> (half - by))) & mask

    def encipher(x):
        a, b = x >> half, x & mask
        for key in keys:
            a, b = b ^ (rotate(a, 1) & rotate(a, 8)) ^ rotate(a, 2) ^ key, a
        return (a << half) | b

    return walk(encipher, n)


def walk(encipher, n):
    out = encipher(np.arange(n))
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = encipher(out[outside])
        outside = outside[out[outside] >= n]
    return out
