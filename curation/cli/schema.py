"""``curate schema``: the JSON Schema of a recipe."""

from __future__ import annotations

import json

import click


@click.command("schema", short_help="Print the JSON Schema of a recipe.")
def command() -> None:
    """Print the JSON Schema of a recipe, from which editors complete and check.

    \b
    Example:
      curate schema > recipe.schema.json
      # first line of recipe.yaml:  # yaml-language-server: $schema=recipe.schema.json
    """
    from curation.recipe.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))
