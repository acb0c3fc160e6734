"""Driving a stage by hand: small tables with row ids, fits over pieces in any grouping, and tests of distributions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from curation.engine.store import decode, encode
from curation.io.atomic import dump_json
from curation.stages import make_stage
from curation.stages.base import FitStage, Outcome, Stage
from curation.types import ROW_ID


def stage_of(use: str, params: Any, schema: pa.Schema, *, name: str = "here", seed: int = 0) -> Stage[Any]:
    """A stage that is bound to a schema."""
    stage = make_stage(use, name, params, seed)
    stage.bind(schema)
    return stage


def rows_of(n: int, /, *, start: int = 0, **columns: Any) -> pa.Table:
    """A table with row ids (spread like hashes) and the given columns."""
    ids = (np.arange(start, start + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(1)
    return pa.table(columns | {ROW_ID: ids})


def pieces_of(table: pa.Table, rng: np.random.Generator, most: int = 9) -> list[pa.Table]:
    """The rows in pieces of random sizes, at least one row each."""
    count = int(rng.integers(1, min(most, table.num_rows) + 1))
    cuts = np.sort(rng.choice(np.arange(1, table.num_rows), count - 1, replace=False))
    edges = [0, *cuts.tolist(), table.num_rows]
    return [table.slice(a, b - a) for a, b in pairwise(edges)]


def travelled(state: Any) -> Any:
    """A state as it comes back from its mark."""
    return decode(json.loads(dump_json(encode(state))))


def fit(stage: Stage[Any], pieces: Sequence[pa.Table], rng: np.random.Generator | None = None) -> Any:
    """State after all rounds; neighbouring partial states are merged in a random order."""
    assert isinstance(stage, FitStage)
    state, done = None, False
    while not done:
        parts = [travelled(stage.partial(piece, state)) for piece in pieces]
        while len(parts) > 1:
            at = 0 if rng is None else int(rng.integers(len(parts) - 1))
            parts[at : at + 2] = [stage.merge(parts[at], parts[at + 1])]
        state, done = stage.advance(state, parts[0])
        state = travelled(state)
    return state


def outcomes(stage: Stage[Any], pieces: Sequence[pa.Table], state: Any) -> list[Outcome]:
    return [stage.apply(piece, state) for piece in pieces]


def through(stage: Stage[Any], table: pa.Table, rng: np.random.Generator | None = None) -> pa.Table:
    """Rows of the only port after the fit, the input cut into pieces if there is an ``rng``."""
    pieces = [table] if rng is None else pieces_of(table, rng)
    found = outcomes(stage, pieces, fit(stage, pieces, rng) if isinstance(stage, FitStage) else None)
    return pa.concat_tables([outcome.tables[""] for outcome in found])


def chi_square_p(counts: Sequence[int] | np.ndarray[Any, Any], shares: Any) -> float:
    """Chance of counts at least as far from the shares."""
    expected = np.asarray(shares, float) / np.sum(shares) * np.sum(counts)
    return float(stats.chisquare(counts, expected).pvalue)
