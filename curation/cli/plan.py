"""``curate plan``: what a build would need; computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from curation.cli import options
from curation.cli.session import count, shown, size, table
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.flow.bind import Bound
    from curation.flow.build import BuildOptions
    from curation.io.location import Location


@click.command(
    "plan",
    cls=Exampled,
    short_help="Show what a build would need.",
    examples=("curate plan recipe.yaml --workers 4 --memory 2GB",),
)
@options.recipe_argument
@options.worker_options
@options.place_options
@options.set_option
@options.sample_option
@options.plugin_option
def command(recipe: str, overrides: tuple[str, ...], out: str | None, allow_plugins: bool, **given: Any) -> None:
    """Show the passes of a build of RECIPE with upper bounds of rows, jobs, memory and disk; compute nothing.

    Ends with exit code 3 if the build would be refused.
    """
    from curation.api import read_recipe
    from curation.engine.executor import IDLE_BYTES
    from curation.flow.bind import bind
    from curation.flow.build import BuildOptions, work_folder
    from curation.flow.estimate import estimate, refuse
    from curation.io.location import location_of, work_at

    loaded = read_recipe(recipe, overrides=overrides, out=out, allow_plugins=allow_plugins)
    work = given.pop("work")
    run = BuildOptions(work=work_at(work), **given)
    bound = bind(loaded, sample=run.sample)
    lines = estimate(bound)
    workers, sharing, memory = _surroundings(bound, run)
    rows = [
        [line.phase, f"{line.rows:,}", f"{line.jobs:,}", size(IDLE_BYTES + line.memory * sharing), size(line.disk)]
        for line in lines
    ]
    table(["pass", "rows ≤", "jobs", "memory ≤", "disk ≤"], rows, right=(1, 2, 3, 4))
    targets = [location_of(each.path) for each in bound.outputs.values()]
    folder = work_folder(loaded, run)
    click.echo(f"\n{workers}, {size(memory)} allowed per worker")
    click.echo(f"disk: up to {size(sum(line.disk for line in lines))}, intermediates in {shown(folder)}")
    click.echo(f"result: {', '.join(map(shown, targets))}{_standing(bound, targets)}")
    refuse(lines, memory=memory, sharing=sharing, out=targets[0], work=folder)


def _surroundings(bound: Bound, options: BuildOptions) -> tuple[str, int, int]:
    """Who would do the work, how many tasks share a process, and the memory of one."""
    from curation.flow.build import choose_executor, default_memory

    name, workers = choose_executor(bound, options)
    if name == "threads":
        return count(workers, "thread"), workers, options.memory or default_memory(1)
    who = f"cluster {options.scheduler}" if options.scheduler else count(workers, "process", "processes")
    return who, 1, options.memory or default_memory(workers)


def _standing(bound: Bound, targets: list[Location]) -> str:
    from curation.io.manifest import ManifestError, read_manifest

    try:
        up_to_date = all(read_manifest(path).build_id == bound.build_id for path in targets)
    except ManifestError:
        up_to_date = False
    return " (up to date)" if up_to_date else ""
