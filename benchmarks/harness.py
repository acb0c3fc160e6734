"""Runs children in turn, takes medians, prints a table and writes JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("CURATION_BENCH_DATA", "build/benchmarks"))
"""Where data and results go; set ``CURATION_BENCH_DATA`` to use another disk."""

PACKAGES = ("curation", "polars", "pyarrow", "numpy", "numba", "scikit-learn", "imbalanced-learn", "dask")


def child(module: str, *arguments: object, threads: int | None = None) -> dict[str, Any]:
    """Run ``python -m module arguments`` and read the JSON object that it prints last."""
    environment = dict(os.environ)
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"):
            environment[name] = str(threads)
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def interleave(runs: Mapping[str, Callable[[], dict[str, Any]]], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run every entry once, then all again, ``repeats`` times, so that a slow minute hits all alike."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    for number in range(repeats):
        for name, run in runs.items():
            print(f"  {name} ({number + 1}/{repeats})", file=sys.stderr, flush=True)
            found[name].append(run())
    return found


def summary(samples: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float, float]:
    """Median, smallest and largest value of a measure."""
    values = [float(sample[key]) for sample in samples]
    return statistics.median(values), min(values), max(values)


def report(name: str, found: Mapping[str, Sequence[Mapping[str, Any]]], measures: Mapping[str, str]) -> None:
    """Print a Markdown table (median, range) and write everything as JSON.

    Parameters
    ----------
    name
        Of the benchmark; the JSON file has its name.
    found
        Samples by row of the table.
    measures
        Key in a sample -> heading.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    print(f"\n{name}: {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{package} {number}" for package, number in versions.items()))
    print(f"\n| run | {' | '.join(measures.values())} |")
    print(f"| --- |{' --- |' * len(measures)}")
    for row, samples in found.items():
        cells = []
        for key in measures:
            if all(key in sample for sample in samples):
                middle, low, high = summary(samples, key)
                cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
            else:
                cells.append("-")
        print(f"| {row} | {' | '.join(cells)} |")
    DATA.mkdir(parents=True, exist_ok=True)
    result = {"name": name, "versions": versions, "cores": len(os.sched_getaffinity(0)), "samples": found}
    (DATA / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
