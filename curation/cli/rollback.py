"""``curate rollback``: back to a generation that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from curation.cli import options
from curation.cli.session import count, shown, table
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.io.location import Location
    from curation.io.manifest import Manifest


@click.command(
    "rollback",
    cls=Exampled,
    short_help="Go back to the generation before.",
    examples=(
        "curate rollback build/digits --list",
        "curate rollback build/digits",
        "curate rollback build/digits --to 0123456789abcdef",
        "curate rollback s3://bucket/digits",
    ),
)
@options.output_argument
@click.option("--to", metavar="BUILD_ID", help="A generation that stands, older or newer [the one before].")
@click.option("--list", "only_list", is_flag=True, help="Only list the generations that stand.")
def command(out: str, to: str | None, only_list: bool) -> None:
    """Make the generation before the current one the current one of OUT again.

    The output's `keep` says how many generations stand beside the current one. Nothing is deleted, and a second
    rollback goes further back. The next build of the unchanged recipe publishes its own result again.
    """
    from curation.io.location import location_of

    root = location_of(out)
    if only_list:
        if to is not None:
            raise click.UsageError("expected --list or --to, got both")
        _list(root)
        return
    from curation.rollback import rollback

    before, now = rollback(root, to)
    if now.build_id == before.build_id:
        click.echo(f"{shown(root)}: generation {now.build_id} is the current one already")
        return
    click.echo(f"{shown(root)}: the current generation is now {_described(now)}")
    click.echo(f"  {_described(before)} stays; `curate rollback {shown(root)} --to {before.build_id}` brings it back")
    _note_others(before)


def _list(root: Location) -> None:
    from curation.rollback import generations_of

    rows = [
        ["*" if each.current else "", each.build_id, each.finished, f"{each.rows:,}", each.recipe]
        for each in generations_of(root)
    ]
    table(["", "build", "finished", "rows", "recipe"], rows, right=(3,))


def _described(manifest: Manifest) -> str:
    from curation.io.manifest import run_of

    finished = run_of(manifest).get("finished")
    built = f", built {finished}" if finished else ""
    return f"{manifest.build_id} (recipe '{manifest.content['name']}', {count(manifest.rows, 'row')}{built})"


def _note_others(before: Manifest) -> None:
    from curation.explain import siblings

    own = str(before.content["output"])
    others = [name for name in siblings(before) if name != own]
    if others:
        click.echo(f"note: of the same build, {', '.join(others)} stays as it is; roll it back, too", err=True)
