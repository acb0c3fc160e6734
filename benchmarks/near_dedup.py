"""Near duplicates of short texts, 14 bands of 8 rows over 5-grams: ours against datatrove on the same Parquet file.

datatrove needs an environment of its own: ``CURATION_BENCH_DATATROVE`` names the Python there. It is run with its own
English tokenizer (if spaCy is there) and with words cut at spaces, which is faster; the texts are words and spaces
only, so that both ways give the same words as ours. One process each.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import DATA, child, interleave, report

RECIPE = """
recipe: 1
name: near-duplicates
seed: 1
inputs: {{texts: {{path: near-dedup-{rows}.parquet}}}}
stages: [{{use: dedup, near: {{column: text, ngram: 5, bands: 14, rows: 8}}}}]
output: {{path: near-dedup-out, order: input}}
"""
NGRAM, BANDS, ROWS = 5, 14, 8
SMALL = 2_000
"""Texts of the corpus on which every pair is compared."""
EDITS = (0, 0, 1, 2, 3, 5, 8, 13, 21)
"""Words that differ between a text and the one it was made from."""


def corpus(rows: int) -> Path:
    """Parquet file of texts of 40 to 120 words; every second one is an edited copy of another."""
    path = DATA / f"near-dedup-{rows}.parquet"
    if path.exists():
        return path
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(rows)
    letters = draw.integers(97, 123, (50_000, 9)).astype(np.uint8)
    words = [bytes(each[:n]).decode() for each, n in zip(letters, draw.integers(2, 10, len(letters)), strict=True)]
    frequency = 1.0 / np.arange(10, len(words) + 10)
    share = np.cumsum(frequency / frequency.sum())
    texts: list[Any] = []
    for i in range(rows):
        if i % 2:
            text = texts[int(draw.integers(len(texts)))].copy()
            edits = EDITS[int(draw.integers(len(EDITS)))]
            text[draw.integers(0, len(text), edits)] = draw.integers(0, len(words), edits)
        else:
            text = np.searchsorted(share, draw.random(int(draw.integers(40, 121))))
        texts.append(np.minimum(text, len(words) - 1))
    column = [" ".join([words[w] for w in text.tolist()]) for text in texts]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": [str(i) for i in range(rows)], "text": column})
    pq.write_table(table, path, row_group_size=65_536)
    return path


def peak_mb() -> float:
    """Peak memory of this process or of its largest child [MB]."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def kept_path(who: str, rows: int) -> Path:
    """Where a child leaves the positions of texts that it kept."""
    return DATA / f"near-dedup-{who}-{rows}.json"


def ours(rows: int) -> float:
    """Build the recipe; seconds of the build."""
    import pyarrow as pa

    from curation.flow.build import BuildOptions, build
    from curation.recipe.load import load_recipe

    recipe = DATA / "near-dedup.yaml"
    recipe.write_text(RECIPE.format(rows=rows), "utf-8")
    for name in ("near-dedup-out", "near-dedup-out.work"):
        shutil.rmtree(DATA / name, ignore_errors=True)
    begun = time.perf_counter()
    result = build(load_recipe(recipe), BuildOptions(executor="serial"))
    seconds = time.perf_counter() - begun
    manifest = next(iter(result.manifests.values()))
    kept: list[int] = []
    for shard in manifest.shards:
        kept += map(int, pa.ipc.open_file(DATA / "near-dedup-out" / shard.path).read_all().column("id").to_pylist())
    kept_path("ours", rows).write_text(json.dumps(kept), "utf-8")
    return seconds


class _Spaces:
    """Cuts words at spaces, in the place of datatrove's tokenizer."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def theirs(rows: int, who: str) -> float:
    """Run the four steps of datatrove, one after the other; seconds in all, imports apart."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.hashing import HashConfig

    work = DATA / "near-dedup-datatrove"
    shutil.rmtree(work, ignore_errors=True)
    settings = MinhashConfig(NGRAM, BANDS, ROWS, hash_config=HashConfig(precision=64))

    def reader() -> Any:
        return ParquetReader(str(DATA), glob_pattern=f"near-dedup-{rows}.parquet", text_key="text", id_key="id")

    signature = MinhashDedupSignature(str(work / "signatures"), settings, language="en")
    if who == "spaces":
        signature.word_tokenizer = _Spaces()
    signatures, buckets, removed = str(work / "signatures"), str(work / "buckets"), str(work / "removed")
    steps = [
        ([reader(), signature], 1),
        ([MinhashDedupBuckets(signatures, buckets, config=settings)], BANDS),
        ([MinhashDedupCluster(buckets, removed, config=settings)], 1),
        ([reader(), MinhashDedupFilter(removed), ParquetWriter(str(work / "out"))], 1),
    ]
    begun = time.perf_counter()
    for number, (pipeline, tasks) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"logs-{number}")).run()
    seconds = time.perf_counter() - begun
    import pyarrow.parquet as pq

    kept = [int(i) for path in sorted((work / "out").glob("*.parquet")) for i in pq.read_table(path)["id"].to_pylist()]
    kept_path(who, rows).write_text(json.dumps(kept), "utf-8")
    return seconds


def run_theirs(rows: int, who: str) -> dict[str, Any]:
    """Run datatrove in its own environment."""
    command = [os.environ["CURATION_BENCH_DATATROVE"], "-m", "benchmarks.near_dedup", who, str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def similar_pairs(path: Path, least: float) -> dict[tuple[int, int], float]:
    """Jaccard similarity of all pairs that reach ``least``, by the definition."""
    import pyarrow.parquet as pq

    sets, holders = [], defaultdict(list)
    for i, text in enumerate(pq.read_table(path)["text"].to_pylist()):
        words = text.split()
        sets.append({tuple(words[j : j + NGRAM]) for j in range(max(1, len(words) - NGRAM + 1))})
        for shingle in sets[-1]:
            holders[shingle].append(i)
    common: dict[tuple[int, int], int] = defaultdict(int)
    for together in holders.values():
        for n, a in enumerate(together):
            for b in together[n + 1 :]:
                common[a, b] += 1
    found = {(a, b): n / (len(sets[a]) + len(sets[b]) - n) for (a, b), n in common.items()}
    return {pair: similarity for pair, similarity in found.items() if similarity >= least}


def judge(who: str, pairs: dict[tuple[int, int], float]) -> str:
    """What became of similar pairs, and whether dropped texts had one like them."""
    kept = set(json.loads(kept_path(who, SMALL).read_text("utf-8")))
    cells = [str(len(kept))]
    for least in (0.7, 0.8, 0.9):
        close = [pair for pair, similarity in pairs.items() if similarity >= least]
        cells.append(f"{sum(not (a in kept and b in kept) for a, b in close) / len(close):.4f}")
    best: dict[int, float] = defaultdict(float)
    for (a, b), similarity in pairs.items():
        best[a], best[b] = max(best[a], similarity), max(best[b], similarity)
    dropped = [i for i in range(SMALL) if i not in kept]
    cells += [f"{sum(best[i] >= least for i in dropped) / len(dropped):.4f}" for least in (0.5, 0.7)]
    return f"| {who} | {' | '.join(cells)} |"


def agreement(rows: int, names: list[str]) -> None:
    """Of how many of our sets the others kept exactly one text; another seed of ours is the yardstick."""
    import numpy as np
    import pyarrow.parquet as pq

    from curation.methods.dedup import near_duplicates

    text = pq.read_table(corpus(rows))["text"]
    dropped, first = near_duplicates(text, seed=1)
    of = np.arange(rows)
    of[dropped] = first
    sizes = np.bincount(of, minlength=rows)
    print(f"\n{rows} texts, {(sizes > 1).sum()} sets of two or more; share of which exactly one text was kept:")
    others = {name: np.isin(np.arange(rows), json.loads(kept_path(name, rows).read_text("utf-8"))) for name in names}
    others["ours, another seed"] = ~np.isin(np.arange(rows), near_duplicates(text, seed=2)[0])
    for name, kept in others.items():
        left = np.bincount(of, weights=kept, minlength=rows)
        print(f"  {name}: {(left[sizes > 1] == 1).mean():.4f}")


def main(rows: int = 100_000, repeats: int = 3) -> None:
    """Compare what is kept with the truth on a small corpus, and time and memory on ``rows`` texts."""
    names = ["spaces"]
    if "CURATION_BENCH_DATATROVE" not in os.environ:
        raise SystemExit("set CURATION_BENCH_DATATROVE to the Python of an environment with datatrove[io,processing]")
    probe = [os.environ["CURATION_BENCH_DATATROVE"], "-c", "import spacy"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        names.append("tokenizer")
    for size in (SMALL, rows):
        corpus(size)
    child("benchmarks.near_dedup", "ours", SMALL, threads=1)  # compiles the kernels, too
    for who in names:
        run_theirs(SMALL, who)
    pairs = similar_pairs(corpus(SMALL), 0.3)
    print(
        f"\n{SMALL} texts; share of the pairs of a similarity of which at least one text was dropped, and share of the "
        "dropped texts that had one of that similarity"
    )
    print("| run | kept | pairs >= 0.7 | >= 0.8 | >= 0.9 | dropped with >= 0.5 | >= 0.7 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for who in ("ours", *names):
        print(judge(who, pairs))
    runs: dict[str, Any] = {"ours": partial(child, "benchmarks.near_dedup", "ours", rows, threads=1)}
    for who in names:
        runs[f"datatrove, {who}"] = partial(run_theirs, rows, who)
    found = interleave(runs, repeats)
    agreement(rows, names)
    measures = {"seconds": "seconds, start-up apart", "peak_mb": "peak, MB", "kept": "texts kept"}
    report("near_dedup", found, measures)


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    name, count = sys.argv[1], int(sys.argv[2])
    took = ours(count) if name == "ours" else theirs(count, name)
    left = len(json.loads(kept_path(name, count).read_text("utf-8")))
    print(json.dumps({"seconds": took, "peak_mb": peak_mb(), "kept": left}))
