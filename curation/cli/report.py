"""``curate report``: the page about a finished build."""

from __future__ import annotations

from pathlib import Path

import click

from curation.cli import options
from curation.cli.session import shown
from curation.cli.verb import Exampled
from curation.errors import CurationError


@click.command(
    "report",
    cls=Exampled,
    short_help="Write the page about a finished build anew.",
    examples=("curate report build/digits --open",),
)
@options.output_argument
@click.option("--open", "open_it", is_flag=True, help="Show it in the browser.")
def command(out: str, open_it: bool) -> None:
    """Write the page about the build in OUT anew and print its path."""
    from curation.explain import input_files
    from curation.io.location import local, location_of
    from curation.io.manifest import read_manifest
    from curation.report.page import write_report

    manifest = read_manifest(location_of(out))
    path = manifest.path("report")
    if path is None:
        raise CurationError(f"{out}: the build has no report; build again")
    write_report(path, manifest, input_files(manifest))
    click.echo(shown(path))
    if open_it:
        click.launch(str(local(path).resolve()), wait=not isinstance(path, Path))  # a copy goes when we end
