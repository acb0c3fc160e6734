"""Split deals rows to named parts by a hash, so that a row never changes its part when others are added."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from curation.methods.base import Params

_PORT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TOLERANCE = 1e-9


class Split(Params):
    """Options of ``use: split``."""

    shares: dict[str, float] = Field(
        min_length=1, description="share of the rows by part, e.g. {train: 0.9, held_out: 0.1}; they sum to 1"
    )
    by: str | None = Field(
        default=None,
        description="column whose equal values stay in one part, e.g. a user; default: each row alone",
    )

    @field_validator("shares")
    @classmethod
    def _shares_sum_to_one(cls, shares: dict[str, float]) -> dict[str, float]:
        for name, share in shares.items():
            if not _PORT.fullmatch(name):
                raise ValueError(f"expected names of letters, digits, '_' and '-', got '{name}'")
            if not 0 < share <= 1:
                raise ValueError(f"expected shares > 0 and <= 1, got {name}: {share}")
        total = math.fsum(shares.values())
        if abs(total - 1) > _TOLERANCE:
            raise ValueError(f"expected shares that sum to 1, got a sum of {total:g}")
        return shares

    def ports(self) -> tuple[str, ...]:
        """Names of the parts, in the order of the recipe."""
        return tuple(self.shares)


def split_port(u: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.int64]:
    """Part of each row.

    Parameters
    ----------
    u : (n_rows,)
        Uniform numbers in [0, 1), one per row or equal for rows that stay together [-].
    shares : (n_parts,)
        Shares, each > 0; their sum is 1 within 1e-9 [-].

    Returns
    -------
    (n_rows,)
        Index of the part, 0 <= index < n_parts: part i holds the rows with
        ``shares[:i].sum() <= u < shares[:i + 1].sum()``, and the last part everything above.

    Raises
    ------
    ValueError
        If there is no share, if one is not > 0, or if the sum is not 1.

    Source
    ------
    Inverse of a discrete distribution function (card: ``cards/split.md``).
    """
    if len(shares) == 0:
        raise ValueError("shares: expected at least one share, got none; name a part")
    for i, share in enumerate(shares):
        if not share > 0:
            raise ValueError(f"shares[{i}]: expected > 0, got {share}; leave the part out")
    if not abs(math.fsum(shares) - 1) <= _TOLERANCE:
        raise ValueError(f"shares: expected a sum of 1, got {math.fsum(shares):g}; divide them by their sum")
    bounds = np.array([math.fsum(shares[: i + 1]) for i in range(len(shares) - 1)])
    port: NDArray[np.int64] = np.searchsorted(bounds, u, side="right").astype(np.int64)
    return port
