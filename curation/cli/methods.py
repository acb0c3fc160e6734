"""``curate methods``: what a recipe can use."""

from __future__ import annotations

import sys

import click

from curation.cli.session import table
from curation.cli.verb import Exampled
from curation.errors import RecipeError


@click.command(
    "methods",
    cls=Exampled,
    short_help="List the methods, or show the card of one.",
    examples=(
        "curate methods",
        "curate methods smote",
    ),
)
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the methods that a recipe can use, or show the card of NAME with its options."""
    if name is None:
        _list()
    else:
        _card(name)


def _list() -> None:
    from curation.methods import METHODS, STAGES, params_of
    from curation.plugins import installed

    rows = []
    for name in METHODS:
        shape = params_of(name).shape if name in STAGES else "plan"
        rows.append([name, shape, _sentence(name)])
    foreign = [(name, origin) for name, origins in installed().items() if name not in METHODS for origin in origins]
    rows += [[name, "plug-in", f"of {origin}, with --allow-plugins"] for name, origin in foreign]
    table(["method", "shape", "what it does"], rows)
    click.echo("\nshape: map (one pass), fit (counts first), artifact (an index first), plan (under `feed:`)")


def _card(name: str) -> None:
    from curation.methods import METHODS, params_of

    if name not in METHODS:
        from curation.plugins import installed
        from curation.recipe.source import nearest

        for origin in installed().get(name, ()):
            raise RecipeError(f"methods: {name!r} is a plug-in of {origin}; its package describes it")
        raise RecipeError(f"methods: no method is called {name!r}; {nearest(name, METHODS)}")
    card = _text(name).rstrip()
    options = [
        f"| `{key}` | {_default(field)} | {(field.description or '').replace('|', chr(92) + '|')} |"
        for key, field in params_of(name).model_fields.items()
    ]
    if options:
        card += "\n\n## Options\n| option | default | meaning |\n| --- | --- | --- |\n" + "\n".join(options)
    if not sys.stdout.isatty():
        click.echo(card)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(card))


def _default(field: object) -> str:
    from pydantic.fields import FieldInfo

    assert isinstance(field, FieldInfo)
    if field.is_required():
        return "required"
    return "" if field.default is None else f"`{field.default}`"


def _text(name: str) -> str:
    """Card of a method; its docstring while it has none."""
    from importlib.resources import files

    path = files("curation.methods").joinpath("cards", f"{name}.md")
    return path.read_text("utf-8") if path.is_file() else f"# {name}\n\n## What\n{_module_sentence(name)}\n"


def _sentence(name: str) -> str:
    """First sentence of the card."""
    lines = _text(name).partition("## What\n")[2].partition("\n##")[0].split("\n\n")[0].split()
    return " ".join(lines).split(". ")[0].rstrip(".")


def _module_sentence(name: str) -> str:
    from importlib import import_module

    from curation.methods import METHODS

    return (import_module(METHODS[name].partition(":")[0]).__doc__ or "").strip().splitlines()[0]
