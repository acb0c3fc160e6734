"""Driving a stage by hand: small tables with row ids, pieces of them, and fits over the pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from curation.engine.store import decode, encode
from curation.io.atomic import dump_json
from curation.stages.base import FitStage, Stage, State
from curation.types import ROW_ID


def rows_of(n: int, /, *, start: int = 0, **columns: Any) -> pa.Table:
    """Make a table of ``n`` rows with row ids (spread like hashes) and the given columns."""
    return with_ids(pa.table(columns), start=start) if columns else pa.table({ROW_ID: _ids(n, start)})


def with_ids(table: pa.Table, *, start: int = 0) -> pa.Table:
    """Add row ids (spread like hashes) to a table, unless it has some."""
    if ROW_ID in table.column_names:
        return table
    return table.append_column(ROW_ID, pa.array(_ids(table.num_rows, start)))


def _ids(n: int, start: int) -> Any:
    return (np.arange(start, start + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(1)


def pieces_of(table: pa.Table, rng: np.random.Generator, most: int = 9) -> list[pa.Table]:
    """Cut a table into pieces of random sizes, at least one row each."""
    count = int(rng.integers(1, min(most, table.num_rows) + 1))
    cuts = np.sort(rng.choice(np.arange(1, table.num_rows), count - 1, replace=False))
    edges = [0, *cuts.tolist(), table.num_rows]
    return [table.slice(a, b - a) for a, b in pairwise(edges)]


def travelled(state: State) -> State:
    """State as it comes back from its mark, which is JSON."""
    return decode(json.loads(dump_json(encode(state))))


def fit(stage: Stage[Any], pieces: Sequence[pa.Table], rng: np.random.Generator | None = None) -> State:
    """State after all rounds of a :class:`FitStage` over the pieces; ``None`` for other stages.

    Neighbouring partial states are merged from the left, or in a random order if there is an ``rng``.
    """
    if not isinstance(stage, FitStage):
        return None
    state, done = None, False
    while not done:
        parts = [travelled(stage.partial(piece, state)) for piece in pieces]
        while len(parts) > 1:
            at = 0 if rng is None else int(rng.integers(len(parts) - 1))
            parts[at : at + 2] = [stage.merge(parts[at], parts[at + 1])]
        state, done = stage.advance(state, parts[0])
        state = travelled(state)
    return state
