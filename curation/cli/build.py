"""``curate build``: make the result of a recipe, unless it stands there already."""

from __future__ import annotations

from typing import Any

import click

from curation.cli import options
from curation.cli.session import Session, count, duration, shown
from curation.cli.verb import Exampled


@click.command(
    "build",
    cls=Exampled,
    short_help="Build the result of a recipe.",
    examples=(
        "curate build recipe.yaml",
        "curate build recipe.yaml --workers 8 --memory 4GB --set stages.rare.k=7",
        "curate build recipe.yaml --sample 0.01 --out /tmp/look",
    ),
)
@options.recipe_argument
@options.worker_options
@options.place_options
@options.set_option
@options.sample_option
@options.plugin_option
@click.option("--force", is_flag=True, help="Throw earlier work away and build anew.")
@click.option("--verify-inputs", is_flag=True, help="Recognise input files by all their bytes.")
@click.option("--json", "as_json", is_flag=True, help="Write progress and result as JSON lines.")
@click.pass_obj
def command(session: Session, /, recipe: str, out: str | None, as_json: bool, **given: Any) -> None:
    """Build the result of RECIPE.

    Can be run again at any time: what is finished is not done twice, and a build that stands there already is left
    as it is. A build that fails leaves the old result as it was.
    """
    if given["workers"] is not None and given["scheduler"] is not None:
        raise click.UsageError("--workers starts processes, --scheduler uses running ones; give one of them")
    session.json = as_json
    session.partial = "finished work is kept, run the same command again to go on"
    if as_json:
        from curation import __version__

        session.emit("start", recipe=recipe, version=__version__)
    else:
        click.echo(f"building {recipe}", err=True)
    _build(session, recipe, out, given)


def _build(session: Session, recipe: str, out: str | None, given: dict[str, Any]) -> None:
    from curation.api import read_recipe
    from curation.cli.progress import progress

    plugins = given.pop("allow_plugins")
    loaded = read_recipe(recipe, overrides=given.pop("overrides"), out=out, allow_plugins=plugins)
    with progress(session) as events:  # before the engine is imported, so that something moves
        from curation.flow.build import BuildOptions, build
        from curation.io.location import work_at

        work = given.pop("work")
        run_options = BuildOptions(work=work_at(work), **given)
        result = build(loaded, run_options, events)
    if session.json:
        _emit(session, result)
    else:
        _show(result)


def _emit(session: Session, result: Any) -> None:
    outputs = {
        name: {
            "path": str(manifest.root),
            "rows": manifest.rows,
            "shards": len(manifest.shards),
            "build_id": manifest.build_id,
            "data_fingerprint": manifest.content["data_fingerprint"],
            "report": str(manifest.path("report")),
        }
        for name, manifest in result.manifests.items()
    }
    session.emit("done", fresh=result.fresh, seconds=round(result.seconds, 3), outputs=outputs)


def _show(result: Any) -> None:
    manifests = list(result.manifests.values())
    first = manifests[0]
    places = [f"{count(m.rows, 'row')} in {shown(m.root)}" for m in manifests]
    if not result.fresh:
        click.echo(f"up to date: {', '.join(places)}")
        return
    rows = count(sum(manifest.rows for manifest in manifests), "row")
    click.secho(f"built {first.content['name']}: {rows} in {duration(result.seconds)}", fg="green")
    for manifest, place in zip(manifests, places, strict=True):
        click.echo(f"  {place}" if len(manifests) == 1 else f"  {manifest.content['output']}: {place}")
        click.echo(f"    report: {shown(manifest.path('report') or manifest.root)}")
