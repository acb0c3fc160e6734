"""Measures of luma: known pictures, scikit-learn's photographs, and slow obvious versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage
from sklearn.datasets import load_sample_images

from curation.methods.image_stats import ALL, ImageStats, laplacian_variance, luma_stats

pictures = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
few_values = hnp.arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 128, 255]))
PHOTOGRAPHS = [image.mean(axis=2).astype(np.uint8) for image in load_sample_images().images]


@settings(deadline=None)
@given(st.one_of(pictures, few_values))
def test_luma_stats__parity_with_numpy(luma):
    found = luma_stats(luma)
    shares = np.unique(luma, return_counts=True)[1] / luma.size
    assert found["brightness"] == pytest.approx(luma.mean() / 255, abs=1e-12)
    assert found["contrast"] == pytest.approx(luma.std() / 255, abs=1e-7)
    assert found["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-12)


@pytest.mark.parametrize(("value", "brightness"), [(0, 0.0), (51, 0.2), (255, 1.0)])
def test_luma_stats__of_one_value_have_no_contrast_and_no_entropy(value, brightness):
    found = luma_stats(np.full((5, 4), value, np.uint8))
    assert found == pytest.approx({"brightness": brightness, "contrast": 0.0, "entropy": 0.0}, abs=1e-12)


def test_luma_stats__of_black_and_white_are_at_their_bounds():
    found = luma_stats(np.array([[0, 255], [255, 0]], np.uint8))
    assert found == pytest.approx({"brightness": 0.5, "contrast": 0.5, "entropy": 1.0})


def test_luma_stats__entropy_of_all_values_is_8_bits():
    assert luma_stats(np.arange(256, dtype=np.uint8).reshape(16, 16))["entropy"] == pytest.approx(8.0)


def test_luma_stats__refuses_an_image_without_pixels():
    with pytest.raises(ValueError, match="expected at least one pixel"):
        luma_stats(np.zeros((0, 3), np.uint8))


@settings(deadline=None)
@given(pictures, st.integers(1, 14))
def test_laplacian_variance__parity_with_block_means_and_scipy(luma, size):
    step = next(k for k in range(1, 13) if max(luma.shape) <= k * size)
    high, wide = (n // step for n in luma.shape)
    blocks = luma[: high * step, : wide * step].reshape(high, step, wide, step).mean(axis=(1, 3))
    inner = ndimage.laplace(blocks)[1:-1, 1:-1] if min(high, wide) >= 3 else np.zeros(1)
    assert laplacian_variance(luma, size=size) == pytest.approx(inner.var(), abs=1e-6)


@pytest.mark.parametrize("luma", PHOTOGRAPHS)
def test_laplacian_variance__falls_as_a_photograph_is_blurred(luma):
    blurred = [laplacian_variance(ndimage.gaussian_filter(luma, s)) for s in (0.0, 1.0, 2.0, 4.0)]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[-1] < blurred[0] / 10


def test_laplacian_variance__does_not_look_at_brightness():
    luma = PHOTOGRAPHS[0] // 2
    assert laplacian_variance(luma + np.uint8(100)) == pytest.approx(laplacian_variance(luma))


def test_laplacian_variance__refuses_a_size_of_nothing():
    with pytest.raises(ValueError, match="size: expected >= 1, got 0"):
        laplacian_variance(PHOTOGRAPHS[0], size=0)


def test_image_stats__names_begin_with_the_column_or_the_prefix():
    assert ImageStats(column="i", stats=["height", "blur"]).names() == {"i_height": "height", "i_blur": "blur"}
    assert list(ImageStats(column="i", prefix="x").names()) == [f"x{name}" for name in ALL]


@pytest.mark.parametrize(
    ("options", "message"), [({"stats": ["blur"] * 2}, "'blur' twice"), ({"on_error": "x"}, "be 'error'")]
)
def test_image_stats__refuses_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        ImageStats(column="i", **options)
