"""Writes the page about a finished build: self-contained, the same for the same build, readable without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import polars as pl
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from curation.io import commits, remote
from curation.io.atomic import dump_json, void, write_atomic
from curation.io.location import Location, RemotePath
from curation.io.manifest import Manifest
from curation.report import draw
from curation.report.facts import Small, Step, Warned, flow, friendly, sentence, warnings
from curation.report.look import Examples, Groups, Histogram, Lineage, Look, Person

T = TypeVar("T")

_ORDER = ("recipe", "name", "use", "from", "path", "key", "seed", "inputs", "stages", "expect", "outputs")


def write_report(path: Location, manifest: Manifest, inputs: Mapping[str, Sequence[Location]] | None = None) -> None:
    """Write the page about a build whose shards, plan and ledger stand already.

    It holds no time, host or speed (those are in ``run.json``) and asks for nothing from elsewhere. Rows are read a few
    at a time; only the columns of groups and of row ids are gone through.

    Parameters
    ----------
    path
        The page; in a store it is uploaded.
    manifest
        What ``manifest.json`` says or will say.
    inputs
        Files of the inputs by name; without them there are no groups "before".
    """
    text = render(manifest, inputs)
    if isinstance(path, RemotePath):
        with TemporaryDirectory() as folder:
            page = Path(folder) / path.name
            page.write_text(text, "utf-8")
            remote.put_file(page, path.url)  # as a file, since its ending tells browsers what it is
        return
    write_atomic(path, lambda to: void(to.write_text(text, "utf-8")), written="meta:published", named="meta:published")
    commits.reached("meta:published")


def render(manifest: Manifest, inputs: Mapping[str, Sequence[Location]] | None = None) -> str:
    """Text of the page: the same before the manifest is written and after it is read."""
    manifest = Manifest(manifest.root, json.loads(dump_json(dict(manifest.content))))
    content = manifest.content
    notes: list[str] = []
    look = Look(manifest, inputs)
    no_groups: tuple[Groups | None, Small] = (None, Small([], 0))
    no_examples: Examples = ([], [])
    groups, small = _tried("groups", look.groups, no_groups, notes)
    names, examples = _tried("examples", look.examples, no_examples, notes)
    steps = flow(manifest)
    largest = max([*(step.into + step.made for step in steps), manifest.rows, 1])
    found = warnings(manifest, steps, small)
    page = {
        "content": content,
        "manifest": manifest,
        "sentence": sentence(manifest, steps),
        "steps": [(step, _band(step, largest, i, len(steps))) for i, step in enumerate(steps)],
        "groups": groups,
        "histograms": _tried("histograms", look.histograms, list[Histogram](), notes),
        "lineages": _tried("lineage", look.lineages, list[Lineage](), notes),
        "gallery": _tried("pictures", look.gallery, list[Person](), notes),
        "columns": names,
        "examples": examples,
        "recipe": _yaml(content["recipe"]),
        "own": {name for name in names if name.startswith("_")},
    }
    page["warnings"] = [*found, *(Warned("note", note) for note in notes)]
    return _template().render(page)


def _tried(part: str, make: Callable[[], T], otherwise: T, notes: list[str]) -> T:
    """A part of the page, whatever its rows hold: one that cannot be drawn becomes a note."""
    try:
        return make()
    except (Exception, pl.exceptions.PanicException) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        notes.append(f"The {part} could not be drawn: {why[0]}")
        return otherwise


def _band(step: Step, largest: int, number: int, steps: int) -> Markup:
    scale = (draw.WIDTH - 4) / largest
    through = step.into - step.lost - max(0, step.aside)
    # new rows may also go aside: then only what reaches the next step is drawn
    made = max(0, step.out - through)
    return draw.band(
        min(through, step.out) * scale,
        step.lost * scale,
        max(0, step.aside) * scale,
        made * scale,
        start=number == 0,
        end=number == steps - 1,
    )


def _yaml(recipe: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(_in_order(friendly(recipe)), sort_keys=False, allow_unicode=True, width=100))


def _in_order(value: Any) -> Any:
    """Keys in the order in which people write a recipe; the manifest sorts them."""
    if isinstance(value, list):
        return [_in_order(each) for each in value]
    if not isinstance(value, dict):
        return value
    known = {key: at for at, key in enumerate(_ORDER)}
    keys = sorted(value, key=lambda key: (known.get(key, len(known)), list(value).index(key)))
    return {key: _in_order(value[key]) for key in keys}


@lru_cache(maxsize=1)
def _template() -> Template:
    folder = files("curation.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["n"] = lambda value: f"{value:,}"
    environment.filters["percent"] = _percent
    environment.filters["bytes"] = _bytes
    environment.globals["css"] = Markup(folder.joinpath("page.css").read_text("utf-8"))
    return environment.from_string(folder.joinpath("page.html").read_text("utf-8"))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else f"{100 * share:.2g}%"


def _bytes(size: int) -> str:
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
