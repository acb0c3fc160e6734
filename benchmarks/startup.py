"""Start-up: ``curate --help``, the first quickstart build after set-up, and a second run that has nothing to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import interleave, report

RECIPE = Path("pipelines/quickstart/recipe.yaml")


def timed(*arguments: str) -> dict[str, Any]:
    """Seconds of one command."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "curation", *arguments], check=True, capture_output=True)
    return {"seconds": time.perf_counter() - begun}


def cold() -> dict[str, Any]:
    """Build the quickstart with nothing there."""
    shutil.rmtree("build/quickstart", ignore_errors=True)
    return timed("build", str(RECIPE))


def main(repeats: int = 5) -> None:
    """Time the three."""
    subprocess.run([sys.executable, "pipelines/quickstart/make_data.py"], check=True)
    runs = {
        "curate --help": lambda: timed("--help"),
        "quickstart build, cold": cold,
        "quickstart build, nothing to do": lambda: timed("build", str(RECIPE)),
    }
    report("startup", interleave(runs, repeats), {"seconds": "seconds"})


if __name__ == "__main__":
    main()
