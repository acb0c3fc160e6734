"""A child that builds a recipe and tells its time without start-up, its parts and its peak memory."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from curation.engine.events import Silent
from curation.flow.build import BuildOptions, build
from curation.recipe.load import load_recipe


class Clock(Silent):
    """Notes when the first phase begins."""

    first: float | None = None

    def started(self, phase: str, *, jobs: int, done: int, rows: int) -> None:
        """Note the time."""
        if self.first is None:
            self.first = time.perf_counter()


def main() -> None:
    """Build ``argv[1]`` with ``argv[2]`` workers (0: in this process) and ``argv[3]`` bytes of memory (0: free)."""
    recipe = load_recipe(sys.argv[1])
    workers, memory = int(sys.argv[2]), int(sys.argv[3])
    for output in recipe.outputs:
        for path in (Path(output.path), Path(f"{output.path}.work")):
            shutil.rmtree(path, ignore_errors=True)
    clock, begun = Clock(), time.perf_counter()
    options = BuildOptions(executor="dask" if workers else "serial", workers=workers or None, memory=memory or None)
    result = build(recipe, options, clock)
    ended = time.perf_counter()
    manifest = next(iter(result.manifests.values()))
    run = manifest.path("run")
    assert run is not None
    told = json.loads(run.read_text("utf-8"))
    parts = {phase["phase"]: round(phase["seconds"], 3) for phase in told["phases"]}
    for output in recipe.outputs:
        for path in (Path(output.path), Path(f"{output.path}.work")):
            shutil.rmtree(path, ignore_errors=True)
    assert clock.first is not None
    told_of = {
        "seconds": ended - clock.first,
        "start_up_s": clock.first - begun,
        "rows": manifest.rows,
        "peak_mb": told["peak_bytes"] / 2**20,
        "phases": parts,
    }
    print(json.dumps(told_of))


if __name__ == "__main__":
    main()
