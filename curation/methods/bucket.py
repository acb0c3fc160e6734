"""Bucket groups rows by size, pictures by their aspect and texts by their length, so that batches waste little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curation._jit import njit
from curation.methods.base import Params
from curation.methods.names import checked_names

_MOST_EDGES = 1000


class AspectBuckets(BaseModel):
    """Options of ``aspect:`` in ``use: bucket``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    width: str = Field(description="column of widths, integers >= 1 [pixels]")
    height: str = Field(description="column of heights, integers >= 1 [pixels]")
    area: int = Field(default=1 << 20, ge=1, le=1 << 32, description="most pixels of a bucket, e.g. 1048576")
    step: int = Field(default=64, ge=1, description="sides of a bucket are multiples of this [pixels]")
    max_aspect: float = Field(
        default=4.0, ge=1.0, allow_inf_nan=False, description="longest side of a bucket over its shortest, at most"
    )
    no_upscale: bool = Field(
        default=False, description="smaller rows go to buckets of area / 2, / 4, ...; none fits: NULL"
    )
    add: list[Literal["width", "height", "crop"]] = Field(
        default=[], description="further columns: width and height of the bucket, share of the area that is cropped"
    )

    @field_validator("add", mode="before")
    @classmethod
    def _known_and_once(cls, add: Any) -> Any:
        return checked_names(add, ("width", "height", "crop"))

    @model_validator(mode="after")
    def _some_bucket(self) -> AspectBuckets:
        if len(aspect_buckets(self.area, self.step, self.max_aspect)) == 0:
            raise ValueError(
                f"area: expected room for a bucket of step {self.step} and aspect <= {self.max_aspect:g}, "
                f"got {self.area}; lower step or raise max_aspect"
            )
        return self


class LengthBuckets(BaseModel):
    """Options of ``length:`` in ``use: bucket``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    column: str = Field(description="column of integers, or of text or lists, whose length counts")
    edges: list[int] | None = Field(
        default=None, min_length=1, description="ascending longest lengths of the buckets, e.g. [128, 512, 2048]"
    )
    growth: float | None = Field(
        default=None,
        gt=1.0,
        allow_inf_nan=False,
        description="instead of edges: each is this many times the one before",
    )
    min: int | None = Field(default=None, ge=1, description="with growth: the first edge")
    max: int | None = Field(default=None, ge=1, description="with growth: the last edge")
    over: Literal["keep", "drop"] = Field(
        default="keep", description="rows longer than the last edge: keep in a bucket of their own, or drop"
    )

    @field_validator("edges")
    @classmethod
    def _ascending(cls, edges: list[int] | None) -> list[int] | None:
        if edges and (edges[0] < 0 or not all(a < b for a, b in pairwise(edges))):
            raise ValueError(f"expected ascending numbers >= 0, got {edges}")
        return edges

    @model_validator(mode="after")
    def _one_kind_of_edges(self) -> LengthBuckets:
        given = [name for name in ("growth", "min", "max") if getattr(self, name) is not None]
        if (self.edges is None) != (len(given) == 3) or (self.edges is not None and given):
            named = [*(["edges"] if self.edges else []), *given]
            raise ValueError(f"expected edges, or growth with min and max, got {', '.join(named) or 'none'}")
        self.all_edges()
        return self

    def all_edges(self) -> list[int]:
        """Longest length of each bucket."""
        if self.edges is not None:
            return self.edges
        assert self.growth is not None
        assert self.min is not None
        assert self.max is not None
        return growing_edges(self.growth, self.min, self.max)


class Bucket(Params):
    """Options of ``use: bucket``."""

    aspect: AspectBuckets | None = Field(
        default=None, description="buckets of pictures: {width: COLUMN, height: COLUMN}"
    )
    length: LengthBuckets | None = Field(default=None, description="buckets of lengths: {column: COLUMN, edges: [...]}")
    into: str = Field(default="bucket", min_length=1, description="column that is added")

    @model_validator(mode="after")
    def _one_kind(self) -> Bucket:
        if (self.aspect is None) == (self.length is None):
            found = "none" if self.aspect is None else "both"
            raise ValueError(f"aspect, length: expected exactly one, got {found}; keep one")
        return self


def aspect_buckets(area: int, step: int, max_aspect: float) -> NDArray[np.int64]:
    """Sizes of pictures of about one area, from tall to wide.

    Parameters
    ----------
    area
        Most pixels of a bucket, >= 1.
    step
        Sides are multiples of this, >= 1 [pixels].
    max_aspect
        Longest over shortest side, at most, >= 1 [-].

    Returns
    -------
    (n_buckets, 2)
        Width and height [pixels], ascending widths: for each width the largest height with width · height <= area, left
        out where the aspect is too far from 1; none if the area has no room.
    """
    widths = np.arange(step, math.isqrt(int(area * max_aspect)) + 1, step, dtype=np.int64)
    heights = area // widths // step * step
    inside = (heights > 0) & (widths <= max_aspect * heights) & (heights <= max_aspect * widths)
    return np.stack([widths[inside], heights[inside]], axis=1)


def aspect_ladder(area: int, step: int, max_aspect: float) -> list[NDArray[np.int64]]:
    """Buckets of area, area / 2, area / 4 and so on, as far as there are some (see :func:`aspect_buckets`)."""
    ladder = []
    while len(buckets := aspect_buckets(area, step, max_aspect)):
        ladder.append(buckets)
        area //= 2
    return ladder


def nearest_aspect(
    width: NDArray[np.int64], height: NDArray[np.int64], buckets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Bucket whose aspect is nearest, by the distance of the logarithms.

    Parameters
    ----------
    width, height : (n,)
        Sizes, >= 1 [pixels].
    buckets : (n_buckets, 2)
        Width and height by ascending aspect, as :func:`aspect_buckets` gives them; at least one.

    Returns
    -------
    (n,)
        Index of the bucket; of two at one distance the one of the smaller width. Compared without a logarithm, exactly
        as long as (side · number of steps)² < 2⁵³.

    Raises
    ------
    ValueError
        If a size is below 1.
    """
    for name, sizes in (("width", width), ("height", height)):
        if (sizes < 1).any():
            at = int(np.argmax(sizes < 1))
            raise ValueError(f"{name}[{at}]: expected >= 1, got {sizes[at]}; leave the picture out")
    steps = buckets // np.gcd.reduce(buckets, axis=None)
    between = (steps[:-1] * steps[1:]).astype(np.float64)  # squares of the borders: products of widths, of heights
    index = np.zeros(len(width), np.int64)
    _search(width.astype(np.float64), height.astype(np.float64), between, index)
    return index


@njit()
def _search(
    width: NDArray[np.float64], height: NDArray[np.float64], between: NDArray[np.float64], index: NDArray[np.int64]
) -> None:
    for i in range(width.shape[0]):
        wide, high = width[i] * width[i], height[i] * height[i]
        low, up = 0, between.shape[0]
        while low < up:
            middle = (low + up) // 2
            if wide * between[middle, 1] <= high * between[middle, 0]:
                up = middle
            else:
                low = middle + 1
        index[i] = low


def unscaled_aspect(
    width: NDArray[np.int64], height: NDArray[np.int64], ladder: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Bucket of nearest aspect that a picture fills without being scaled up, from the first rung that has one.

    Parameters
    ----------
    width, height : (n,)
        Sizes, >= 1 [pixels].
    ladder
        Buckets of falling area, as :func:`aspect_ladder` gives them.

    Returns
    -------
    (n,)
        Index into the buckets of all rungs one after the other; -1 for a picture that fills none.
    """
    index = np.full(len(width), -1, np.int64)
    first = 0
    for buckets in ladder:
        left = np.flatnonzero(index < 0)
        nearest = nearest_aspect(width[left], height[left], buckets)
        fills = (buckets[nearest, 0] <= width[left]) & (buckets[nearest, 1] <= height[left])
        index[left[fills]] = first + nearest[fills]
        first += len(buckets)
    return index


def cropped_share(
    width: NDArray[np.int64], height: NDArray[np.int64], bucket: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of a picture's area that is lost as it is scaled to cover its bucket and cropped.

    Parameters
    ----------
    width, height : (n,)
        Sizes, >= 1 [pixels].
    bucket : (n, 2)
        Width and height of the bucket of each, >= 1 [pixels].

    Returns
    -------
    (n,)
        In [0, 1) [-]; 0 if the aspects are equal.
    """
    across = width.astype(np.float64) * bucket[:, 1]
    along = height.astype(np.float64) * bucket[:, 0]
    share: NDArray[np.float64] = 1 - np.minimum(across, along) / np.maximum(across, along)
    return share


def growing_edges(growth: float, first: int, last: int) -> list[int]:
    """Edges each of which is ``growth`` times the one before, rounded down, but at least one larger.

    Parameters
    ----------
    growth
        > 1 [-].
    first, last
        The first and the last edge, 1 <= first <= last.

    Returns
    -------
    list
        Ascending edges.

    Raises
    ------
    ValueError
        If ``last`` < ``first``, or for more than 1,000 edges.
    """
    if last < first:
        raise ValueError(f"max: expected >= min, got {last} < {first}; exchange them")
    edges = [first]
    while edges[-1] < last and len(edges) <= _MOST_EDGES:
        edges.append(min(last, max(edges[-1] + 1, int(edges[-1] * growth))))
    if len(edges) > _MOST_EDGES:
        raise ValueError(f"growth: expected at most {_MOST_EDGES} edges, got more with {growth}; raise it")
    return edges


def length_bucket(lengths: NDArray[np.int64], edges: Sequence[int]) -> NDArray[np.int64]:
    """Bucket of each length.

    Parameters
    ----------
    lengths : (n,)
        Lengths.
    edges : (m,)
        Ascending longest lengths.

    Returns
    -------
    (n,)
        Number of edges below the length, 0 .. m: m for what is longer than the last.
    """
    return np.searchsorted(np.asarray(edges, np.int64), lengths, side="left").astype(np.int64)


def length_labels(edges: Sequence[int]) -> list[str]:
    """Names of the buckets, one more than edges; sorted as text they are sorted by size.

    Examples
    --------
    >>> length_labels([64, 128, 1024])
    ['<=0064', '<=0128', '<=1024', '>1024']
    """
    digits = len(str(edges[-1]))
    return [*(f"<={edge:0{digits}d}" for edge in edges), f">{edges[-1]}"]
