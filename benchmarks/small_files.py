"""Ten thousand small files against one file of the same rows, Parquet and JSON lines, through a filter to Parquet."""

from __future__ import annotations

import json
from functools import partial

from benchmarks.harness import DATA, child, interleave, report

FILES, ROWS = 10_000, 100
RECIPE = """
recipe: 1
name: small-files
seed: 1
inputs: {{rows: {{path: {name}}}}}
stages: [{{use: filter, where: "x > 0"}}]
output: {{path: out-{name}, format: parquet}}
"""


def make() -> None:
    """Write 10,000 files of 100 rows, and the same rows in one, of both formats."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (DATA / "one-jsonl/all.jsonl").exists():
        return
    draw = np.random.default_rng(0)
    for name in ("many-parquet", "many-jsonl", "one-parquet", "one-jsonl"):
        (DATA / name).mkdir(parents=True, exist_ok=True)
    tables, lines = [], []
    for i in range(FILES):
        index = np.arange(i * ROWS, (i + 1) * ROWS)
        table = pa.table({"id": index, "x": draw.normal(size=ROWS), "t": [f"text number {k}" for k in index]})
        pq.write_table(table, DATA / f"many-parquet/{i:05d}.parquet")
        text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
        (DATA / f"many-jsonl/{i:05d}.jsonl").write_text(text, "utf-8")
        tables.append(table)
        lines.append(text)
    pq.write_table(pa.concat_tables(tables), DATA / "one-parquet/all.parquet", row_group_size=100_000)
    (DATA / "one-jsonl/all.jsonl").write_text("".join(lines), "utf-8")


def main(repeats: int = 3) -> None:
    """Build each in one process, from nothing."""
    make()
    runs = {}
    for kind in ("parquet", "jsonl"):
        for name in (f"one-{kind}", f"many-{kind}"):
            path = DATA / f"small-files-{name}.yaml"
            path.write_text(RECIPE.format(name=name), "utf-8")
            files = "1 file" if name.startswith("one") else "10,000 files"
            runs[f"{kind}, {files}"] = partial(child, "benchmarks.build_child", path, 0, 0)
    found = interleave(runs, repeats)
    for samples in found.values():
        for sample in samples:
            sample["whole_s"] = sample["seconds"] + sample["start_up_s"]
    report("small_files", found, {"whole_s": "seconds in all", "peak_mb": "peak, MB"})
