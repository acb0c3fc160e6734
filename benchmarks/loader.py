"""Rows of 64 float32, and binary rows of 4 to 20 KB, in random order: ours against other loaders on the same rows.

Peers have environments of their own with torch: ``CURATION_BENCH_DATASETS``, ``_STREAMING``, ``_LITDATA``,
``_WEBDATASET`` and ``_GRAIN`` name the Python there; one that is not named is left out. Each reads its own format with
the settings that its documentation recommends. What is delivered is a tensor (256, 64), or 256 ``bytes``. A second
part stops each in the middle of an epoch, resumes from its state and counts rows of that epoch that were lost or
came twice.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import DATA, interleave, report

BATCH, WIDTH = 256, 64
WARM = 8
"""Batches before the clock starts: workers have begun, kernels are compiled."""
PEERS = ("datasets", "streaming", "litdata", "webdataset", "grain")
RECIPE = """
recipe: 1
name: {name}
seed: 1
inputs: {{rows: {{path: loader-{name}.parquet}}}}
feed: {{batch_size: 256, epochs: 3}}
output: {{path: loader-{name}/ours, format: {format}}}
"""


def make(name: str, rows: int) -> None:
    """Write the rows as Parquet and, for the bare gather, as raw bytes."""
    folder = DATA / f"loader-{name}"
    if (folder / "rows").exists() and int((folder / "rows").read_text("utf-8")) == rows:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    if name == "numbers":
        x = draw.random((rows, WIDTH), dtype=np.float32)
        column: pa.Array = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
        np.save(folder / "bare.npy", x)
    else:
        values = [draw.bytes(int(size)) for size in draw.integers(4_000, 20_000, rows)]
        column = pa.array(values, pa.binary())
        np.save(folder / "bare.npy", np.frombuffer(b"".join(values), np.uint8))
        np.save(folder / "ends.npy", np.cumsum([0, *map(len, values)]))
    table = pa.table({"id": np.arange(rows), "value": column})
    pq.write_table(table, DATA / f"loader-{name}.parquet", compression="none", use_dictionary=["id"])
    (folder / "rows").write_text(str(rows), "utf-8")


def build(name: str, format: str) -> None:
    """Our result: binary rows as Parquet with sidecars or as Arrow, numbers as Arrow."""
    import curation

    recipe = DATA / f"loader-{name}.yaml"
    recipe.write_text(RECIPE.format(name=name, format=format), "utf-8")
    curation.build(recipe)


def source(name: str) -> Iterator[tuple[int, Any]]:
    """Rows one by one, for the writers of the peers."""
    file = pq.ParquetFile(DATA / f"loader-{name}.parquet")
    for batch in file.iter_batches(1024):
        if name == "numbers":
            values: Iterable[Any] = batch.column("value").flatten().to_numpy().reshape(-1, WIDTH)
        else:
            values = batch.column("value").to_pylist()
        yield from zip(batch.column("id").to_pylist(), values, strict=True)


# Each gives batches of (ids, values) of one epoch; ``state`` is where to go on, and ``save`` is told how to get it.

Batches = Iterator[tuple[list[int], Any]]
Save = list[Callable[[], Any]]


def pairs(loader: Iterable[Any]) -> Batches:
    """Ids and values of batches that are dicts."""
    for batch in loader:
        ids, values = batch["id"], batch["value"]
        whole = getattr(values, "ndim", 0) == 2  # a matrix; what is 256 values is made 256 `bytes`
        yield ids.tolist() if hasattr(ids, "tolist") else list(ids), values if whole else list(values)


def numpy_(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Bare gather from mapped files."""
    folder = DATA / f"loader-{name}"
    bare = np.load(folder / "bare.npy", mmap_mode="r")
    ends = np.load(folder / "ends.npy").tolist() if name == "bytes" else []
    n = len(ends) - 1 if ends else len(bare)
    order = np.random.default_rng(1).permutation(n)
    for start in range(0, n, BATCH):
        at = order[start : start + BATCH]
        ids = at.tolist()
        yield ids, bare[at] if not ends else [bare[ends[i] : ends[i + 1]].tobytes() for i in ids]


def ours(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Our loader without torch."""
    import curation

    loader = curation.open(DATA / f"loader-{name}/ours").loader(columns=["id", "value"], epoch=0)
    if state:
        loader.load_state_dict(state)
    save.append(loader.state_dict)
    return pairs(loader)


def ours_torch(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Our iterable data set."""
    from torch.utils.data import DataLoader

    import curation
    from curation.feed.torch import TorchIterable

    data = TorchIterable(curation.open(DATA / f"loader-{name}/ours"), columns=["id", "value"], epoch=0)
    if state:
        data.load_state_dict(state)
    handed: list[int] = []
    save.append(lambda: data.state_dict() | {"step": len(handed)})
    for batch in pairs(DataLoader(data, batch_size=None, num_workers=workers)):
        handed.append(1)
        yield batch


def ours_map(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Our map-style data set."""
    from torch.utils.data import DataLoader

    import curation
    from curation.feed.torch import PlanBatchSampler, TorchDataset, collate

    found = curation.open(DATA / f"loader-{name}/ours")
    data, sampler = TorchDataset(found, columns=["id", "value"]), PlanBatchSampler(found, epoch=0)
    return pairs(DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers))


def datasets_map(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Hugging Face, map-style; the state is that of torchdata's loader."""
    import datasets
    import torch
    from torch.utils.data import DataLoader

    cache = str(DATA / "loader-hf")
    data = datasets.Dataset.from_parquet(str(DATA / f"loader-{name}.parquet"), cache_dir=cache)
    data = data.with_format("torch") if name == "numbers" else data
    torch.manual_seed(1)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers)
    return pairs(loader)


def datasets_iterable(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Hugging Face, iterable, shuffled by its buffer; the state is its own."""
    import datasets
    from torch.utils.data import DataLoader

    cache = str(DATA / "loader-hf")
    data = datasets.Dataset.from_parquet(str(DATA / f"loader-{name}.parquet"), cache_dir=cache)
    data = data.to_iterable_dataset(num_shards=8).shuffle(seed=1, buffer_size=1000)
    data = data.with_format("torch") if name == "numbers" else data
    if state:
        data.load_state_dict(state)
    save.append(data.state_dict)
    return pairs(DataLoader(data, batch_size=BATCH, num_workers=workers))


def make_streaming(name: str) -> None:
    from streaming import MDSWriter

    kind = f"ndarray:float32:{WIDTH}" if name == "numbers" else "bytes"
    with MDSWriter(out=str(DATA / f"loader-{name}/streaming"), columns={"id": "int", "value": kind}) as writer:
        for number, value in source(name):
            writer.write({"id": number, "value": value})


def streaming(name: str, workers: int, state: Any, save: Save) -> Batches:
    """MosaicML Streaming; the state is that of its loader."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    data = StreamingDataset(local=str(DATA / f"loader-{name}/streaming"), shuffle=True, batch_size=BATCH)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=workers)
    if state:
        loader.load_state_dict(state)
    save.append(loader.state_dict)
    return pairs(loader)


def lit_row(name: str, number: int) -> Iterator[dict[str, Any]]:
    for at, value in source(name):
        yield {"id": at, "value": value.copy() if name == "numbers" else value}


def make_litdata(name: str) -> None:
    import litdata

    out = str(DATA / f"loader-{name}/litdata")
    litdata.optimize(partial(lit_row, name), [0], out, chunk_bytes="64MB", num_workers=1, start_method="fork")


def litdata_(name: str, workers: int, state: Any, save: Save) -> Batches:
    """LitData; the state is that of its loader."""
    import litdata

    data = litdata.StreamingDataset(str(DATA / f"loader-{name}/litdata"), shuffle=True, seed=1)
    loader = litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers)
    if state:
        loader.load_state_dict(state)
    save.append(loader.state_dict)
    return pairs(loader)


def make_webdataset(name: str) -> None:
    import webdataset

    folder = DATA / f"loader-{name}/webdataset"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=10_000, maxsize=64 << 20, verbose=0) as writer:
        for number, value in source(name):
            key = "npy" if name == "numbers" else "bin"
            writer.write({"__key__": f"{number:09d}", "id.cls": number, f"value.{key}": value})


def webdataset_(name: str, workers: int, state: Any, save: Save) -> Batches:
    """WebDataset, shuffled by its buffer; it has no state, so that a resumed epoch begins anew."""
    import webdataset

    urls = sorted(str(path) for path in (DATA / f"loader-{name}/webdataset").glob("*.tar"))
    data = webdataset.WebDataset(urls, shardshuffle=100).shuffle(1000).decode()
    keys = ("id.cls", "value.npy" if name == "numbers" else "value.bin")
    loader = webdataset.WebLoader(data.to_tuple(*keys).batched(BATCH), batch_size=None, num_workers=workers)
    return ((np.asarray(ids).tolist(), values) for ids, values in loader)


class Stored:
    """Rows by number for Grain, which takes any such source."""

    def __init__(self, name: str) -> None:
        self.name, self.data = name, None

    def __len__(self) -> int:
        return int((DATA / f"loader-{self.name}/rows").read_text("utf-8"))

    def __getitem__(self, i: Any) -> dict[str, Any]:
        folder = DATA / f"loader-{self.name}"
        if self.data is None:  # several threads come here at once: what is looked at first is set last
            self.ends = np.load(folder / "ends.npy") if self.name == "bytes" else None
            self.data = np.load(folder / "bare.npy", mmap_mode="r")
        if self.ends is None:
            return {"id": i, "value": self.data[i]}
        return {"id": i, "value": self.data[self.ends[i] : self.ends[i + 1]].tobytes()}


def grain_(name: str, workers: int, state: Any, save: Save) -> Batches:
    """Grain over mapped arrays, with its own workers; the state is that of its iterator."""
    import grain

    if workers:
        from absl import flags

        flags.FLAGS(["loader"], known_only=True)
    stack = None if name == "numbers" else (lambda rows: {key: [row[key] for row in rows] for key in rows[0]})
    data = grain.MapDataset.source(Stored(name)).shuffle(seed=1)
    rows = data.batch(BATCH) if stack is None else data.batch(BATCH, batch_fn=stack)
    reader = rows.to_iter_dataset()
    if workers:
        reader = reader.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=workers))
    iterator = iter(reader)
    if state:
        iterator.set_state(state)
    save.append(iterator.get_state)
    return pairs(iterator)


RUNS: dict[str, tuple[str, Callable[..., Batches]]] = {
    "numpy, bare gather": ("", numpy_),
    "ours": ("", ours),
    "ours, TorchIterable": ("", ours_torch),
    "ours, TorchDataset": ("", ours_map),
    "datasets, map-style": ("datasets", datasets_map),
    "datasets, iterable": ("datasets", datasets_iterable),
    "MosaicML Streaming": ("streaming", streaming),
    "LitData": ("litdata", litdata_),
    "WebDataset": ("webdataset", webdataset_),
    "Grain": ("grain", grain_),
}
ALONE = ("numpy, bare gather", "ours")
MAKE = {"streaming": make_streaming, "litdata": make_litdata, "webdataset": make_webdataset}


def processor_s() -> float:
    """Processor time of this process and its children so far [s]."""
    total = 0.0
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    for each in (os.getpid(), *map(int, mine.read_text("utf-8").split())):
        fields = Path(f"/proc/{each}/stat").read_text("utf-8").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def timed(who: str, name: str, workers: int) -> dict[str, Any]:
    """Rows a second over what is left of an epoch after the first batches, and rows a second of processor time."""
    batches = RUNS[who][1](name, workers, None, [])
    for _ in itertools.islice(batches, WARM):
        pass
    begun, used, rows, size = time.perf_counter(), processor_s(), 0, 0
    spent, rows_then = 0.0, 0
    for number, (ids, values) in enumerate(batches):
        rows += len(ids)
        size += values.nbytes if hasattr(values, "nbytes") else sum(map(len, values))
        seconds = time.perf_counter() - begun  # to the last batch: the end of workers is nobody's concern
        if number % 8 == 7:  # not at the end, where workers are gone, and their time with them
            spent, rows_then = processor_s() - used, rows
    return {"rate": rows / seconds, "rate_cpu": rows_then / max(spent, 0.01), "bytes": size / rows}


def resumed(who: str, name: str, workers: int) -> dict[str, Any]:
    """Rows of an epoch that never come, and those that come again, if it is stopped and resumed in the middle."""
    save: Save = []
    seen: Counter[int] = Counter()
    total = int((DATA / f"loader-{name}/rows").read_text("utf-8"))
    batches = RUNS[who][1](name, workers, None, save)
    for ids, _ in itertools.islice(batches, total // BATCH // 2):
        seen.update(ids)
    state = save[0]() if save else None
    del batches
    begun = time.perf_counter()
    first = None
    for ids, _ in RUNS[who][1](name, workers, state, []):
        first = first or time.perf_counter() - begun
        seen.update(ids)
    return {"lost": total - len(seen), "again": sum(n - 1 for n in seen.values()), "first_s": first or 0.0}


def run(who: str, what: str, name: str, workers: int) -> dict[str, Any]:
    """One of the above in the environment of the peer."""
    peer = RUNS[who][0]
    python = os.environ[f"CURATION_BENCH_{peer.upper()}"] if peer else sys.executable
    command = [python, "-m", "benchmarks.loader", what, who, name, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def prepare(peer: str, name: str) -> None:
    """Let a peer write its format, once."""
    if peer in MAKE and not (DATA / f"loader-{name}/{peer}").exists():
        command = [os.environ[f"CURATION_BENCH_{peer.upper()}"], "-m", "benchmarks.loader", "make", peer, name, "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-4000:]}")


def main(repeats: int = 3, numbers: int = 200_000, blobs: int = 20_000) -> None:
    """Compare rates, then resumes."""
    here = [who for who, (peer, _) in RUNS.items() if not peer or f"CURATION_BENCH_{peer.upper()}" in os.environ]
    for name, rows, format in (("numbers", numbers, "arrow"), ("bytes", blobs, "parquet")):
        make(name, rows)
        build(name, format)
        for peer in PEERS:
            if f"CURATION_BENCH_{peer.upper()}" in os.environ:
                prepare(peer, name)
        found: dict[str, Callable[[], dict[str, Any]]] = {}
        for who in here:
            for workers in (0,) if who in ALONE else (0, 2):
                label = who if who in ALONE else f"{who}, {workers} workers"
                found[label] = partial(run, who, "timed", name, workers)
        measures = {"rate": "rows/s", "rate_cpu": "rows a second of processor time", "bytes": "bytes a row"}
        report(f"loader_{name}", interleave(found, repeats), measures)
    stops = {
        f"{who}, {workers} workers": partial(run, who, "resumed", "bytes", workers)
        for who in here
        if who not in ("numpy, bare gather", "ours, TorchDataset", "datasets, map-style")
        for workers in ((0,) if who in ("ours", "datasets, iterable", "Grain") else (0, 2))
    }
    measures = {"lost": "rows lost", "again": "rows again", "first_s": "seconds to the first batch"}
    report("loader_resume", interleave(stops, 1), measures)


if __name__ == "__main__":
    what, who, name, workers = sys.argv[1:]
    if what == "make":
        MAKE[who](name)
    else:
        print(json.dumps({"timed": timed, "resumed": resumed}[what](who, name, int(workers))))
