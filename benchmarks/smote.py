"""SMOTE, 1M x 64 float32 with 3 % minority: ours against imbalanced-learn, both exact, in memory; and from Parquet."""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from typing import Any

from benchmarks.harness import DATA, child, interleave, report

RECIPE = """
recipe: 1
name: smote
seed: 1
inputs: {{rows: {{path: smote.parquet}}}}
stages: [{{use: smote, label: label, features: [x]}}]
output: {{path: out-smote-{workers}, order: input}}
"""
ROWS, WIDTH, SHARE = 1_000_000, 64, 0.03


def data() -> tuple[Any, Any]:
    """Two classes, each of eight blobs."""
    import numpy as np

    draw = np.random.default_rng(0)
    label = (draw.random(ROWS) < SHARE).astype(np.int64)
    centre = draw.standard_normal((2, 8, WIDTH)) * 1.5
    x = draw.standard_normal((ROWS, WIDTH)) + centre[label, draw.integers(0, 8, ROWS)]
    return x.astype(np.float32), label


def timed(who: str) -> None:
    """Oversample in memory and tell seconds and the memory that came on top of the data."""
    import numpy as np

    x, label = data()
    small = np.zeros((60, WIDTH), np.float32) + np.random.default_rng(0).random((60, WIDTH), np.float32)
    if who == "imblearn":
        from imblearn.over_sampling import SMOTE

        SMOTE(random_state=0).fit_resample(small, np.arange(60) % 4 // 3)
        before = peak()
        begun = time.perf_counter()
        grown, _ = SMOTE(random_state=0).fit_resample(x, label)
    else:
        from curation.methods.smote import smote

        smote(small, 50)
        before = peak()
        begun = time.perf_counter()
        minority = x[label == 1]
        new, _ = smote(minority, int((label == 0).sum()) - len(minority))
        grown = np.concatenate([x, new])
        np.concatenate([label, np.ones(len(new), np.int64)])
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak_mb": (peak() - before) / 2**20, "rows": len(grown)}))


def peak() -> int:
    """Peak memory of this process [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(repeats: int = 3) -> None:
    """Compare with the same number of threads, and show the recipe on 1 and 2 workers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = DATA / "smote.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x, label = data()
        columns = {"label": label, "x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)}
        pq.write_table(pa.table(columns), path, row_group_size=131_072, compression="none", use_dictionary=["label"])
    runs = {
        "imbalanced-learn, in memory": partial(child, "benchmarks.smote", "imblearn"),
        "ours, kernel in memory": partial(child, "benchmarks.smote", "ours"),
    }
    for workers in (1, 2):
        recipe = DATA / f"smote-{workers}.yaml"
        recipe.write_text(RECIPE.format(workers=workers), "utf-8")
        name = f"ours, Parquet to shards, {workers} worker{'s' * (workers > 1)}"
        runs[name] = partial(child, "benchmarks.build_child", recipe, workers, 0)
    measures = {"seconds": "seconds, start-up apart", "peak_mb": "peak, MB (in memory: above the data)"}
    report("smote", interleave(runs, repeats), measures)


if __name__ == "__main__":
    timed(sys.argv[1])
