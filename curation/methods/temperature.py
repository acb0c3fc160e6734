"""Temperature sampling flattens the share of large groups."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curation.methods.base import Params, Shape


class Temperature(Params):
    """Options of ``mixture: {temperature: ...}``."""

    shape: ClassVar[Shape] = "plan"

    tau: float = Field(
        default=1.0,
        gt=0.0,
        description="1 keeps the shares of the data, inf makes them equal, below 1 sharpens them",
    )


def temperature_shares(n_rows: NDArray[np.int64] | NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    r"""Share of each group in the sampled stream, :math:`p_g \propto n_g^{1/\tau}`.

    Parameters
    ----------
    n_rows : (n_groups,)
        Rows per group, each > 0 [rows]; any other positive unit of size (tokens, hours) does as well.
    tau
        Temperature, > 0 [-]: 1 keeps the shares of the data, ``inf`` makes them equal, below 1 sharpens them.

    Returns
    -------
    (n_groups,)
        Shares in [0, 1] [-] in the order of ``n_rows``; their sum is 1 within 1e-12. A share is 0 only where
        it falls below the smallest float64, which takes ``tau`` far below 1.

    Raises
    ------
    ValueError
        If there is no group, a group is empty or ``tau`` is not > 0.

    Source
    ------
    Li et al., Upsample or Upweight? (NAACL 2025), section 2, definition of p(i; tau).

    Examples
    --------
    >>> temperature_shares(np.array([10_000, 100]), 2.0).round(4).tolist()
    [0.9091, 0.0909]
    """
    if n_rows.size == 0:
        raise ValueError("n_rows: expected at least one group, got none; drop the mixture")
    if not (n_rows > 0).all():
        g = int(n_rows.argmin())
        raise ValueError(f"n_rows[{g}]: expected > 0, got {n_rows[g]}; drop empty groups first")
    if not tau > 0:
        raise ValueError(f"tau: expected > 0, got {tau}; use 1 to keep the shares of the data")
    # in logs and relative to the largest group: n ** (1 / tau) overflows already at tau = 0.02
    log_size = np.log(n_rows)
    weight = np.exp((log_size - log_size.max()) / tau)
    shares: NDArray[np.float64] = weight / weight.sum()
    return shares
