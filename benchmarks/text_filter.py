"""JSON lines, zstd, through a length filter to Parquet: ours against datatrove and Data-Juicer on the same text.

Both peers need environments of their own: ``CURATION_BENCH_DATATROVE`` and ``CURATION_BENCH_DATAJUICER`` name the
Python there; one that is not named is left out. Every side gets the same number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA, interleave, report

FILES = 8
TEXT_BYTES = 2_000
SHORTEST = 1_000
"""Characters below which a text is dropped."""

RECIPE = """
recipe: 1
name: text-filter
seed: 1
inputs: {{texts: {{path: texts-{mb}}}}}
stages: [{{use: filter, where: "length(text) >= 1000"}}]
output: {{path: texts-out-{workers}, format: parquet, order: input}}
"""
JUICER = """
project_name: text-filter
dataset_path: {folder}
export_path: {out}/texts.parquet
np: {workers}
use_cache: false
open_tracer: false
text_keys: text
process:
  - text_length_filter: {{min_len: 1000, max_len: 1000000}}
"""


def sources() -> Iterator[str]:
    """Real text that is on every machine: the Python files of the environment, cut into pieces of uneven size."""
    number = 0
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        text = path.read_text("utf-8", errors="replace")
        at = 0
        while at < len(text):
            size = 200 + (number * 2_654_435_761) % (2 * TEXT_BYTES)
            yield text[at : at + size]
            at, number = at + size, number + 1


def make(mb: int) -> tuple[Path, int]:
    """Write about ``mb`` MB of JSON lines in 8 compressed files; gives the folder and the bytes before compression."""
    import pyarrow as pa

    folder = DATA / f"texts-{mb}"
    told = DATA / f"texts-{mb}.json"
    if told.exists():
        return folder, int(json.loads(told.read_text("utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    texts, size, number = list(sources()), 0, 0
    for i in range(FILES):
        with pa.CompressedOutputStream(str(folder / f"{i}.jsonl.zst"), "zstd") as file:
            written = 0
            while written < mb * 1_000_000 // FILES:
                # Texts come again after all were used, each time under another id.
                line = {"id": f"{number:09d}", "text": texts[number % len(texts)], "score": number % 97 / 97}
                raw = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8")
                file.write(raw)
                written, number = written + len(raw), number + 1
            size += written
    told.write_text(str(size), "utf-8")
    return folder, size


def datatrove(folder: str, workers: int) -> int:
    """Reader, filter and writer of datatrove, one task per file; gives the number of rows."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import ParquetWriter

    out = DATA / "texts-datatrove"
    shutil.rmtree(out, ignore_errors=True)
    pipeline = [
        JsonlReader(folder, glob_pattern="*.jsonl.zst"),
        LambdaFilter(lambda document: len(document.text) >= SHORTEST),
        ParquetWriter(str(out / "rows"), compression="zstd"),
    ]
    LocalPipelineExecutor(pipeline, tasks=FILES, workers=workers, logging_dir=str(out / "logs")).run()
    return _rows(out / "rows")


def juicer(folder: str, workers: int) -> int:
    """Data-Juicer by its own command; gives the number of rows."""
    out = DATA / "texts-juicer"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config = out / "config.yaml"
    config.write_text(JUICER.format(folder=folder, out=out.absolute(), workers=workers), "utf-8")
    command = [str(Path(sys.executable).with_name("dj-process")), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return _rows(out)


def _rows(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


def run_theirs(python: str, who: str, folder: Path, workers: int) -> dict[str, Any]:
    """Run a peer in its environment; its time is that of the whole command, its memory that of all its processes."""
    command = [python, "-m", "benchmarks.text_filter", who, str(folder.absolute()), str(workers)]
    return watched(command)


def run_ours(mb: int, workers: int) -> dict[str, Any]:
    """Build by the command line, from nothing."""
    recipe = DATA / f"text-filter-{workers}.yaml"
    recipe.write_text(RECIPE.format(mb=mb, workers=workers), "utf-8")
    out = DATA / f"texts-out-{workers}"
    for path in (out, out.with_name(out.name + ".work")):
        shutil.rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", "curation", "build", str(recipe), "--workers", str(workers)]
    found = watched(command)
    return found | {"rows": json.loads((out / "manifest.json").read_text("utf-8"))["rows"]}


def watched(command: list[str]) -> dict[str, Any]:
    """Seconds of a command, and the peak of the memory that it and its children hold together."""
    import psutil

    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watch, *watch.children(recursive=True)]
            # Shared pages count once: what a process has for itself.
            peak = max(peak, sum(each.memory_full_info().uss for each in family))
        except psutil.Error:
            pass
        time.sleep(0.1)
    seconds = time.perf_counter() - begun
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{out[-2000:]}{error[-4000:]}")
    last = out.strip().splitlines()[-1:] or [""]
    rows = json.loads(last[0])["rows"] if last[0].startswith("{") else 0
    return {"seconds": seconds, "peak_mb": peak / 2**20, "rows": rows}


def main(mb: int = 1000, repeats: int = 3) -> None:
    """Compare one process with one and two with two."""
    folder, size = make(mb)
    peers = {"datatrove": "CURATION_BENCH_DATATROVE", "juicer": "CURATION_BENCH_DATAJUICER"}
    runs: dict[str, Any] = {}
    for workers in (1, 2):
        runs[f"ours, {workers} worker{'s' * (workers > 1)}"] = partial(run_ours, mb, workers)
        for who, variable in peers.items():
            if variable in os.environ:
                runs[f"{who}, {workers} process{'es' * (workers > 1)}"] = partial(
                    run_theirs, os.environ[variable], who, folder, workers
                )
    found = interleave(runs, repeats)
    for name, samples in found.items():
        processes = 2 if ", 2 " in name else 1
        for sample in samples:
            sample["mb_s_core"] = size / 1e6 / sample["seconds"] / processes
    rows = {sample["rows"] for samples in found.values() for sample in samples}
    print(f"{size / 1e6:.0f} MB of JSON lines, rows kept: {sorted(rows)}")
    measures = {"seconds": "seconds", "mb_s_core": "MB/s a process", "peak_mb": "peak of all processes, MB"}
    report("text_filter", found, measures)


if __name__ == "__main__":
    kept = {"datatrove": datatrove, "juicer": juicer}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"rows": kept}))
