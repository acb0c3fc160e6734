"""``curate schema``: the JSON Schema of a recipe."""

from __future__ import annotations

import json

import click

from curation.cli import options
from curation.cli.verb import Exampled


@click.command(
    "schema",
    cls=Exampled,
    short_help="Print the JSON Schema of a recipe.",
    examples=(
        "curate schema > recipe.schema.json",
        "# first line of recipe.yaml:  # yaml-language-server: $schema=recipe.schema.json",
    ),
)
@options.plugin_option
def command(allow_plugins: bool) -> None:
    """Print the JSON Schema of a recipe, from which editors complete and check.

    With --allow-plugins it holds the options of installed plug-ins, too.
    """
    from curation.recipe.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(allow_plugins=allow_plugins), indent=2, ensure_ascii=False))
