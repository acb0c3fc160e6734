"""``curate export``: write rows for trainers that read front to back."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from curation.cli import options
from curation.cli.session import count, shown, size
from curation.cli.verb import Exampled


class Stretch(click.ParamType[tuple[int, int]]):
    """A stretch of epochs or steps, such as 0:3."""

    name = "start:stop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read a stretch."""
        found = re.fullmatch(r"([0-9]+):([0-9]+)", value)
        if found is None:
            self.fail(f"expected START:STOP such as 0:3, got {value!r}", param, ctx)
        return int(found[1]), int(found[2])


@click.command(
    "export",
    cls=Exampled,
    short_help="Write rows for trainers that read front to back.",
    examples=(
        "curate export build/digits --epochs 0:3 --format webdataset --out digits-wds",
        "curate export build/digits --steps 100:200 --format mds --out s3://bucket/digits-mds",
        "curate export build/digits --order stored --format parquet --out digits-parquet",
    ),
)
@options.output_argument
@click.option(
    "--format",
    "format",
    type=click.Choice(("webdataset", "mds", "parquet", "arrow")),
    required=True,
    help="Format of the files.",
)
@click.option("--out", "to", type=click.Path(), required=True, metavar="DIR", help="New folder or URL for the files.")
@click.option("--epochs", type=Stretch(), metavar="A:B", help="Epochs of the plan, A <= epoch < B.")
@click.option("--steps", type=Stretch(), metavar="A:B", help="Steps, counted over the training; of --epochs if given.")
@click.option(
    "--order", type=click.Choice(("plan", "stored")), help="`stored`: every row once, in the order of the shards."
)
@click.option("--columns", metavar="A,B,...", help="Only these columns.")
@click.option("--mark", is_flag=True, help="Add the columns _epoch and _step.")
@click.option("--shard-rows", type=click.IntRange(min=1), metavar="N", help="Rows of a file [about 64 MiB].")
def command(out: str, to: str, columns: str | None, **given: Any) -> None:
    """Write the rows of the build in OUT as files for trainers that read front to back.

    With --epochs or --steps the rows come in the order of the plan, so that a reader that does not shuffle sees what
    the plan says. The folder appears whole, with export.json; a second run of the same command does nothing.
    """
    from curation.export import ExportOptions, export
    from curation.io.location import location_of
    from curation.io.manifest import read_manifest

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    asked = ExportOptions(columns=names, **given)
    done = export(read_manifest(location_of(out)), location_of(to), asked, progress=_Said())
    shards = done.content["shards"]
    what = (
        f"{count(done.content['rows'], 'row')} in {count(len(shards), 'file')} "
        f"({done.content['format']}, {size(sum(each['bytes'] for each in shards))}) in {shown(done.root)}"
    )
    click.echo(f"up to date: {what}" if done.fresh else f"exported {what}")


class _Said:
    """Rows so far: one line that is written over on a terminal, else a line at 10 files, at 100, and so on."""

    def __init__(self) -> None:
        self._files, self._next = 0, 10

    def __call__(self, rows: int) -> None:
        self._files += 1
        text = f"  {count(rows, 'row')} in {count(self._files, 'file')}"
        if sys.stderr.isatty():
            click.echo(f"\r{text} ", nl=False, err=True)
        elif self._files == self._next:
            self._next *= 10
            click.echo(text, err=True)
