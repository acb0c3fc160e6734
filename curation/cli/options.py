"""Options that several verbs take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType[int]):
    """A number of bytes, such as 4GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a size."""
        from curation.api import parse_bytes
        from curation.errors import RecipeError

        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except RecipeError:
            self.fail(f"expected a size such as 4GB, got {value!r}", param, ctx)


def recipe_argument(command: F) -> F:
    """Take ``RECIPE``."""
    return click.argument("recipe", type=click.Path())(command)


def output_argument(command: F) -> F:
    """Take ``OUT``."""
    return click.argument("out", type=click.Path(path_type=str))(command)


def set_option(command: F) -> F:
    """Take ``--set KEY=VALUE``."""
    return click.option(
        "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change the recipe, e.g. stages.rare.k=7."
    )(command)


def plugin_option(command: F) -> F:
    """Take ``--allow-plugins``."""
    return click.option(
        "--allow-plugins", is_flag=True, help="Run stages that are not ours: code of people you trust."
    )(command)


def place_options(command: F) -> F:
    """Take ``--out`` and ``--work``."""
    command = click.option(
        "--work", type=click.Path(), metavar="DIR", help="Where intermediates go [beside the output, or the recipe]."
    )(command)
    return click.option(
        "--out", type=click.Path(), metavar="DIR", help="Folder or URL for the result, not that of the recipe."
    )(command)


def sample_option(command: F) -> F:
    """Take ``--sample``."""
    return click.option(
        "--sample",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        metavar="SHARE",
        help="Take this share of every input's rows, e.g. 0.01; always the same rows.",
    )(command)


def worker_options(command: F) -> F:
    """Take ``--workers``, ``--scheduler`` and ``--memory``."""
    command = click.option(
        "--memory", type=Size(), help="Memory of a worker, e.g. 4GB [80 % of what is free, shared]."
    )(command)
    command = click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, tcp://host:8786.")(command)
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Start N processes [threads for small inputs]."
    )(command)
