"""Plans: ids per second on one core, size and speed of large plans, and how well the order is shuffled."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import child, interleave, report

IDS = 1 << 22
BATCH = 1024
CIPHERS = ("ours", "numpy", "affine feistel", "simon, 4 rounds")


def rate(draw: Callable[[int, int], Any], ids: int = IDS) -> dict[str, Any]:
    """Ids per second of a function of (start, stop), once it is compiled."""
    draw(0, BATCH)
    begun = time.perf_counter()
    draw(0, ids)
    return {"mids": ids / (time.perf_counter() - begun) / 1e6}


def permutation(n: int) -> dict[str, Any]:
    """The keyed bijection alone."""
    import numpy as np

    from curation.feed import Permutation, derive_key

    order = Permutation(n, derive_key(1, "benchmark"))
    return rate(lambda start, stop: order.at(np.arange(start, stop)))


def write(folder: str, data: list[tuple[str, int]], options: dict[str, Any]) -> tuple[Any, float]:
    """Write and open a plan of 30 epochs; seconds for both."""
    from curation.feed import FeedOptions, Plan, write_plan

    begun = time.perf_counter()
    feed = FeedOptions(batch_size=BATCH, epochs=30, groups="g", **options)
    write_plan(Path(folder) / "plan.json", options=feed, groups=data, seed=1, name="benchmark")
    return Plan.open(folder), time.perf_counter() - begun


def sixteen(batches: str) -> dict[str, Any]:
    """A whole plan of 16 groups of 10,000 to 3 million rows."""
    from curation.methods.temperature import Temperature

    data = [(f"g{i:02d}", round(10_000 * 300 ** (i / 15))) for i in range(16)]
    with TemporaryDirectory() as folder:
        plan, _ = write(folder, data, {"mixture": Temperature(tau=3.0), "batches": batches})
        return rate(plan.draws)


def weighted(n: int) -> dict[str, Any]:
    """A plan by heavy-tailed weights."""
    import numpy as np

    from curation.feed import FeedOptions, Plan, write_plan

    weights = np.random.default_rng(0).pareto(1.2, n)
    with TemporaryDirectory() as folder:
        begun = time.perf_counter()
        feed = FeedOptions(batch_size=BATCH, epochs=30, sample_by="w")
        place = Path(folder) / "plan.json"
        write_plan(place, options=feed, groups=[(None, n)], seed=1, name="b", weights=[weights])
        seconds = time.perf_counter() - begun
        found = rate(Plan.open(folder).draws, min(IDS, n))
        return found | {"seconds": seconds, "disk_mb": size(folder)}


def large(rows: int, n_groups: int) -> dict[str, Any]:
    """A plan of many rows and groups: seconds to write and open, MB, the first batch at step 10^6, jumps after it."""
    import numpy as np

    from curation.methods.cooldown import Cooldown
    from curation.methods.temperature import Temperature

    with TemporaryDirectory() as warm:  # compiles, or loads what is compiled
        write(warm, [("a", 100_000), ("b", 70_000)], {"mixture": Temperature(tau=2.0)})[0].batch(5)
    before = peak()
    data = [(f"g{i:06d}", rows // n_groups) for i in range(n_groups)]
    with TemporaryDirectory() as folder:
        plan, seconds = write(folder, data, {"mixture": Cooldown()})
        begun = time.perf_counter()
        plan.batch(10**6)
        first = time.perf_counter() - begun
        jumps = []
        for step in np.random.default_rng(0).integers(0, plan.n_steps, 50).tolist():
            begun = time.perf_counter()
            plan.batch(step)
            jumps.append(time.perf_counter() - begun)
        return {
            "seconds": seconds,
            "disk_mb": size(folder),
            "peak_mb": (peak() - before) / 2**20,
            "held_mb": plan.nbytes / 2**20,
            "first_ms": first * 1e3,
            "jump_ms": sorted(jumps)[len(jumps) // 2] * 1e3,
        }


def quality(cipher: str) -> dict[str, Any]:
    """Largest |z| of what a training would notice, over 3 keys; a real shuffle stays below 5."""
    import numpy as np

    from curation.feed import Permutation, derive_key
    from tests.feed.shuffles import defects, feistel_with_affine_rounds, simon_of_four_rounds

    orders: dict[str, Callable[[int, int], Any]] = {
        "ours": lambda n, seed: Permutation(n, derive_key(seed, "benchmark")).at(np.arange(n)),
        "numpy": lambda n, seed: np.random.default_rng(seed).permutation(n),
        "affine feistel": feistel_with_affine_rounds,
        "simon, 4 rounds": simon_of_four_rounds,
    }
    found = defects(orders[cipher], 1 << 20, range(3))
    return {f"z_{name}": z for name, z in found.items()} | {"passes": float(max(found.values()) < 5)}


def size(folder: str) -> float:
    """MB of the files in a folder."""
    return sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20


def peak() -> int:
    """Peak memory of this process [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "permutation": permutation,
    "sixteen": sixteen,
    "weighted": weighted,
    "large": large,
    "quality": quality,
}


def main(repeats: int = 3) -> None:
    """Measure on one thread, then judge the shuffles."""
    measured = partial(child, "benchmarks.plan", threads=1)
    runs = {
        "keyed permutation of 10^9": partial(measured, "permutation", 10**9),
        "plan of 16 groups, mixed": partial(measured, "sixteen", "mixed"),
        "plan of 16 groups, unmixed": partial(measured, "sixteen", "unmixed"),
        "plan of 10^7 weights": partial(measured, "weighted", 10**7),
        "plan of 10^9 rows, 100 groups": partial(measured, "large", 10**9, 100),
        "plan of 10^12 rows, 10^5 groups": partial(measured, "large", 10**12, 10**5),
    }
    measures = {
        "mids": "million ids/s",
        "seconds": "written in, s",
        "disk_mb": "on disk, MB",
        "held_mb": "held, MB",
        "first_ms": "first batch of 1,024 at step 10^6, ms",
        "jump_ms": "jump to any batch, ms",
    }
    report("plan", interleave(runs, repeats), measures)
    judged = {name: [measured("quality", name)] for name in CIPHERS}
    names = ("lag", "mean", "parity", "mod4", "neighbours")
    report("plan-quality", judged, {f"z_{name}": name for name in names} | {"passes": "passes"})


if __name__ == "__main__":
    arguments = [int(each) if each.isdigit() else each for each in sys.argv[2:]]
    print(json.dumps(KINDS[sys.argv[1]](*arguments)))
