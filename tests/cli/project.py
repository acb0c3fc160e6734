"""A small project for the command line and the report: a table, a recipe, and ways to run ``curate`` on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from curation.cli.main import cli

RECIPE = """\
recipe: 1
name: tiny
seed: 3
inputs:
  people: {path: data/people.parquet}
stages:
  - use: filter
    where: "age >= 10"
expect:
  - {min_rows: 5}
feed: {batch_size: 16, epochs: 2, groups: lang, mixture: {temperature: 2}}
output: {path: build/tiny}
"""

TWO_OUTPUTS = """\
recipe: 1
name: two
seed: 3
inputs:
  people: {path: data/people.parquet, key: id, where: "age < 90"}
stages:
  - use: split
    shares: {train: 0.75, held_out: 0.25}
  - use: smote
    from: split.train
    label: lang
    features: [x]
    target: {is: 60}
outputs:
  train: {from: smote, path: build/train}
  held_out: {from: split.held_out, path: build/held_out}
"""


def people(rows: int = 200) -> pa.Table:
    """Rows 0 to ``rows`` - 1; age is row modulo 100, every fourth row is Icelandic."""
    index = np.arange(rows)
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    grey = (index[:, None] * 7 + np.arange(64)) % 17
    return pa.table(
        {
            "id": pa.array(index),
            "age": pa.array(index % 100, pa.int32()),
            "lang": np.array(["en", "fr", "en", "is"])[index % 4].tolist(),
            "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 3),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(grey.astype(np.uint8).reshape(-1)), 64),
        }
    )


def make_project(folder: Path, recipe: str = RECIPE, table: pa.Table | None = None) -> Path:
    """Write data and recipe; returns the recipe's path."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(people() if table is None else table, folder / "data" / "people.parquet")
    path = folder / "recipe.yaml"
    path.write_text(recipe, "utf-8")
    return path


def curate(*args: object) -> Result:
    """Run ``curate`` in this process."""
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def curate_process(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python -m curation`` as users do."""
    return subprocess.run(
        [sys.executable, "-m", "curation", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """Environment in which another process finds this source tree."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def events(output: str) -> list[dict[str, Any]]:
    """JSON lines of ``--json``."""
    return [json.loads(line) for line in output.splitlines()]
