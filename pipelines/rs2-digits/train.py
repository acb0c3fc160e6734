"""Trains a small network on every way of the recipe, and says how well each of them does on held-out rows.

Every finished run is a JSON file, so that the script can be stopped and run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import curation

HERE = Path(__file__).resolve().parent
RUNS = HERE.parents[1] / "build" / "rs2-digits" / "runs"

WAYS = {
    "full": "all rows, 60 epochs",
    "without_30": "RS2 30 %, without replacement",
    "with_30": "RS2 30 %, with replacement",
    "static_30": "static random 30 %",
    "short_30": "all rows, 18 epochs (control)",
    "without_10": "RS2 10 %, without replacement",
    "with_10": "RS2 10 %, with replacement",
    "static_10": "static random 10 %",
    "short_10": "all rows, 6 epochs (control)",
}

LEARNING_RATE = 0.05


def network() -> nn.Module:
    """Two convolutions and two layers for pictures of 8x8: 38,282 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def pictures(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Grey values (n, 64) in 0 .. 16 as input of the network, (n, 1, 8, 8) in -1 .. 1."""
    return torch.from_numpy(pixels.astype(np.float32) / 8 - 1).reshape(-1, 1, 8, 8)


def train(build: curation.Build, *, seed: int, max_steps: int | None = None) -> nn.Module:
    """Train along the plan of a build.

    The learning rate falls as a cosine from its start to 0 over the steps of the plan itself; a schedule for the steps
    of all rows would end far too early for a subset.

    Parameters
    ----------
    build
        Rows and plan.
    seed
        Of the first weights.
    max_steps
        Stop after so many steps; None is the whole plan.
    """
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step, batch in enumerate(build.loader(columns=["pixels", "label"])):
        if step == max_steps:
            break
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / build.plan.n_steps)) / 2
        loss = nn.functional.cross_entropy(model(pictures(batch["pixels"])), torch.from_numpy(batch["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def accuracy(model: nn.Module, build: curation.Build) -> float:
    """Share of the rows of a build whose digit the network names [-]."""
    rows = build.table().select("pixels", "label").collect()
    with torch.no_grad():
        named = model(pictures(rows["pixels"].to_numpy())).argmax(dim=1).numpy()
    return float((named == rows["label"].to_numpy()).mean())


def seen(plan: curation.feed.Plan) -> int:
    """Rows that the training sees at least once."""
    return len(np.unique(np.concatenate([plan.rows(epoch) for epoch in range(plan.epochs)])))


def runs(seeds: Sequence[int], ways: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Results of all runs; only those that are not in the folder are computed."""
    for seed in seeds:
        files = {way: folder / f"{way}-{seed}.json" for way in ways}
        if not all(file.is_file() for file in files.values()):
            outputs = curation.build(HERE / "recipe.yaml", overrides=[f"seed={seed}"]).outputs
        for way, file in files.items():
            if not file.is_file():
                began = time.perf_counter()
                build = outputs[way]
                found = {
                    "way": way,
                    "seed": seed,
                    "steps": build.plan.n_steps,
                    "rows_seen": seen(build.plan),
                    "accuracy": accuracy(train(build, seed=seed), outputs["test"]),
                    "seconds": round(time.perf_counter() - began, 2),
                }
                folder.mkdir(parents=True, exist_ok=True)
                file.with_suffix(".tmp").write_text(json.dumps(found) + "\n", "utf-8")
                file.with_suffix(".tmp").replace(file)
                print(json.dumps(found), flush=True)
            yield json.loads(file.read_text("utf-8"))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean accuracy of each way, and the mean difference to the control of its share, paired by seed; in %."""
    by_way: dict[str, dict[int, Mapping[str, Any]]] = {}
    for each in results:
        by_way.setdefault(each["way"], {})[each["seed"]] = each
    lines = []
    for way in (way for way in WAYS if way in by_way):
        found = by_way[way]
        control = by_way.get(f"short_{way[-2:]}", {})
        pairs = [100 * (found[seed]["accuracy"] - control[seed]["accuracy"]) for seed in found if seed in control]
        lines.append(
            {
                "way": way,
                "steps": next(iter(found.values()))["steps"],
                "seen": np.mean([each["rows_seen"] for each in found.values()]),
                "accuracy": mean_and_error([100 * each["accuracy"] for each in found.values()]),
                "difference": mean_and_error(pairs) if pairs and not way.startswith("short") else None,
            }
        )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Summary as a table of Markdown."""
    text = ["| way | steps | rows seen | test accuracy % | minus control |", "| --- | --- | --- | --- | --- |"]
    for line in lines:
        apart = "" if line["difference"] is None else "{:+.2f} ± {:.2f}".format(*line["difference"])
        accurate = "{:.2f} ± {:.2f}".format(*line["accuracy"])
        text.append(f"| {WAYS[line['way']]} | {line['steps']:,} | {line['seen']:,.0f} | {accurate} | {apart} |")
    return "\n".join(text)


def picture(lines: Sequence[Mapping[str, Any]]) -> str:
    """Summary as a drawing: a dot for the mean, a bar of two standard errors to either side."""
    ends = [line["accuracy"][0] + side * 2 * line["accuracy"][1] for line in lines for side in (-1, 1)]
    low, high = math.floor(min(ends)), math.ceil(max(ends))

    def x(value: float) -> float:
        return 240 + 400 * (value - low) / (high - low)

    bottom = 24 + 24 * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 {bottom + 44}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for value in range(low, high + 1):
        parts.append(f'<path d="M{x(value):.1f} 12V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value}</text>')
    for i, line in enumerate(lines):
        y, (mean, error) = 28 + 24 * i, line["accuracy"]
        colour = {"with": "#0072b2", "stat": "#d55e00"}.get(line["way"][:4], "#555")
        parts.append(f'<text x="230" y="{y + 4}" text-anchor="end">{WAYS[line["way"]]}</text>')
        parts.append(f'<path d="M{x(mean - 2 * error):.1f} {y}H{x(mean + 2 * error):.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x(mean):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    parts.append(
        f'<text x="440" y="{bottom + 34}" text-anchor="middle">test accuracy %, ± 2 standard errors</text></svg>'
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Run what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each way [%(default)s]")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="some of them only")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the results [build/rs2-digits/runs]")
    parser.add_argument("--picture", type=Path, help="where to draw the result, as SVG")
    given = parser.parse_args()
    torch.set_num_threads(1)  # so small a network is not made faster by more
    lines = summary(list(runs(range(given.seeds), given.ways, given.runs)))
    print(table(lines))
    if given.picture is not None:
        given.picture.write_text(picture(lines), "utf-8")


if __name__ == "__main__":
    main()
