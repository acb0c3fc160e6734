"""Filter and write: ours against Polars' streaming scan, filter, sink; and memory held under ``--memory 1GB``."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.harness import DATA, child, interleave, report

ROWS = 500_000
FILES = 8

RECIPE = """
recipe: 1
name: filter-write
seed: 1
inputs: {{documents: {{path: documents-{copies}}}}}
stages: [{{use: filter, where: "score > 0.3"}}]
output: {{path: out-{order}-{workers}, format: arrow, order: {order}}}
"""


def make(copies: int) -> Path:
    """Write 8 files of 500,000 rows (about 220 decoded bytes each) once, and link them ``copies`` times."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    base, folder = DATA / "documents", DATA / f"documents-{copies}"
    base.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    words = np.array(["alpha", "beta", "gamma", "delta", "epsilon"])
    for number in range(FILES):
        path = base / f"{number}.parquet"
        if not path.exists():
            draw = np.random.default_rng(number)
            x = draw.standard_normal(ROWS * 16).astype(np.float32)
            index = np.arange(number * ROWS, (number + 1) * ROWS)
            table = pa.table(
                {
                    "id": index,
                    "score": draw.random(ROWS),
                    "lang": words[draw.integers(0, 5, ROWS)],
                    "text": [f"document {i} " + "lorem ipsum dolor sit amet " * 2 for i in index],
                    "x": pa.FixedSizeListArray.from_arrays(pa.array(x), 16),
                }
            )
            pq.write_table(table, path, row_group_size=100_000, compression="zstd")
        for copy in range(copies):
            link = folder / f"{copy:03d}-{number}.parquet"
            if not link.exists():
                os.link(path, link)
    return folder


def polars(folder: str) -> None:
    """Scan, filter and sink with Polars, the way its documentation recommends for data beyond memory."""
    import polars as pl

    out = DATA / "polars.arrow"
    begun = time.perf_counter()
    pl.scan_parquet(f"{folder}/*.parquet").filter(pl.col("score") > 0.3).sink_ipc(out)
    seconds = time.perf_counter() - begun
    out.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak}))


def main(copies: int = 16, repeats: int = 3) -> None:
    """Compare one core with one core and two with two."""
    folder = make(copies)
    runs = {
        "Polars, 1 thread": partial(child, "benchmarks.filter_write", "polars", folder, threads=1),
        "Polars, 2 threads": partial(child, "benchmarks.filter_write", "polars", folder, threads=2),
    }
    for order in ("input", "shuffled"):
        for workers in (1, 2):
            path = DATA / f"filter-{order}-{workers}.yaml"
            path.write_text(RECIPE.format(copies=copies, order=order, workers=workers), "utf-8")
            name = f"ours, order {order}, {workers} worker{'s' * (workers > 1)}, 1 GB each"
            runs[name] = partial(child, "benchmarks.build_child", path, workers, 1 << 30)
    found = interleave(runs, repeats)
    report(
        "filter_write",
        found,
        {"seconds": "seconds, start-up apart", "start_up_s": "start-up, s", "peak_mb": "peak of a process, MB"},
    )


if __name__ == "__main__":
    if sys.argv[1] == "polars":
        polars(sys.argv[2])
