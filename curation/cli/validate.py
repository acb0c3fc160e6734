"""``curate validate``: check a recipe against its data without computing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from curation.cli import options
from curation.cli.session import count, shown
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.flow.inputs import BoundInput


@click.command(
    "validate", cls=Exampled, short_help="Check a recipe against its data.", examples=("curate validate recipe.yaml",)
)
@options.recipe_argument
@options.set_option
@options.plugin_option
def command(recipe: str, overrides: tuple[str, ...], allow_plugins: bool) -> None:
    """Check RECIPE against its data: keys, files, columns, types and SQL; all problems are shown in one go."""
    from curation.api import read_recipe
    from curation.flow.bind import bind
    from curation.io.location import location_of

    notes: list[str] = []
    bound = bind(read_recipe(recipe, overrides=overrides, allow_plugins=allow_plugins), note=notes.append)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    inputs = ", ".join(f"{name} {_rows(each)}" for name, each in bound.inputs.items())
    outputs = ", ".join(f"{name} in {shown(location_of(each.path))}" for name, each in bound.outputs.items())
    click.echo(f"{recipe}: OK: {inputs} → {count(len(bound.graph.steps), 'stage')} → {outputs}")


def _rows(bound: BoundInput) -> str:
    """Rows of an input, or its files where rows are counted only as they are read."""
    return count(len(bound.files), "file") if bound.batches else count(bound.rows, "row")
