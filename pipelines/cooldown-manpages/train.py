"""Trains a small language model on bytes by each schedule of the recipe, and says how each language fares.

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
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

import curation

HERE = Path(__file__).resolve().parent
RUNS = HERE.parents[1] / "build" / "cooldown-manpages"

WAYS = {"tau_1": "τ = 1", "scalarized": "τ = 1, loss weighted as τ = 5", "tau_5": "τ = 5", "cooldown": "Cooldown 5 → 1"}
COLOURS = {"tau_1": "#555", "scalarized": "#e69f00", "tau_5": "#d55e00", "cooldown": "#0072b2"}
LANGUAGES = ("de", "fr", "pl", "es", "it", "pt-br", "nl", "da")
"""From the most rows to the fewest."""

ROW_BYTES = 128
USUAL_BYTES = 100.0
"""What a row's loss is divided by: one number for all rows, so that weights of rows are weights of the loss."""
LEARNING_RATE, WARMUP = 3e-3, 50
LOOKS = 4
"""Times that the held-out rows are looked at during a run."""
NOISE_BATCHES, NOISE_ROWS = 64, 24

Batch = Mapping[str, NDArray[Any]]


class ByteModel(nn.Module):
    """One recurrent layer over bytes, 166,144 weights: logits of each byte from those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(257, 64)  # 256 stands before the first byte
        self.layer = nn.GRU(64, 160, batch_first=True)
        self.out = nn.Linear(160, 256)

    def forward(self, before: torch.Tensor) -> torch.Tensor:
        """Logits (rows, bytes, 256) from the bytes before, (rows, bytes)."""
        logits: torch.Tensor = self.out(self.layer(self.embed(before))[0])
        return logits


def bits(model: nn.Module, texts: Sequence[str]) -> torch.Tensor:
    """Bits that each text costs in all, (rows,)."""
    coded = [np.frombuffer(text.encode()[:ROW_BYTES], np.uint8) for text in texts]
    width = max(map(len, coded))
    target = np.full((len(coded), width), -100, np.int64)  # the number that torch leaves out of a loss
    for row, values in enumerate(coded):
        target[row, : len(values)] = values
    before = np.concatenate([np.full((len(coded), 1), 256), target.clip(0)[:, :-1]], axis=1)
    logits = model(torch.from_numpy(before))
    lost = nn.functional.cross_entropy(logits.transpose(1, 2), torch.from_numpy(target), reduction="none")
    return lost.sum(dim=1) / math.log(2)


def objective(model: nn.Module, batch: Batch, weights: Mapping[Any, float]) -> torch.Tensor:
    """Mean over the rows of a batch of their loss times the weight of their language."""
    by_row = torch.tensor([weights.get(language, 1.0) for language in batch["language"]])
    return (by_row * bits(model, batch["text"])).mean() / USUAL_BYTES


def weights_of(flat: curation.feed.Plan, wanted: curation.feed.Plan) -> dict[Any, float]:
    """Weights under which the shares of one plan give the expected loss of another's."""
    have, want = flat.shares(0), wanted.shares(0)
    return {group: want[group] / have[group] for group in have}


def bits_per_byte(model: nn.Module, rows: pl.DataFrame) -> dict[str, float]:
    """Bits per byte of the rows of each language."""
    found = {}
    with torch.no_grad():
        for language in LANGUAGES:
            texts = rows.filter(language=language)["text"].to_list()
            total = sum(float(bits(model, texts[i : i + 64]).sum()) for i in range(0, len(texts), 64))
            found[language] = total / sum(len(text.encode()) for text in texts)
    return found


def train(
    build: curation.Build,
    held_out: pl.DataFrame,
    *,
    seed: int,
    weights: Mapping[Any, float] | None = None,
    max_steps: int | None = None,
    halfway: Any = None,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Train along the plan of a build.

    Parameters
    ----------
    build
        Rows and plan.
    held_out
        Rows to look at a few times.
    seed
        Of the first weights of the model.
    weights
        Weight of the loss by language; None is 1.
    max_steps
        Steps to take; None is the whole plan.
    halfway
        Called with the model in the middle of the training.

    Returns
    -------
    model
    curve
        Bits per byte of the held-out rows by language, at ``LOOKS`` steps.
    """
    torch.manual_seed(seed)
    model = ByteModel()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    last = max_steps or build.plan.n_steps
    looks = {last * i // LOOKS for i in range(1, LOOKS + 1)}
    curve = []
    loader = build.loader(columns=["language", "text"])
    for step in range(last):
        warm = min(1.0, (step + 1) / WARMUP)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warm * (1 + math.cos(math.pi * step / last)) / 2
        loss = objective(model, next(loader), weights or {})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in looks:
            curve.append({"step": step + 1, "held_out": bits_per_byte(model, held_out)})
        if step + 1 == last // 2 and halfway is not None:
            halfway(model)
    return model, curve


def gradient(model: nn.Module, batch: Batch, weights: Mapping[Any, float]) -> torch.Tensor:
    """Gradient of the objective in one vector."""
    model.zero_grad()
    objective(model, batch, weights).backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


def spread_of(gradients: Sequence[torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Sum of the variances of all entries, and the mean."""
    stacked = torch.stack(list(gradients)).double()
    mean = stacked.mean(dim=0)
    return float(((stacked - mean) ** 2).sum()) / (len(stacked) - 1), mean


def gradient_noise(model: nn.Module, flat: curation.Build, hot: curation.Build) -> dict[str, float]:
    """Variance of the gradient under weights over that under temperature, for one and the same expected loss.

    Returns
    -------
    dict
        ``measured``: from batches of both plans. ``rows``: what independent draws of single rows would give, from the
        squared norms of the gradients of each language. ``norm``: F(τ) = Σ p(τ)² / p(1), which is what would hold if
        those norms were equal and the mean gradient 0.
    """
    weights = weights_of(flat.plan, hot.plan)
    p_1, p_5 = flat.plan.shares(0), hot.plan.shares(0)
    columns = ["language", "text"]
    spreads, means = [], []
    for build, by_language in ((flat, weights), (hot, {})):
        batches = build.loader(columns=columns)
        spread, mean = spread_of([gradient(model, next(batches), by_language) for _ in range(NOISE_BATCHES)])
        spreads.append(spread)
        means.append(mean)
    rows = flat.table().select(columns).collect()
    squares = {}
    for language in LANGUAGES:
        some = rows.filter(language=language).head(NOISE_ROWS)
        single = ({name: some[name].to_numpy()[i : i + 1] for name in columns} for i in range(some.height))
        squares[language] = float(np.mean([float((gradient(model, row, {}) ** 2).sum()) for row in single]))
    of_mean = float(means[0] @ means[1])  # of two independent estimates, so that noise does not add to it
    by_weight = sum(p_5[each] ** 2 / p_1[each] * squares[each] for each in LANGUAGES)
    by_share = sum(p_5[each] * squares[each] for each in LANGUAGES)
    return {
        "measured": spreads[0] / spreads[1],
        "rows": (by_weight - of_mean) / (by_share - of_mean),
        "norm": sum(p_5[each] ** 2 / p_1[each] for each in LANGUAGES),
    }


def run(way: str, seed: int, outputs: Mapping[str, curation.Build]) -> dict[str, Any]:
    """Result of one training."""
    began = time.perf_counter()
    build = outputs["tau_1" if way == "scalarized" else way]
    found: dict[str, Any] = {"way": way, "seed": seed, "steps": build.plan.n_steps}
    weights = None
    if way == "scalarized":
        weights = weights_of(build.plan, outputs["tau_5"].plan)

    def look_at_gradients(model: nn.Module) -> None:
        if way == "scalarized":
            found["variance_ratio"] = gradient_noise(model, build, outputs["tau_5"])

    held_out = outputs["held_out"].table().select("language", "text").collect()
    model, found["curve"] = train(build, held_out, seed=seed, weights=weights, halfway=look_at_gradients)
    trained = build.table().select("language", "text").collect()
    some = pl.concat([trained.filter(language=language).head(250) for language in LANGUAGES])
    found["trained"] = bits_per_byte(model, some)
    found["draws"] = draws(build)
    found["seconds"] = round(time.perf_counter() - began, 1)
    return found


def draws(build: curation.Build) -> dict[str, float]:
    """How often a row of each language is seen, on average."""
    languages = build.table().select("language").collect()["language"]
    seen = languages.gather(build.plan.draws(0, build.plan.n_draws)).value_counts()
    per_language = dict(zip(*seen.to_dict(as_series=False).values(), strict=True))
    return {each: per_language.get(each, 0) / int((languages == each).sum()) for each in LANGUAGES}


def runs(seeds: Sequence[int], ways: Sequence[str], folder: Path, epochs: int) -> Iterator[dict[str, Any]]:
    """Results of all runs; only those that are not in the folder are computed."""
    changes = [f"outputs.{name}.feed.epochs={epochs}" for name in ("tau_1", "tau_5", "cooldown")]
    for seed in seeds:
        files = {way: folder / f"{way}-{seed}.json" for way in ways}
        if not all(file.is_file() for file in files.values()):
            outputs = curation.build(HERE / "recipe.yaml", overrides=[f"seed={seed}", *changes]).outputs
        for way, file in files.items():
            if not file.is_file():
                found = run(way, seed, outputs)
                folder.mkdir(parents=True, exist_ok=True)
                file.with_suffix(".tmp").write_text(json.dumps(found) + "\n", "utf-8")
                file.with_suffix(".tmp").replace(file)
                print(way, seed, found["curve"][-1]["held_out"], f"{found['seconds']} s", flush=True)
            yield json.loads(file.read_text("utf-8"))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def at_end(found: Mapping[str, Any], language: str) -> float:
    """Held-out bits per byte of a language when the training ends."""
    return float(found["curve"][-1]["held_out"][language])


def tables(results: Sequence[Mapping[str, Any]]) -> str:
    """Held-out loss, what training rows cost less, and the ratios of variances, as tables of Markdown."""
    by_way = {way: [each for each in results if each["way"] == way] for way in WAYS}
    by_way = {way: found for way, found in by_way.items() if found}
    header = f"| | {' | '.join(LANGUAGES)} | mean |\n| --- |{' --- |' * (len(LANGUAGES) + 1)}"
    hot = {each["seed"]: each for each in by_way.get("tau_5", ())}

    def apart(each: Mapping[str, Any], language: str) -> float:
        return at_end(each, language) - at_end(hot[each["seed"]], language) if each["seed"] in hot else math.nan

    kinds = {
        "Held-out bits per byte, mean ± standard error": at_end,
        "Minus that of τ = 5 with the same seed": apart,
        "Held-out minus trained, bits per byte": lambda each, language: (
            at_end(each, language) - each["trained"][language]
        ),
        "Times that a row is seen": lambda each, language: each["draws"][language],
    }
    parts = []
    for title, value in kinds.items():
        parts += [f"{title}:\n", header]
        for way, found in by_way.items():
            cells = [mean_and_error([value(each, language) for each in found]) for language in LANGUAGES]
            cells.append(mean_and_error([float(np.mean([value(each, x) for x in LANGUAGES])) for each in found]))
            shown = [
                f"{mean:.3f} ± {error:.3f}" if value in (at_end, apart) else f"{mean:.2f}" for mean, error in cells
            ]
            parts.append(f"| {WAYS[way]} | {' | '.join(shown)} |")
        parts.append("")
    ratios = [each["variance_ratio"] for each in by_way.get("scalarized", ())]
    for name in ratios[0] if ratios else ():
        parts.append(
            "variance ratio, {}: {:.2f} ± {:.2f}".format(name, *mean_and_error([each[name] for each in ratios]))
        )
    return "\n".join(parts)


def picture(results: Sequence[Mapping[str, Any]]) -> str:
    """Held-out loss of each language during training, a small drawing each: mean of the seeds."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 430" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for number, language in enumerate(LANGUAGES):
        left, top = 45 + 180 * (number % 4), 30 + 185 * (number // 4)
        curves = {}
        for way in WAYS:
            found = [each["curve"] for each in results if each["way"] == way]
            if found:
                curves[way] = [
                    (looks[0]["step"], float(np.mean([each["held_out"][language] for each in looks])))
                    for looks in zip(*found, strict=True)
                ]
        values = [value for curve in curves.values() for _, value in curve]
        low, high = min(values) - 0.05, max(values) + 0.05
        steps = max(step for curve in curves.values() for step, _ in curve)
        parts.append(f'<rect x="{left}" y="{top}" width="130" height="135" fill="none" stroke="#bbb"/>')
        parts.append(f'<text x="{left + 65}" y="{top - 8}" text-anchor="middle" font-weight="bold">{language}</text>')
        for value in (low, high):
            y = top + 135 * (high - value) / (high - low)
            parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end" font-size="10">{value:.2f}</text>')
        for way, curve in curves.items():
            points = " ".join(
                f"{left + 130 * step / steps:.1f},{top + 135 * (high - value) / (high - low):.1f}"
                for step, value in curve
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[way]}" stroke-width="2"/>')
    for way, x in zip(WAYS, (45, 150, 410, 520), strict=True):
        parts.append(f'<path d="M{x} 405h24" stroke="{COLOURS[way]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 30}" y="409" font-size="11">{WAYS[way]}</text>')
    parts.append(
        '<text x="380" y="425" text-anchor="middle">held-out bits per byte over the steps of training</text></svg>'
    )
    return "\n".join(parts) + "\n"


def main() -> None:
    """Run what is missing, then write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way [%(default)s]")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="some of them only")
    parser.add_argument("--epochs", type=int, default=1, help="times as many rows as there are [%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch [%(default)s]")
    parser.add_argument("--picture", type=Path, help="where to draw the result, as SVG")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = list(runs(range(given.seeds), given.ways, RUNS / f"runs-{given.epochs}", given.epochs))
    print(tables(results))
    if given.picture is not None:
        given.picture.write_text(picture(results), "utf-8")


if __name__ == "__main__":
    main()
