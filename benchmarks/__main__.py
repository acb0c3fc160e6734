"""``python -m benchmarks NAME``: run one benchmark; without a name, list them."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = {
    "filter_write": "filter and write 64M rows, against Polars; memory under --memory 1GB",
    "loader": "rows in random order, against datasets, Streaming, LitData, WebDataset and Grain; resumes",
    "near_dedup": "near duplicates of 100,000 texts, against datatrove",
    "parquet_profile": "single rows of Parquet shards by pread, against read_row_group; footers with statistics",
    "plan": "sampling plans: ids per second, size, jumps, quality of the shuffle",
    "smote": "SMOTE on 1M x 64, against imbalanced-learn",
    "small_files": "10,000 small files against one of the same rows",
    "text_filter": "JSON lines through a filter to Parquet, against datatrove and Data-Juicer",
    "startup": "--help, cold quickstart, no-op",
}


def main() -> int:
    """Run what is named."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print("usage: python -m benchmarks NAME [NUMBER ...]")
        for name, about in NAMES.items():
            print(f"  {name:16} {about}")
        return 2
    import_module(f"benchmarks.{sys.argv[1]}").main(*map(int, sys.argv[2:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
