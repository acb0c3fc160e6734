"""Compiles the kernels ahead of the first build: ``python -m curation.warmup``.

Numba compiles a kernel when it is first called and keeps the result on disk, once per installation. Without this step
the first build pays for it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

RECIPE = """
recipe: 1
name: warm-up
seed: 1
inputs:
  keyed: {path: data.parquet, key: id}
  placed: {path: data.parquet}
  lines: {path: data.jsonl}
  cells: {path: data.csv}
stages:
  - {name: tail, use: sample, from: keyed, by: label, long_tail: {imbalance: 4}}
  - {use: split, shares: {train: 0.9, rest: 0.1}}
  - {name: single, use: smote, from: split.train, label: label, features: [x]}
  - {name: double, use: smote, from: placed, label: label, features: [y], keep: [weight]}
  - {name: drawn, use: sample, n: 50, weight: weight}
  - {name: ordered, use: sort, from: drawn, by: [label, text]}
  - {name: copies, use: sample, from: double, n: 300, replacement: true}
  - {name: together, use: concat, from: [lines, cells]}
  - {use: join, from: together, right: keyed, on: id, columns: [weight]}
  - {name: once, use: dedup, columns: [text]}
  - {name: apart, use: dedup, near: {column: text}}
  - {use: text_stats, column: text}
  - {use: bucket, length: {column: text, edges: [1, 2]}}
outputs:
  texts: {from: bucket, path: texts}
  single:
    from: single
    path: single
    feed: {batch_size: 8, epochs: 2, groups: label, mixture: {temperature: 2}, subset: {use: rs2, fraction: 0.5}}
  drawn: {from: ordered, path: drawn, format: parquet}
  copies: {from: copies, path: copies, feed: {batch_size: 8, epochs: 2}}
  weighed: {from: copies, path: weighed, feed: {batch_size: 8, epochs: 1, sample_by: weight}}
"""


def compile_kernels() -> None:
    """Build something tiny that goes through every kernel of a usual build, with the types that it sees there."""
    from curation.api import build

    rows = 120
    draw = np.random.default_rng(0)
    x = draw.normal(size=(rows, 4)).astype(np.float32)
    table = pa.table(
        {
            "id": np.arange(rows),
            "label": np.arange(rows) % 8 // 3,
            "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 4),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4 * rows, np.uint8)), 4),
            "y": draw.normal(size=rows),
            "weight": draw.random(rows),
            "blob": pa.array([None if i % 7 == 0 else bytes(i) for i in range(rows)], pa.binary()),
            "text": [None if i % 5 == 0 else f"row {i}" for i in range(rows)],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder) / "data.parquet")
        texts = table.select(["id", "text"])
        pc.write_csv(texts, Path(folder) / "data.csv")
        lines = "".join(json.dumps(row) + "\n" for row in texts.to_pylist())
        (Path(folder) / "data.jsonl").write_text(lines, "utf-8")
        (Path(folder) / "recipe.yaml").write_text(RECIPE, "utf-8")
        built = build(Path(folder) / "recipe.yaml")
        for name in ("single", "copies", "weighed"):
            next(iter(built.outputs[name].loader()))
        next(built.outputs["drawn"].loader(evaluate=True, batch_size=8))


if __name__ == "__main__":
    compile_kernels()
