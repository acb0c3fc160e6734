"""Concat puts the rows of several tables together, column by column name."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curation.methods.base import Params


class Concat(Params):
    """Options of ``use: concat``."""

    many: ClassVar[bool] = True

    columns: Literal["union", "strict"] = Field(
        default="union", description="union: a column that a table lacks is NULL there; strict: every table has it"
    )
    exact: bool = Field(
        default=False, description="let 64-bit integers meet floats, as long as every number has an equal double"
    )


def spread_copies(copies: NDArray[np.uint32], *, table: int, tables: int) -> NDArray[np.uint32]:
    """Copy numbers that differ between tables in which one row may stand.

    Parameters
    ----------
    copies : (n,)
        Copy numbers inside one table.
    table
        Number of the table, 0 .. tables - 1.
    tables
        Number of tables.

    Returns
    -------
    (n,)
        ``copies * tables + table``.

    Raises
    ------
    ValueError
        If a number does not fit 32 bits.
    """
    if not 0 <= table < tables:
        raise ValueError(f"table: expected 0 .. {tables - 1}, got {table}; number the tables from 0")
    spread = copies.astype(np.uint64) * np.uint64(tables) + np.uint64(table)
    if len(spread) and spread.max() >= 1 << 32:
        at = int(spread.argmax())
        raise ValueError(f"copies[{at}]: expected {spread[at]} < 2^32, got more; put fewer tables together")
    return spread.astype(np.uint32)
