"""What the tests of whole builds share: small real tables, recipes, and the bytes that a build leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_iris

from curation.flow.build import BuildOptions, BuildResult, build
from curation.io.location import Location, local
from curation.recipe.load import load_recipe
from curation.testing import digest_tree

__all__ = ["ALL_STAGES", "digest_tree", "iris", "people", "read", "run", "write"]


def people(rows: int, *, start: int = 0, seed: int = 0) -> pa.Table:
    """A small table with text, groups of uneven size, features, weights and holes; row i is the same in any call."""
    index = np.arange(start, start + rows)
    noise = np.random.default_rng(seed).normal(size=(start + rows, 3))[start:]
    group = np.array(["en", "en", "en", "en", "fr", "fr", "is", "en"])[index % 8]
    x = np.random.default_rng(seed + 1).normal(size=(start + rows, 4)).astype(np.float32)[start:]
    return pa.table(
        {
            "id": index,
            "lang": group,
            "text": pa.array([None if i % 11 == 3 else f"row {i} é" for i in index], pa.string()),
            "score": pa.array([None if i % 7 == 5 else float(v) for i, v in zip(index, noise[:, 0], strict=True)]),
            "weight": np.abs(noise[:, 1]),
            "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 4),
        }
    )


def iris() -> pa.Table:
    """The 150 irises of scikit-learn with their four measures."""
    data = load_iris()
    columns = {name: data.data[:, i] for i, name in enumerate(("sl", "sw", "pl", "pw"))}
    return pa.table({"id": np.arange(150), **columns, "species": data.target_names[data.target].tolist()})


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write a Parquet file, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def run(folder: Path, recipe: str, *, overrides: tuple[str, ...] = (), out: str = "out", **options: Any) -> BuildResult:
    """Build ``recipe`` (text) in ``folder``; serially unless said otherwise."""
    path = folder / "recipe.yaml"
    path.write_text(recipe, "utf-8")
    options.setdefault("executor", "serial")
    work = folder / f"{out}.work"
    return build(load_recipe(path, overrides=overrides), BuildOptions(work=work, **options))


def read(root: Location) -> pa.Table:
    """All shards of a build as one table."""
    from curation.io.manifest import read_manifest

    manifest = read_manifest(root)
    parts = []
    for shard in manifest.shards:
        path = local(root / shard.path)
        parts.append(pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all())
    return pa.concat_tables(parts)


ALL_STAGES = """
recipe: 1
name: all-stages
seed: 11
inputs:
  people: {path: data, key: id, where: "id % 13 <> 0"}
stages:
  - use: filter
    where: "score > -1.5"
  - use: derive
    columns: {long: "length(text) > 7", double: "score * 2"}
  - use: sample
    n: 300
    weight: weight
    by: lang
  - use: rename
    columns: {text: caption}
  - use: select
    drop: [double]
  - use: split
    shares: {train: 0.8, held_out: 0.2}
  - name: rare
    use: smote
    from: split.train
    label: lang
    features: [x]
    target: {is: 90, fr: 120}
    k: 3
  - name: again
    use: sample
    fraction: 1.1
    replacement: true
expect:
  - {min_rows: 10, by: lang, output: train}
outputs:
  train:
    from: again
    path: out/train
    shard_rows: 64
    feed: {batch_size: 16, epochs: 4, groups: lang, mixture: {temperature: 3}, subset: {use: rs2, fraction: 0.5}}
  held_out: {from: split.held_out, path: out/held_out, shard_rows: 20, format: parquet}
"""
"""A recipe that uses every stage, two outputs, both orders and both formats."""
