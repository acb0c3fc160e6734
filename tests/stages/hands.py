"""Driving a stage by hand: small tables with row ids, fits over pieces in any grouping, and tests of distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from curation.stages import make_stage
from curation.stages.base import Outcome, Stage
from curation.testing import fit, pieces_of, rows_of, travelled

__all__ = ["chi_square_p", "fit", "outcomes", "pieces_of", "rows_of", "stage_of", "through", "travelled"]


def stage_of(use: str, params: Any, schema: pa.Schema, *, name: str = "here", seed: int = 0) -> Stage[Any]:
    """A stage that is bound to a schema."""
    stage = make_stage(use, name, params, seed)
    stage.bind(schema)
    return stage


def outcomes(stage: Stage[Any], pieces: Sequence[pa.Table], state: Any) -> list[Outcome]:
    return [stage.apply(piece, state) for piece in pieces]


def through(stage: Stage[Any], table: pa.Table, rng: np.random.Generator | None = None) -> pa.Table:
    """Rows of the only port after the fit, the input cut into pieces if there is an ``rng``."""
    pieces = [table] if rng is None else pieces_of(table, rng)
    found = outcomes(stage, pieces, fit(stage, pieces, rng))
    return pa.concat_tables([outcome.tables[""] for outcome in found])


def chi_square_p(counts: Sequence[int] | np.ndarray[Any, Any], shares: Any) -> float:
    """Chance of counts at least as far from the shares."""
    expected = np.asarray(shares, float) / np.sum(shares) * np.sum(counts)
    return float(stats.chisquare(counts, expected).pvalue)
