"""Single values of 4 to 20 KB out of a Parquet shard: one pread with the sidecar, against decoding the row group."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import DATA, interleave, report
from curation.io.parquet_profile import write_offsets, write_parquet

READS, DECODED = 20_000, 40
"""Values that are read by pread, and those for which a row group is decoded."""


def blobs(rows: int, low: int, high: int) -> pa.Table:
    """Random bytes, which nothing compresses, with a number and a label."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(low, high, rows)
    values = [draw.bytes(int(size)) for size in sizes]
    return pa.table({"id": np.arange(rows), "label": np.arange(rows) % 100, "image": values})


def rate(read: Callable[[int], bytes], table: pa.Table, count: int) -> dict[str, Any]:
    """Values a second at random rows; each is compared with the column."""
    at = np.random.default_rng(1).integers(0, table.num_rows, count).tolist()
    begun = time.perf_counter()
    found = [read(row) for row in at]
    seconds = time.perf_counter() - begun
    column = table.column("image")
    if any(value != column[row].as_py() for value, row in zip(found, at, strict=True)):
        raise SystemExit("a value differs from its column")
    return {"rate": count / seconds}


def by_pread(shard: Path, sidecar: Path) -> Callable[[int], bytes]:
    """Read a value at its place."""
    places = pa.ipc.open_file(pa.memory_map(str(sidecar))).read_all()
    offset, length = (places.column(f"image.{part}").to_numpy() for part in ("offset", "length"))
    descriptor = os.open(shard, os.O_RDONLY)
    return lambda row: os.pread(descriptor, int(length[row]), int(offset[row]))


def by_row_group(shard: Path) -> Callable[[int], bytes]:
    """Decode the column of the row group that has the row."""
    file = pq.ParquetFile(shard)
    counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = np.cumsum([0, *counts])

    def read(row: int) -> bytes:
        group = int(np.searchsorted(starts, row, side="right")) - 1
        column = file.read_row_group(group, columns=["image"]).column("image")
        value: bytes = column[row - int(starts[group])].as_py()
        return value

    return read


def footer(path: Path) -> int:
    """Bytes of a footer."""
    return int.from_bytes(path.read_bytes()[-8:-4], "little")


def footers(folder: Path) -> None:
    """Print footers of small blobs, whose statistics Arrow keeps, with and without them, in groups of 1,000 rows."""
    table = blobs(20_000, 500, 4_000)
    for statistics in (True, ["id", "label"]):
        path = folder / "footer.parquet"
        pq.write_table(table, path, row_group_size=1000, use_dictionary=False, write_statistics=statistics)
        print(f"footer of 20 row groups, 0.5 to 4 KB, statistics of {statistics}: {footer(path):,} bytes")


def main(repeats: int = 3, rows: int = 20_000) -> None:
    """Time both, and measure footers."""
    folder = DATA / "parquet_profile"
    folder.mkdir(parents=True, exist_ok=True)
    table = blobs(rows, 4_000, 20_000)
    ours, usual, sidecar = (folder / name for name in ("ours.parquet", "usual.parquet", "ours.offsets.arrow"))
    begun = time.perf_counter()
    write_parquet(table, ours, compression="zstd")
    written = time.perf_counter()
    write_offsets(ours, sidecar)
    print(f"write {written - begun:.2f} s, sidecar {time.perf_counter() - written:.2f} s")
    pq.write_table(table, usual, compression="zstd")
    print(json.dumps({path.name: {"bytes": path.stat().st_size} for path in (ours, usual, sidecar)}))
    print(f"footers, 4 to 20 KB: ours {footer(ours):,}, pyarrow's usual {footer(usual):,} bytes")
    footers(folder)
    runs = {
        "pread with the sidecar": lambda: rate(by_pread(ours, sidecar), table, READS),
        "read_row_group, this layout": lambda: rate(by_row_group(ours), table, DECODED),
        "read_row_group, pyarrow's usual layout": lambda: rate(by_row_group(usual), table, max(5, DECODED // 8)),
    }
    report("parquet_profile", interleave(runs, repeats), {"rate": "values a second"})


if __name__ == "__main__":
    main()
