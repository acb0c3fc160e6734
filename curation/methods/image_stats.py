"""Image stats measures pictures: their size, and how bright, rich in contrast, sharp and varied they are."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from curation._jit import njit
from curation.methods.base import Params
from curation.methods.names import checked_names

ImageStat: TypeAlias = Literal[
    "width",
    "height",
    "aspect",
    "megapixels",
    "n_bytes",
    "format",
    "channels",
    "brightness",
    "contrast",
    "blur",
    "entropy",
]
ALL: tuple[ImageStat, ...] = get_args(ImageStat)
"""Every statistic, in the order in which columns are added."""
PIXELS: frozenset[ImageStat] = frozenset({"brightness", "contrast", "blur", "entropy"})
"""Statistics for which an image must be decoded; the header tells the others."""


class ImageStats(Params):
    """Options of ``use: image_stats``."""

    column: str = Field(description="column of encoded images: bytes, or a struct with a field 'bytes'")
    stats: list[ImageStat] | None = Field(default=None, min_length=1, description="statistics to add; default: all")
    prefix: str | None = Field(
        default=None, description="what the names of the new columns begin with; default: the column's name and '_'"
    )
    on_error: Literal["error", None] = Field(
        default="error", description="an image that cannot be read: error ends the build, null gives NULLs"
    )

    @field_validator("stats", mode="before")
    @classmethod
    def _known_and_once(cls, stats: Any) -> Any:
        return checked_names(stats, ALL)

    def names(self) -> dict[str, ImageStat]:
        """Statistic by the name of the column it fills."""
        prefix = f"{self.column}_" if self.prefix is None else self.prefix
        return {f"{prefix}{name}": name for name in self.stats or ALL}


def luma_stats(luma: NDArray[np.uint8]) -> dict[ImageStat, float]:
    r"""Brightness, contrast and entropy of an image, by the histogram of its luma.

    Parameters
    ----------
    luma : (height, width)
        Luma, 0 (black) .. 255 (white), at least one pixel.

    Returns
    -------
    dict
        ``brightness``, the mean in [0, 1]; ``contrast``, the standard deviation in [0, 0.5]; ``entropy``,
        :math:`-\sum_v p_v \log_2 p_v` over the 256 values, in [0, 8] [bit].

    Raises
    ------
    ValueError
        If there is no pixel.
    """
    if luma.size == 0:
        raise ValueError(f"luma: expected at least one pixel, got shape {luma.shape}; leave the image out")
    counts = np.zeros(256, np.int64)
    _count(np.ascontiguousarray(luma).reshape(-1), counts)
    share = counts / luma.size
    value = np.arange(256) / 255
    mean = float(share @ value)
    some = share[share > 0]
    return {
        "brightness": mean,
        "contrast": float(np.sqrt(share @ (value - mean) ** 2)),
        "entropy": abs(float(some @ np.log2(some))),
    }


def laplacian_variance(luma: NDArray[np.uint8], *, size: int = 512) -> float:
    """Sharpness of an image: the variance of the Laplacian of its luma at a working size.

    Parameters
    ----------
    luma : (height, width)
        Luma, 0 .. 255.
    size
        Longest side at which the image is looked at [pixels]: a larger one is reduced to means of square blocks, the
        smallest that suffice; the rest of less than a block at the right and lower edge is left out.

    Returns
    -------
    float
        Variance of up + down + left + right - 4 centre over the inner pixels, in units of luma squared, >= 0; 0 for
        an image with fewer than 3 blocks in a direction.

    Raises
    ------
    ValueError
        If ``size`` < 1.

    Source
    ------
    Pech-Pacheco et al. 2000 (card: ``cards/image_stats.md``).
    """
    if size < 1:
        raise ValueError(f"size: expected >= 1, got {size}; 512 is usual")
    step = -(-max(luma.shape) // size) or 1
    means = np.zeros((luma.shape[0] // step, luma.shape[1] // step), np.float64)
    _block_means(np.ascontiguousarray(luma), step, means)
    if min(means.shape) < 3:
        return 0.0
    inner = means[1:-1, 1:-1]
    edges = means[:-2, 1:-1] + means[2:, 1:-1] + means[1:-1, :-2] + means[1:-1, 2:] - 4 * inner
    return float(edges.var())


@njit()
def _count(values: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    for i in range(values.shape[0]):
        counts[values[i]] += 1


@njit()
def _block_means(luma: NDArray[np.uint8], step: int, means: NDArray[np.float64]) -> None:
    for y in range(means.shape[0]):
        for line in range(y * step, (y + 1) * step):
            for x in range(means.shape[1]):
                total = np.int64(0)
                for column in range(x * step, (x + 1) * step):
                    total += luma[line, column]
                means[y, x] += total
        for x in range(means.shape[1]):
            means[y, x] /= step * step
